"""Trainings that are given by name, as the trials of one search on Ray: all run to their end, and none is repeated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from raylens.checkpoint import Facts
from raylens.cluster import launch, nodes
from raylens.cluster.found import Found, of_result
from raylens.cluster.progress import Progress
from raylens.cluster.trial import direct, nested
from raylens.cluster.tuning import tuned
from raylens.config import Run


@dataclass(frozen=True)
class Job:
    """A training: its run, the facts of its data, and a reference to them."""

    run: Run
    facts: Facts
    data: Any


def train(jobs: Mapping[str, Job], folder: str, name: str, *, label: str) -> dict[str, Found]:
    """Train or go on with `jobs`, a trial each, in `folder`/`name`; how they ended, by their names.

    Actors are called `label`_trial.
    """
    from ray import tune
    from ray.tune.schedulers import FIFOScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator

    run = next(iter(jobs.values())).run
    each = {"CPU": run.scale.cpus, **({"GPU": run.scale.gpus} if run.scale.gpus else {})}
    if is_nested := run.scale.workers > 1:
        launch.coordinate()
    trial = tune.with_parameters(_trial(f"{label}_trial"), jobs=dict(jobs))
    trial = tune.with_resources(trial, {"node:__internal_head__": 0.001} if is_nested else each)
    settings = tune.TuneConfig(
        metric="objective",
        mode="max",
        scheduler=FIFOScheduler(),
        search_alg=BasicVariantGenerator(max_concurrent=nodes.concurrent(run)),
        reuse_actors=not is_nested,
        trial_name_creator=lambda trial: trial.config["job"],
        trial_dirname_creator=lambda trial: trial.config["job"],
    )
    progress = Progress([job.run for job in jobs.values()], lambda trial: jobs[trial.config["job"]].run)
    results = tuned(trial, run, f"{folder}/{name}", {"job": tune.grid_search([*jobs])}, settings, progress)
    found = {result.config["job"]: of_result(jobs[result.config["job"]].run, result) for result in results}
    # What failed half-way is nothing to be measured or chosen; the same command trains it on.
    return {name: replace(trial, checkpoint=None) if trial.error else trial for name, trial in found.items()}


def _trial(name: str) -> Callable:
    """The trial function, under a name of its own, so that actors and logs show it."""

    def body(sample: dict[str, str], jobs: Mapping[str, Job]) -> None:
        import ray

        job = jobs[sample["job"]]
        if job.run.scale.workers > 1:
            nested({}, job.run, job.facts, (job.data,))
        else:
            direct({}, job.run, job.facts, ray.get(job.data))

    body.__name__ = body.__qualname__ = name
    return body
