"""Which model a search releases: told by all of its trials together, and without target labels.

Trials that took the most steps come first: what was stopped on the way was stopped for a reason, and half a training
does not compare with a whole one. All of them started from one model, and a model with the average of their weights
comes before them, if they are two at least. They follow in the order in which they agree with all of them together, if
they are three at least (raylens/ensemble.py). A model that lost more of the source than search.may_lose has come to
harm, whatever else is said of it, and is not released; if that holds for all, the start is, if there is one. What it
lost is told against the start with the target's batch norm: that costs some of the source by itself, more with some
encoders than with others, and does no harm. What all this gives away is measured in docs/results.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from raylens import checkpoint, find, health
from raylens.checkpoint import Facts
from raylens.cluster.found import Found
from raylens.cluster.launch import task_device
from raylens.cluster.worker import WORST, validate
from raylens.config import Run
from raylens.ensemble import agreement, average
from raylens.loop import collect
from raylens.models import adapt_batch_norm
from raylens.storage import copy

Logits = Callable[[list[Found]], list[np.ndarray]]
"""What trials say of the target's validation images, (N, K) each."""


@dataclass(frozen=True)
class Gate:
    """What keeps a model from being released: that it collapsed, or lost the source.

    Of the latter it knows the source AUROC before the model was trained, None where there is none to be lost, and how
    much may be lost.
    """

    start: float | None
    may_lose: float
    adapted: float | None = None
    """Of the start with the target's batch norm."""

    def checked(self, trial: Found) -> Found:
        """`trial` with the reason why it is not released, if there is one, or a warning of what was lost otherwise."""
        if health.COLLAPSED in (trial.metrics.get("warnings") or ""):
            return replace(trial, refused="not released: it collapsed")
        held = trial.metrics.get("source/auroc")
        if held is None or self.start is None or held >= self.start - self.may_lose:
            return trial
        least = self.start if self.adapted is None else min(self.start, self.adapted)
        alone = "" if self.adapted is None else f", {self.adapted:.3f} by batch norm alone"
        lost = f"source AUROC {held:.3f}, {self.start:.3f} before it was trained{alone}"
        if held < least - self.may_lose:
            return replace(trial, refused=f"not released: {lost}")
        warnings = filter(None, [trial.metrics.get("warnings"), lost])
        return replace(trial, metrics={**trial.metrics, "warnings": "; ".join(warnings)})


def gate(run: Run, data: Any) -> Gate | None:
    """The gate of a search that starts from a classifier, which needs Ray; of pretrainings only collapses count.

    None of what starts from nothing, such as `supervised`: what it says of a target that it never saw is no collapse of
    its training. None by the oracle, or without search.may_lose.
    """
    if run.search.may_lose is None or run.search.oracle:
        return None
    if run.task.name == "pretraining":
        return Gate(None, run.search.may_lose)
    if run.start is None or run.task.name != "classification":
        return None
    import ray

    task = ray.remote(num_cpus=run.scale.cpus, num_gpus=run.scale.gpus, max_retries=2)(_source_aurocs)
    first, adapted = ray.get(task.remote(run, data))
    return Gate(first, run.search.may_lose, adapted)


def ordered(run: Run, found: list[Found], gate: Gate | None, logits: Logits) -> list[Found]:
    """`found`, the one to be released first; then those that may be, those that may not, and those that failed."""
    found = [gate.checked(trial) if gate and ended(trial) else trial for trial in found]
    if by_agreement(run):
        found = _agreed(found, logits)
    return sorted(found, key=partial(_place, run), reverse=True)


@dataclass(frozen=True)
class Averaging:
    """An average that is being made: of these trials, in the folder `out`."""

    trials: list[Found]
    out: str
    pending: Any
    """A reference to its metrics."""


def averaging(run: Run, found: list[Found], facts: Facts, data: Any, stem: str) -> Averaging | None:
    """Begin to average the weights of those of `found` that took the most steps, in `stem`average-of-N. Needs Ray.

    None where it is not asked for, or where there is nothing to average.
    """
    trials = _compared(found)
    if run.search.choice != "average" or not by_agreement(run) or not run.start or len(trials) < 2:
        return None
    import ray

    out = f"{stem}average-of-{len(trials)}"
    task = ray.remote(num_cpus=run.scale.cpus, num_gpus=run.scale.gpus, max_retries=2)(_average)
    held = [(trial.trial, trial.checkpoint) for trial in trials]
    return Averaging(trials, out, task.remote(held, facts, data, out))


