"""How many lenses to expect in the target: estimated from the start's predictions, for methods that want to know."""

from __future__ import annotations

from typing import Any

import numpy as np

from raylens import checkpoint, config
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
    """Whether `run` is to be told an estimate."""
    return run.data.prior == "estimate" and SETTING in config.flat(run)


def estimated(run: Run, data: Any) -> float:
    """The share of lenses in the target by the predictions of the model that `run` starts from; says it. Needs Ray."""
    if run.start is None:
        raise ConfigError(
            "data.prior estimate needs a model to start from; give --start, or method.target_prior"
        )
    import ray

    task = ray.remote(num_cpus=run.scale.cpus, num_gpus=run.scale.gpus, max_retries=2)(_estimate)
    found, other = ray.get(task.remote(run, data))
    print(
        f"share of lenses in the target, estimated: {found.shares[-1]:.4f} [{found.low[-1]:.4f}, "
        f"{found.high[-1]:.4f}] (MLLS), {other:.4f} (BBSE)",
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
