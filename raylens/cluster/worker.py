"""What a worker does, in Tune, in Train or in neither: it yields reports, and whoever runs it carries them away."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from raylens import checkpoint, find, health, optim, priors
from raylens.checkpoint import Facts
from raylens.config import Run
from raylens.data.stream import Resident, Split
from raylens.ema import over_workers
from raylens.loop import Diverged, collect, fit, mixtures
from raylens.methods.base import Method
from raylens.models import Model
from raylens.records import Outputs
from raylens.seeds import seed

WORST = -1e9
"""Objective of a trial whose loss or score is not finite: below all that a validator gives."""
BROKEN = "what the model says of the validation images is not finite: lower optimizer.lr"


def scored(objective: float | None) -> str:
    """An objective as it is printed; nothing where none is known."""
    return "" if objective is None else f"{objective:.4f}" if objective > WORST else "diverged"


@dataclass(frozen=True)
class Report:
    """Metrics at a step, and the state to save with them."""

    metrics: dict[str, float | str]
    run: Run
    facts: Facts
    method: Method
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def save(self, folder: str | Path) -> None:
        """Write the checkpoint of this moment."""
        checkpoint.save(
            folder,
            self.run,
            self.facts,
            self.method.result,
            self.metrics,
            method=self.method,
            optimizer=self.optimizer,
            scaler=self.scaler,
            step=int(self.metrics["step"]),
        )


def build(run: Run, facts: Facts) -> Method:
    """The method with its model, the weights drawn from the run's seed or taken from its start."""
    torch.manual_seed(seed(run.seed, "weights"))
    model = checkpoint.start_model(run, facts) if run.start else checkpoint.build_model(run, facts)
    cls = find.method(run.method.name)
    return cls(run.method, model.train(), facts.task(run.task))


def work(
    run: Run,
    facts: Facts,
    data: Resident,
    *,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
    resume: str | Path | None = None,
) -> Iterator[Report]:
    """Train as `run` says, from the checkpoint folder `resume` on if there is one.

    Every worker yields at the same steps. Metrics of validation are in the reports of rank 0 alone. A training whose
    loss is not finite ends with a report that says so, with the objective WORST.
    """
    device = torch.device(device)
    method = build(run, facts).to(device)
    optimizer = optim.build(run.optimizer, method.groups())
    scaler = torch.amp.GradScaler(device.type, enabled=run.fit.precision == "16" and device.type == "cuda")
    start = checkpoint.resume(resume, method, optimizer, scaler) if resume else 0
    replica = method
    trained = any(parameter.requires_grad for parameter in method.parameters())
    if trained and dist.is_available() and dist.is_initialized():
        replica = DistributedDataParallel(method, device_ids=[device] if device.type == "cuda" else None)
    with closing(data.batches(run, type(method), rank=rank, world=world, start=start)) as batches:
        reports = fit(method, replica, batches, run, optimizer, scaler, start=start, rank=rank, device=device)
        try:
            for step, metrics in reports:
                metrics["step"] = step
                found = validate(run, facts, method.result, data, device) if rank == 0 else {}
                metrics.update(found)
                metrics["warnings"] = "; ".join(
                    [
                        *_broken(run, found),
                        *method.symptoms(metrics),
                        *health.collapses(metrics, facts.classes),
                        *health.surprises(metrics, facts.classes),
                    ]
                )
                yield Report(metrics, run, facts, method, optimizer, scaler)
                if world > 1:
                    over_workers(torch.zeros(1, device=device))  # nobody runs ahead of a validation
        except Diverged as error:
            ended = {"step": error.step, "objective": WORST, "warnings": str(error)}
            yield Report(ended, run, facts, method, optimizer, scaler)


def validate(
    run: Run, facts: Facts, model: Model, data: Resident, device: torch.device | str = "cpu"
) -> dict[str, float | str]:
    """Metrics on the source's validation split, and the objective, which reads no label of the target.

    Of a model that says anything that is not finite there is the objective alone, WORST.
    """
    task = facts.task(run.task)
    source = _look(model, data.validation["source"], device, task.judge)
    if not _finite(source):
        return {"objective": WORST}
    found = {f"source/{name}": value for name, value in task.metrics(source.logits, source.labels).items()}
    if "target" not in data.validation:
        score = (
            found[f"source/{task.objective}"]
            if task.objective
            else find.validator(run.search.validator)(source, None)
        )
        found["objective"] = score if math.isfinite(score) else WORST
        return found
    target = replace(_look(model, data.validation["target"], device), prior=priors.told(run))
    if not _finite(target):
        return {"objective": WORST}
    found |= health.watched(source, target)
    if run.search.oracle:
        found["objective"] = found["validator/oracle"] = task.metrics(target.logits, target.labels)["auroc"]
        found["oracle"] = "the objective reads target labels (search.oracle): cheating"
        return found
    mixed = partial(mixtures, model, data.validation["target"].pixels, device)
    target = replace(target, labels=None, mixed=mixed)
    score = find.validator(run.search.validator)(source, target)
    found[f"validator/{run.search.validator}"] = score
    found["objective"] = score if math.isfinite(score) else WORST
    return found


def _broken(run: Run, found: Mapping[str, float | str]) -> Iterator[str]:
    """Why what `validate` found has the objective WORST, if it has."""
    if found == {"objective": WORST}:
        yield BROKEN
    elif found.get("objective") == WORST:
        yield f"search.validator {run.search.validator} says nothing finite of the validation images"


def _finite(said: Outputs) -> bool:
    return bool(np.isfinite(said.logits).all() and np.isfinite(said.features).all())


def _look(model: Model, split: Split, device: torch.device | str, judge: Callable | None = None) -> Outputs:
    return collect(model, split.pixels, split.labels, judge=judge, device=device)
