"""A trial of a search: in the Tune function itself for one worker, a nested TorchTrainer for several.

Both leave the same checkpoints and report the same metrics.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

from raylens.config import Run


def trainable(run: Run, name: str) -> Callable:
    """The trial function for `run`, under its own name, so that actors and logs show it."""
    trial = nested if run.scale.workers > 1 else direct

    def body(sample: dict[str, Any], **given: Any) -> None:
        trial(sample, **given)

    body.__name__ = body.__qualname__ = name
    return body


def direct(sample: dict[str, Any], run: Run, facts: Any, data: Any) -> None:
    """One worker: train here, and report to Tune."""
    from ray import tune

    from raylens.cluster.gauges import Gauges
    from raylens.cluster.launch import quiet
    from raylens.cluster.worker import work

    run = run.replace(**sample)
    quiet(int(run.scale.cpus))
    latest, name = tune.get_checkpoint(), tune.get_context().get_trial_name()
    with (
        tempfile.TemporaryDirectory(prefix="raylens-") as folder,
        Gauges(run.method.name, name) as gauges,
    ):
        resume = latest.to_directory(f"{folder}/resume") if latest else None
        for report in work(run, facts, data, device=_device(run), resume=resume):
            gauges.set(report.metrics)
            began = time.perf_counter()
            with tempfile.TemporaryDirectory(prefix="raylens-") as out:
                report.save(out)
                tune.report(report.metrics, checkpoint=tune.Checkpoint.from_directory(out))
            gauges.saved(time.perf_counter() - began)


def nested(sample: dict[str, Any], run: Run, facts: Any, data: tuple[Any]) -> None:
    """Several workers: a TorchTrainer that reports to this trial. The trial itself holds no CPU.

    `data` is a reference, in a tuple so that Tune hands on the reference and not what it stands for.
    """
    from ray import train, tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from raylens.cluster import launch
    from raylens.cluster.folders import kept
    from raylens.cluster.recover import mend_checkpoints
    from raylens.data.streaming import ended

    run, context = run.replace(**sample), tune.get_context()
    workers = f"{run.storage}/{run.title}/workers"
    mend_checkpoints(f"{workers}/{context.get_trial_id()}")
    # Tune's record may be older than the end of a training, which then has nothing to report any more.
    if last := ended(f"{workers}/{context.get_trial_id()}", run.fit.steps):
        metrics, path = last
        tune.report({**metrics, "checkpoint_path": path})
        return
    TorchTrainer(
        launch.train_worker,
        train_loop_config={
            "run": run,
            "facts": facts,
            "data": data[0],
            "label": context.get_trial_name(),
        },
        scaling_config=launch.scaling(run),
        run_config=train.RunConfig(
            name=context.get_trial_id(),  # found again by a trial that resumes
            **kept(workers),
            logging_config=train.LoggingConfig(log_level="WARNING"),
            # Tune tries again. If Train did, a trial that is being stopped could reserve new workers, for nobody.
            failure_config=train.FailureConfig(max_failures=0),
            checkpoint_config=train.CheckpointConfig(num_to_keep=2),
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def _device(run: Run) -> str:
    import torch

    return "cuda" if run.scale.gpus != 0 and torch.cuda.is_available() else "cpu"
