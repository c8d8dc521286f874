"""A search in the terms of Ray Tune: its searcher and scheduler, and how it begins or goes on with what is there."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np

from raylens import config
from raylens.cluster import nodes
from raylens.cluster.folders import kept
from raylens.cluster.progress import Progress
from raylens.cluster.recover import Recorded, Recovered, forget_errors, mend_record, recorded
from raylens.config import Run
from raylens.space import Choice, LogUniform, Range, holds


def tuned(trial: Any, run: Run, path: str, space: dict[str, Any], settings: Any, progress: Progress) -> Any:
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
            path,
            inner._tune_config.search_alg,
            concurrent=settings.search_alg.max_concurrent,
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
            tune_config=settings,
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
    # Of a trial's own error, which Tune could not write either.
    except (EOFError, pickle.UnpicklingError) as error:
        raise RuntimeError(
            f"trials failed, and their errors were cut off as they were written to {path}: No space left on device? "
            "the same command goes on once there is room"
        ) from error


def tune_config(run: Run, nested: bool) -> Any:
    """How Ray Tune draws, ranks and stops the trials of a search, `nested` where each has several workers."""
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
