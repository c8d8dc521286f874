"""A search, whole: data, the model to start from, trials under ASHA, the best of them measured on the target's test.

A search lives in one folder, `<storage>/<name>/`, and the same command finds it again: what is finished is not
repeated, what was running goes on from its last checkpoint.

    run.yaml           every setting of the search
    start/             checkpoint of the model that trials start from, where the method needs one; start-trial/ made it,
                       or start-workers/ where the search had a part of the data
    trials/            Ray Tune's own: a folder a trial, with checkpoints, result.json and TensorBoard events; record/
                       has copies of its record
    average-of-N/      the average of the trials that took the most steps, unless the search had a part of the data
    whole-TRIAL/       the chosen trial's training on all of the data, where it had
    best/              the checkpoint that was chosen, or the start if none is released (of a pretraining, which has no
                       start, nothing, and the search fails); the runners-up are in kept/
    leaderboard.csv    every trial, and the baselines
    test.json          every metric on the target's test split of those that were measured there
    tensorboard/       images and features of best/, for TensorBoard
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from raylens import checkpoint, config, find
from raylens.checkpoint import Facts
from raylens.cluster import choice, launch, nodes, tensorboard
from raylens.cluster.board import ORACLE, Board, measure
from raylens.cluster.folders import addressed, kept, releases
from raylens.cluster.prior import informed
from raylens.cluster.progress import Progress
from raylens.cluster.recover import Recorded, Recovered, forget_errors, mend_record, recorded
from raylens.cluster.training import check_amount, loaded, ready, start_run, trained_start
from raylens.cluster.trial import trainable
from raylens.cluster.worker import WORST
from raylens.config import Run
from raylens.data import sets
from raylens.errors import ConfigError
from raylens.health import COLLAPSED, counted
from raylens.methods.base import Method
from raylens.space import Choice, LogUniform, Range, holds
from raylens.storage import copy, exists


@dataclass(frozen=True)
class Found:
    """A trial as it ended: its settings, its last metrics and its last checkpoint."""

    trial: str
    run: Run
    objective: float
    steps: int
    metrics: dict[str, Any]
    checkpoint: str | None
    error: str | None
    agreement: float | None = None
    """With all the trials that took the most steps, if it is one of them and was asked; see raylens/ensemble.py."""
    refused: str | None = None
    """Why it is not released."""
    averaged: int = 0
    """Of how many trials it is the average; then its settings are those of the first of them."""
    kept: str | None = None
    """Where its checkpoint was copied to, of those that are kept."""


@releases
def search(run: Run) -> str:
    """Search `run`'s space; prints the leaderboard and returns the folder of the best checkpoint."""
    import ray

    method = find.method(run.method.name)
    pretrains = run.task.name == "pretraining"
    streams = sets.streams(run, method)
    if _alone(run, method):
        run = run.replace(**{"data.test": run.data.test or run.data.source})
    elif not pretrains:
        streams = tuple(dict.fromkeys((*streams, "target")))
    if not config.space(run):
        raise ConfigError(
            f"nothing to search: {run.method.name} has no ranges; give search.space, or use raylens.train"
        )
    run, facts = ready(run, method, streams, search=True, test=not pretrains)
    folder = f"{run.storage}/{run.title}"
    share = sets.share(run, sets.trained(run, method))
    if share < 1:
        if sets.target_of(run):
            raise ConfigError(
                f"{run.task.name} keeps its images in memory, and data.resident_limit {run.data.resident_limit:g} "
                f"holds {share:.1%} of these; raise it"
            )
        check_amount(run, share >= 1)
        if run.data.mode != "resident":
            nodes.check_room(run, method)
        print(
            f"data: {share:.1%} of the rows resident for the search; the winner trains on all of them",
            flush=True,
        )
    else:
        unheard = "; data.mode streaming is for raylens.train" if run.data.mode == "streaming" else ""
        print(f"data: resident, in memory shared by all trials{unheard}", flush=True)
    data = ray.put(sets.reside(run, sets.streams(run, method), sets.trained(run, method), share=share))
    if method.start and not run.start:
        run = run.replace(start=_start(run, facts, data if share == 1 else None, method.start, folder))
    run = informed(run, data)
    start = run.start if run.start and checkpoint.comparable(run, facts) else None
    gate = choice.gate(run.replace(start=start), data)
    trials = tune(run, facts, data, folder, "trials")
    found = choice.ordered(run, trials, gate, choice.asked(run, data))
    if not choice.ended(found[0]):
        errors = "; ".join(sorted({trial.error or trial.metrics.get("warnings", "") for trial in found}))
        raise RuntimeError(f"no trial of {len(found)} came to an end: {errors}")
    if share < 1 and not found[0].refused:
        if not exists(f"{folder}/leaderboard.csv"):
            Board(run, found, {}).write(folder)  # what is known is not lost if the next step fails
        whole = _whole(found[0], facts, method, folder)
        found = choice.with_whole(found, gate.checked(whole) if gate else whole)
    elif share == 1:
        begun = choice.averaging(run, found, facts, data, f"{folder}/")
        found = choice.with_average(found, begun, gate)
    released = [trial for trial in found if choice.ended(trial) and not trial.refused]
    kept = {trial.trial: _keep(trial, folder, rank) for rank, trial in enumerate(released[: run.search.keep])}
    found = [replace(trial, kept=kept.get(trial.trial)) for trial in found]
    best = f"{folder}/best"
    if not released and run.start:
        copy(run.start, best)
        print(f"no trial is released; {best} is the model that they started from", flush=True)
    measured = {} if pretrains else measure(run, facts, data, [*kept.values()], start)
    board = Board(run, found, measured, gate)
    board.write(folder)
    board.show()
    if not released and not run.start:
        raise RuntimeError(
            f"no trial of {len(found)} is released, and there is no model that they started from: "
            f"{counted([trial.metrics.get('warnings') or '' for trial in found])}; lower optimizer.lr"
        )
    tensorboard.write(run, best, data, f"{folder}/tensorboard")
    oracle = {"oracle": ORACLE} if run.search.oracle else {}
    objective = f"{released[0].objective:.4f}" if released else "none released"
    launch.tell(best=objective, checkpoint=best, **oracle)
    return best


