"""How many lenses to expect in the target: estimated from the start's predictions, for methods that want to know."""

from __future__ import annotations

from typing import Any

import numpy as np

from raylens import checkpoint, config, find
from raylens.cluster.launch import task_device
from raylens.config import Run
from raylens.errors import ConfigError
from raylens.loop import collect
from raylens.priors import Prior, bbse, estimate

SETTING = "method.target_prior"
LEAST = 1e-4
"""A share of lenses that is estimated is at least this: none at all could not be weighted for."""


def informed(run: Run, data: Any) -> Run:
    """`run` with method.target_prior estimated, where data.prior asks for it and the method has it. Needs Ray.

    `data` is a reference to resident sets, or Streaming. Raises ConfigError when there is no model to estimate from.
    """
    return run.replace(**{SETTING: estimated(run, data)}) if asks(run) else run


def asks(run: Run) -> bool:
    """Whether `run` is to be told an estimate, and it counts."""
    return run.data.prior == "estimate" and SETTING in config.flat(run) and not _idle(run)


def remarks(run: Run) -> list[str]:
    """What a user should know who gives a share of lenses, or asks for an estimate, that changes nothing."""
    name, settings = run.method.name, config.flat(run)
    asked = run.data.prior == "estimate"
    if SETTING not in settings:
        adapts = "target" in find.method(name).streams
        return (
            [f"{name} has no {SETTING}, so none is estimated for it (data.prior)"] if asked and adapts else []
        )
    usual = config.settings(name, run.encoder.name)[SETTING].default
    if asks(run) and settings[SETTING] not in (None, usual):
        return [f"data.prior estimate takes the place of {SETTING} {settings[SETTING]:g}"]
    if not _idle(run) or not (asked or settings[SETTING] is not None):
        return []
    needs = find.method(name).prior_needs
    told = "data.prior estimate" if asked else f"{SETTING} {settings[SETTING]:g}"
    return [
        f"{told} changes nothing that {name} learns, since {needs} is 0{', and none is estimated' if asked else ''}: "
        f"give --{needs} 0.1 with it, or leave it out"
    ]


def _idle(run: Run) -> bool:
    """Whether a prior would change nothing that the method of `run` learns, whatever else is searched."""
    needs = find.method(run.method.name).prior_needs
    return needs is not None and not config.flat(run)[needs] and needs not in config.space(run)


def estimated(run: Run, data: Any) -> float:
    """The share of lenses in the target by the predictions of the model that `run` starts from; says it. Needs Ray."""
    if run.start is None:
        raise ConfigError(
            "data.prior estimate needs a model to start from; give --start, or --target-prior VALUE"
        )
    import ray

    task = ray.remote(num_cpus=run.scale.cpus, num_gpus=run.scale.gpus, max_retries=2)(_estimate)
    found, other = ray.get(task.remote(run, data))
    low, high = found.low[-1], found.high[-1]
    print(
        f"share of lenses in the target, estimated: {found.shares[-1]:.4f} (MLLS), {other:.4f} (BBSE), between "
        f"{min(low, other):.4f} and {max(high, other):.4f}",
        flush=True,
    )
    if not low <= other <= high:
        print(
            f"  warning: BBSE's {other:.4f} lies outside of the interval of MLLS, [{low:.4f}, {high:.4f}]: the domains "
            "differ in more than their shares of lenses, and the estimate may be far off; if you know better, give "
            "--target-prior VALUE",
            flush=True,
        )
    return float(np.clip(found.shares[-1], LEAST, 1 - LEAST))


def _estimate(run: Run, data: Any) -> tuple[Prior, float]:
    """Of the validation images, by the model that the run starts from; no target label is there."""
    device = task_device()
    model = checkpoint.read(run.start).model(device)
    source, target = (data.validation[stream] for stream in ("source", "target"))
    ours = collect(model, source.pixels, None, device=device).logits.astype(np.float64)
    theirs = collect(model, target.pixels, None, device=device).logits.astype(np.float64)
    labels = np.asarray(source.labels)
    return estimate(ours, labels, theirs, seed=run.seed), float(bbse(ours, labels, theirs)[-1])
