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

from dataclasses import replace
from typing import Any

from raylens import checkpoint, config, find
from raylens.checkpoint import Facts
from raylens.cluster import choice, launch, nodes, tensorboard
from raylens.cluster.board import ORACLE, Board, measure
from raylens.cluster.folders import releases
from raylens.cluster.found import Found, of_result
from raylens.cluster.prior import informed
from raylens.cluster.progress import Progress
from raylens.cluster.training import check_amount, loaded, ready, start_run, trained_start
from raylens.cluster.trial import trainable
from raylens.cluster.tuning import sampler, tune_config, tuned
from raylens.cluster.worker import WORST
from raylens.config import Run
from raylens.data import sets
from raylens.errors import ConfigError
from raylens.health import counted
from raylens.methods.base import Method
from raylens.storage import copy, exists


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
    results = tuned(trial, run, f"{folder}/{name}", space, tune_config(run, nested), progress)
    found = [of_result(run.replace(**result.config), result) for result in results]
    return sorted(found, key=lambda trial: -trial.objective)


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