def _alone(run: Run, method: type[Method]) -> bool:
    """Whether there is no target: models are then measured on the source's own test split."""
    given = run.data.source is not None and run.data.target is None
    return given and run.task.name != "pretraining" and method.start is None


def tune(run: Run, facts: Facts, data: Any, folder: str, name: str) -> list[Found]:
    """Run or resume the trials in `folder/name`; the best come first."""
    from ray import tune as ray_tune

    nested = run.scale.workers > 1
    trial = ray_tune.with_parameters(
        trainable(run, f"{run.method.name.replace(':', '_').replace('.', '_')}_trial"),
        run=run,
        facts=facts,
        data=(data,) if nested else data,  # what stands by itself is resolved for each trial
    )
    each = {"CPU": run.scale.cpus, **({"GPU": run.scale.gpus} if run.scale.gpus else {})}
    trial = ray_tune.with_resources(trial, {"node:__internal_head__": 0.001} if nested else each)
    space = {path: sampler(span) for path, span in config.space(run).items()}
    progress = Progress([run] * run.search.trials, lambda trial: run)
    results = tuned(trial, run, f"{folder}/{name}", space, _tune_config(run, nested), progress)
    found = [of_result(run.replace(**result.config), result) for result in results]
    return sorted(found, key=lambda trial: -trial.objective)