def with_average(found: list[Found], begun: Averaging | None, gate: Gate | None) -> list[Found]:
    """`found` with the average before all trials; behind those that may be released, if it may not."""
    if begun is None:
        return found
    import ray

    first, metrics = begun.trials[0], ray.get(begun.pending)
    made = replace(
        first,
        trial=begun.out.rpartition("/")[2],
        objective=float(metrics["objective"]),
        metrics=metrics,
        checkpoint=begun.out,
        agreement=None,
        averaged=len(begun.trials),
    )
    return _released_first([gate.checked(made) if gate else made, *found])


def with_whole(found: list[Found], whole: Found) -> list[Found]:
    """`found` and the training on all of the data that stands for its first trial, which had a part; in that order."""
    part = replace(found[0], refused="not released: trained on a part of the data")
    return _released_first([whole, part, *found[1:]])


def _released_first(found: list[Found]) -> list[Found]:
    return sorted(found, key=lambda trial: (not ended(trial), trial.refused is not None))


def ended(trial: Found) -> bool:
    """Whether a trial came to its end, or was stopped early, with a model that did not diverge."""
    return trial.checkpoint is not None and trial.error is None and trial.objective > WORST


def _place(run: Run, trial: Found) -> tuple:
    steps = trial.steps if by_agreement(run) else 0
    agrees = -np.inf if trial.agreement is None else trial.agreement
    return ended(trial), trial.refused is None, steps, agrees, trial.objective


def by_agreement(run: Run) -> bool:
    """Whether the final choice is by steps and agreement, and not by the objective."""
    adapts = "target" in find.method(run.method.name).streams
    return run.search.choice != "objective" and adapts and not run.search.oracle


def asked(run: Run, data: Any) -> Logits:
    """Logits on the target's validation images, by Ray tasks."""

    def ask(found: list[Found]) -> list[np.ndarray]:
        import ray

        task = ray.remote(num_cpus=run.scale.cpus, num_gpus=run.scale.gpus, max_retries=2)(_logits)
        return ray.get([task.remote(trial.checkpoint, data) for trial in found])

    return ask


def _agreed(found: list[Found], logits: Logits) -> list[Found]:
    """`found` with the agreement of those that took the most steps of all that may be released."""
    whole = _compared(found)
    if len(whole) < 3:  # two agree alike
        return found
    scores = dict(zip((trial.trial for trial in whole), agreement(logits(whole)), strict=True))
    return [replace(trial, agreement=scores.get(trial.trial)) for trial in found]


def _compared(found: list[Found]) -> list[Found]:
    """Those that took the most steps of all that may be released."""
    whole = [trial for trial in found if ended(trial) and not trial.refused]
    most = max((trial.steps for trial in whole), default=0)
    return [trial for trial in whole if trial.steps == most]


def _average(trials: Sequence[tuple[str, str]], facts: Facts, data: Any, out: str) -> dict[str, float | str]:
    """Write the average of `trials`, names and checkpoints, as a checkpoint with the first one's settings; its metrics.

    What state its training was in is not there: it may be started from, and not be resumed.
    """
    device, first = task_device(), checkpoint.read(trials[0][1])
    model, steps = first.model(), int(first.metrics["step"])
    model.load_state_dict(average(checkpoint.read(path).model().state_dict() for _, path in trials))
    metrics = {"step": steps, **validate(first.run, facts, model.to(device), data, device)}
    found = [*health.collapses(metrics, facts.classes), *health.surprises(metrics, facts.classes)]
    metrics["warnings"] = "; ".join(found)
    metrics["averaged"] = ", ".join(name for name, _ in trials)
    with tempfile.TemporaryDirectory(prefix="raylens-") as made:
        checkpoint.save(made, first.run, facts, model, metrics, step=steps)
        copy(made, out)
    return metrics


def _logits(path: str, data: Any) -> np.ndarray:
    """Logits (N, K) of a checkpoint on the target's validation images."""
    device = task_device()
    pixels = data.validation["target"].pixels
    return collect(checkpoint.read(path).model(device), pixels, None, device=device).logits


def _source_aurocs(run: Run, data: Any) -> tuple[float, float | None]:
    """AUROC of the model that trials start from on the source's validation images, and by the target's batch norm.

    The second is None for a method that sees no target.
    """
    device, held = task_device(), data.validation["source"]
    found = checkpoint.read(run.start)
    task, model = found.facts.task(run.task), found.model(device)

    def auroc() -> float:
        return float(
            task.metrics(collect(model, held.pixels, None, device=device).logits, held.labels)["auroc"]
        )

    first = auroc()
    if "target" not in find.method(run.method.name).streams:
        return first, None
    adapt_batch_norm(model, data.train["target"].pixels, device=device)
    return first, auroc()