def tuned(
    trial: Any, run: Run, path: str, space: dict[str, Any], tune_config: Any, progress: Progress
) -> Any:
    """Ray Tune's results of `trial` over `space`, kept in the folder `path`; goes on with what is there."""
    from ray import tune as ray_tune

    mend_record(path)
    there, *fs = kept(path).values()
    if recorded(path) and ray_tune.Tuner.can_restore(there, *fs):
        print(f"going on with {path}", flush=True)
        forget_errors(path)
        tuner = ray_tune.Tuner.restore(
            there,
            trial,
            resume_unfinished=True,
            resume_errored=True,
            storage_filesystem=fs[0] if fs else None,
        )
        inner = tuner._local_tuner
        again = Recovered(
            inner._tune_config.search_alg,
            concurrent=tune_config.search_alg.max_concurrent,
            retries=run.search.retries,
        )
        inner._run_config.callbacks = [progress, again, Recorded(path)]
        _remember(tuner.get_results(), inner._tune_config.scheduler, progress)
    else:
        storage, _, name = path.rpartition("/")
        pbt = run.search.scheduler == "pbt"
        tuner = ray_tune.Tuner(
            trial,
            param_space=space,
            tune_config=tune_config,
            run_config=ray_tune.RunConfig(
                name=name,
                **kept(storage),
                verbose=0,
                callbacks=[progress, Recorded(path)],
                failure_config=ray_tune.FailureConfig(max_failures=run.search.retries),
                # A trial that pbt copies may be behind by many checkpoints, so it keeps them all.
                checkpoint_config=ray_tune.CheckpointConfig(num_to_keep=None if pbt else 2),
            ),
        )
    try:
        with progress.watched():
            return tuner.fit()
    except (
        EOFError,
        pickle.UnpicklingError,
    ) as error:  # from a trial's own error, which Tune could not write either
        raise RuntimeError(
            f"trials failed, and their errors were cut off as they were written to {path}: No space left on device? "
            "the same command goes on once there is room"
        ) from error


def _tune_config(run: Run, nested: bool) -> Any:
    import optuna
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.basic_variant import BasicVariantGenerator
    from ray.tune.search.optuna import OptunaSearch

    space = config.space(run)
    if run.search.scheduler == "asha":
        scheduler = ASHAScheduler(
            time_attr="step",
            max_t=run.fit.steps + 1,  # at fit.steps it would stop those that are finishing
            grace_period=config.grace(run),
            reduction_factor=run.search.reduction,
        )
    elif run.search.scheduler == "pbt":
        scheduler = PopulationBasedTraining(
            time_attr="step",
            perturbation_interval=run.fit.report_every,
            hyperparam_mutations={
                path: list(span.values) if isinstance(span, Choice) else sampler(span)
                for path, span in space.items()
            },
            custom_explore_fn=lambda sample: {
                path: _inside(space[path], value) for path, value in sample.items()
            },
            synch=False,
        )
    else:
        scheduler = FIFOScheduler()
    first = [first_sample(run, np.random.RandomState(run.seed % 2**32))]
    if run.search.searcher == "tpe":
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        searcher = ConcurrencyLimiter(
            OptunaSearch(seed=run.seed % 2**32, points_to_evaluate=first), nodes.concurrent(run)
        )
    else:
        # A population takes turns on what there is; counted as running, its paused trials would never all start.
        limit = 0 if run.search.scheduler == "pbt" else nodes.concurrent(run)
        searcher = BasicVariantGenerator(
            random_state=run.seed, points_to_evaluate=first, max_concurrent=limit
        )
    return tune.TuneConfig(
        metric="objective",
        mode="max",
        num_samples=run.search.trials,
        scheduler=scheduler,
        search_alg=searcher,
        reuse_actors=not nested,
        trial_name_creator=_name,
        trial_dirname_creator=_name,
    )


def first_sample(run: Run, random: np.random.RandomState) -> dict[str, Any]:
    """The defaults of what is searched; where they lie outside their ranges, draws from these."""
    defaults = config.flat(run)
    return {
        path: defaults[path] if holds(span, defaults[path]) else sampler(span).sample(random_state=random)
        for path, span in config.space(run).items()
    }


def _name(trial: Any) -> str:
    """A short name, and a folder of that name: `adda-3f2a1_00004`."""
    return f"{trial.trainable_name.removesuffix('_trial')}-{trial.trial_id}"


def sampler(span: Range) -> Any:
    """The domain of Ray Tune that a range stands for."""
    from ray import tune

    if isinstance(span, Choice):
        return tune.choice(list(span.values))
    if span.whole:
        return (tune.lograndint if isinstance(span, LogUniform) else tune.randint)(span.low, span.high + 1)
    return (tune.loguniform if isinstance(span, LogUniform) else tune.uniform)(span.low, span.high)


def _inside(span: Range, value: Any) -> Any:
    if isinstance(span, Choice):
        return value
    value = min(max(value, span.low), span.high)
    return round(value) if span.whole else value


def _remember(results: Any, scheduler: Any, progress: Progress) -> None:
    """Tell a resumed search's progress, and ASHA's rungs, which Tune does not save, of what was reported before."""
    from ray.tune.schedulers import ASHAScheduler

    for result in results:
        table = result.metrics_dataframe
        if table is None or "step" not in table:
            continue
        trial = str(table["trial_id"].iloc[-1])
        progress.done[trial] = int(table["step"].max())
        progress.best = max(progress.best, table["objective"].max())
        if (result.metrics or {}).get("done"):
            progress.ended.add(trial)
        if isinstance(scheduler, ASHAScheduler):
            for step, objective in zip(table["step"], table["objective"], strict=True):
                scheduler._brackets[0].on_result(SimpleNamespace(trial_id=trial), int(step), float(objective))


def _whole(trial: Found, facts: Facts, method: type[Method], folder: str) -> Found:
    """The chosen trial, trained anew on all of the data; a row of its own, above the trial's."""
    run = trial.run
    print(f"training {trial.trial} on all of the data, {run.fit.steps} steps", flush=True)
    name = f"whole-{trial.trial}"
    try:
        path = launch.train(run, facts, loaded(run, method), f"{folder}/{name}")
    except launch.TrainingDiverged as error:
        print(f"warning: {name}: {error}", flush=True)
        return replace(trial, trial=name, objective=WORST, checkpoint=None, error=str(error), agreement=None)
    metrics = checkpoint.read(path).metrics
    return replace(
        trial,
        trial=name,
        objective=float(metrics["objective"]),
        steps=run.fit.steps,
        metrics=metrics,
        checkpoint=path,
        error=None,
        agreement=None,
    )


def of_result(run: Run, result: Any) -> Found:
    """A trial of the settings `run` as it ended.

    A nested trial's checkpoint is kept by its own training, and named by its reports. The last checkpoint, not
    the one with the highest objective: a label-free score is noisier from report to report than training is, and a
    trial that got worse should say so.
    """
    metrics, table = dict(result.metrics or {}), result.metrics_dataframe
    if table is not None and "warnings" in table:  # of all reports; a collapse that it came back from is none
        said, last = "; ".join(table["warnings"].dropna().astype(str)).split("; "), str(metrics["warnings"])
        kept = (one for one in said if one and (not one.startswith(COLLAPSED) or one in last))
        metrics["warnings"] = "; ".join(dict.fromkeys(kept))
    if result.checkpoint:
        path = addressed(result.checkpoint.path, run.storage)
    elif path := metrics.get("checkpoint_path"):  # of where the run lay then, which may have been moved since
        path = f"{run.storage}/{run.title}/workers/{path.rpartition('/workers/')[2]}"
    return Found(
        trial=Path(result.path).name,
        run=run,
        objective=float(metrics.get("objective", WORST)),
        steps=int(metrics.get("step", 0)),
        metrics=metrics,
        checkpoint=path,
        error=None if result.error is None else str(result.error).strip().splitlines()[-1],
    )


def _start(run: Run, facts: Facts, data: Any, name: str, folder: str) -> str:
    """The checkpoint that all trials start from: made once for a search, as a search of one trial.

    Without `data`, where the search has a part of it, by a training on all: the winner starts from it too.
    """
    if data is None:
        return trained_start(run, facts, name, folder)
    path = f"{folder}/start"
    if exists(f"{path}/model.safetensors"):
        return path
    first = start_run(run, name)
    print(f"training the {name} model that all trials start from, {first.fit.steps} steps", flush=True)
    (trial,) = tune(first, facts, data, folder, "start-trial")
    if not choice.ended(trial):  # all trials are compared with it: a part of its steps would not do
        reason = trial.error or trial.metrics.get("warnings")
        raise RuntimeError(f"the {name} model to start from was not trained: {reason}")
    copy(trial.checkpoint, path)
    return path


def _keep(trial: Found, folder: str, rank: int) -> str:
    path = f"{folder}/best" if rank == 0 else f"{folder}/kept/{rank + 1}-{trial.trial}"
    copy(trial.checkpoint, path)
    return path
