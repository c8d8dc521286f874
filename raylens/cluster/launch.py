"""Ray is reached and left, told what runs, and a Run becomes a TorchTrainer."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from raylens import progress
from raylens.cluster.folders import addressed, kept
from raylens.cluster.nodes import gpus
from raylens.config import Run
from raylens.errors import ConfigError
from raylens.storage import filesystem

_reached = False


def connect(*, dashboard: bool = True, **metadata: str) -> None:
    """Reach the cluster that RAY_ADDRESS or a job names, or start Ray on this machine, and `tell` it `metadata`."""
    import ray
    from ray.job_config import JobConfig

    global _reached
    logging.getLogger("ray.tune").setLevel(logging.WARNING)
    if ray.is_initialized():
        return
    _reached = True
    # A local Ray makes its own token, and need not say so.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    stop = signal.getsignal(signal.SIGTERM)
    if not os.environ.get("RAY_ADDRESS"):
        # The cleaner of multi-worker trials asks the dashboard, and must find this one among several on a machine.
        port = _free_port()
        os.environ.setdefault("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{port}")
        start = {"address": "local", "include_dashboard": dashboard, "dashboard_port": port}
        print("starting Ray", flush=True)  # which says nothing itself, for seconds
    else:
        start = {}
    try:
        ray.init(**start, logging_level="WARNING", job_config=JobConfig(metadata=metadata))
    except Exception as error:
        where = (
            "on this machine did not start" if start else f"at {os.environ['RAY_ADDRESS']} was not reached"
        )
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise RuntimeError(f"Ray {where}: {why}; docs/troubleshooting.md says what may help") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)  # a local Ray's own handler ends its processes under our feet
    tell(**metadata)


def coordinate() -> None:
    """Begin the actor that Ray Train asks for nodes, which has five seconds to come before a trace is printed."""
    with suppress(ImportError):  # Ray has no public way to it, and begins it by itself
        from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
            get_or_create_autoscaling_coordinator,
        )

        get_or_create_autoscaling_coordinator()


def leave() -> None:
    """Leave the Ray that `connect` reached, if it did; what Ray held back of its workers' words is printed then."""
    if _reached:
        import ray

        ray.shutdown()


def tell(**metadata: str) -> None:
    """Add to what the dashboard's list of jobs says of a submitted job; others have only what they began with.

    Ray has no public way to it, and drops what a submitted job's own driver says. Nothing depends on it.
    """
    import ray

    job = _submission()
    if job is None:
        return
    try:
        from ray.dashboard.modules.job.common import JobInfoStorageClient

        async def add() -> None:
            store = JobInfoStorageClient(ray._private.worker.global_worker.gcs_client)
            info = await store.get_info(job)
            info.metadata = {**(info.metadata or {}), **metadata}
            await store.put_info(job, info)

        asyncio.run(add())
    except Exception as error:
        logging.getLogger(__name__).info("the job's metadata could not be told: %s", error)


def check_writable(folder: str, setting: str = "storage") -> None:
    """Raises ConfigError unless a file can be written in the `folder` that `setting` is."""
    try:
        fs, path = filesystem(folder)
        fs.create_dir(path, recursive=True)
        probe = f"{path}/.writable-{uuid.uuid4().hex}"
        with fs.open_output_stream(probe) as stream:
            stream.write(b"")
        fs.delete_file(probe)
    except Exception as error:
        reason = str(error).splitlines()[0][:160]
        raise ConfigError(f"{setting} {folder!r} cannot be written: {reason}; set {setting}") from None


def task_device() -> str:
    """Where a task runs its model: on the GPU that it was given, if it was. How far it is, the driver alone tells."""
    import ray
    import torch

    if ray.is_initialized() and ray.get_runtime_context().get_task_id():
        progress.hush()
    return "cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu"


def quiet(threads: int) -> None:
    """In a worker: so many threads for tensors, no line for every checkpoint, and none for where its end met it."""
    import torch

    torch.set_num_threads(max(1, threads))
    sys.unraisablehook = _unraisable
    reports = sys.modules.get("ray.train.v2._internal.execution.context")  # whose logger is named by its file
    for name in ("ray.tune", "ray.train", getattr(reports, "__file__", None)):
        if name:
            logging.getLogger(name).setLevel(logging.WARNING)


def _unraisable(what: Any) -> None:
    """Ray ends a worker by SystemExit, which may come where Python raises nothing and then tells it as a fault."""
    if not isinstance(what.exc_value, SystemExit):
        sys.__unraisablehook__(what)


class TrainingDiverged(RuntimeError):
    """The loss of a training, or what its model says, was not finite."""


def train(run: Run, facts: Any, data: Any, folder: str) -> str:
    """Run one TorchTrainer, or go on with it, in `folder`; returns the path of its last checkpoint.

    `data` is a reference to resident sets, or Streaming. Raises TrainingDiverged when the loss is not finite.
    """
    from raylens.cluster.recover import mend_checkpoints
    from raylens.cluster.worker import WORST
    from raylens.data.streaming import ended

    mend_checkpoints(folder)
    metrics, path = ended(folder, run.fit.steps) or _trained(run, facts, data, folder)
    if metrics["objective"] <= WORST:
        raise TrainingDiverged(f"the training diverged: {metrics['warnings']}; a lower optimizer.lr may do")
    return path


def _trained(run: Run, facts: Any, data: Any, folder: str) -> tuple[dict[str, Any], str]:
    """Metrics and checkpoint of a TorchTrainer's last report."""
    import ray
    from ray.train import CheckpointConfig, DataConfig, FailureConfig, LoggingConfig, RunConfig
    from ray.train.torch import TorchTrainer

    from raylens import find
    from raylens.cluster.progress import told
    from raylens.data.streaming import datasets

    streams = {} if isinstance(data, ray.ObjectRef) else datasets(run, find.method(run.method.name), folder)
    held = data if isinstance(data, ray.ObjectRef) else ray.put(data)  # once, not once a worker
    in_order = ray.data.ExecutionOptions(preserve_order=True)
    storage, _, name = folder.rpartition("/")
    interrupt = signal.getsignal(signal.SIGINT)
    if run.scale.min_workers:
        # Ray may count on a node that has just died, and looks anew only when its workers have not come.
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "30"
    with told(run, folder) as progress:
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"run": run, "facts": facts, "data": held, "label": run.title},
            scaling_config=scaling(run),
            datasets=streams,
            dataset_config=DataConfig(
                datasets_to_split=[], execution_options=in_order
            ),  # each has its own plan
            run_config=RunConfig(
                name=name,
                **kept(storage),
                logging_config=LoggingConfig(log_level="WARNING"),
                failure_config=FailureConfig(max_failures=run.search.retries),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
                callbacks=[progress],
            ),
        )
        try:
            result = trainer.fit()
        except SystemExit:  # Train's answer to Ctrl+C, with an exit code of 0
            raise KeyboardInterrupt from None
        finally:
            signal.signal(signal.SIGINT, interrupt)  # Train leaves its own behind
    return result.metrics, addressed(result.checkpoint.path, run.storage)


def scaling(run: Run) -> Any:
    """Workers and what each of them is given."""
    from ray.train import ScalingConfig

    each, (fewest, most) = gpus(run), (run.scale.min_workers, run.scale.workers)
    return ScalingConfig(
        num_workers=(fewest, most) if fewest else most,
        use_gpu=each > 0,
        resources_per_worker={"CPU": run.scale.cpus, **({"GPU": each} if each else {})},
    )


def lasting(path: str) -> str:
    """An absolute path, or an address, of what is written to stay.

    A job works in a copy of what was submitted, which Ray deletes, so there a relative path begins at home.
    """
    if "://" in path:
        return path.rstrip("/")
    given = os.path.expanduser(path)
    return os.path.abspath(Path.home() / given if _in_job() else given)


def train_worker(config: dict[str, Any]) -> None:
    """A Train worker: reports carry a checkpoint, or Train would drop their metrics."""
    import ray
    from ray import train as ray_train
    from ray.train.torch import get_device

    from raylens.cluster.gauges import Gauges
    from raylens.cluster.worker import work

    run, context = config["run"], ray_train.get_context()
    quiet(int(run.scale.cpus))
    data = config["data"]
    if isinstance(data, ray.ObjectRef):
        data = ray.get(data)
    latest = ray_train.get_checkpoint()
    rank = context.get_world_rank()
    with tempfile.TemporaryDirectory() as folder, Gauges(run.method.name, config["label"], rank) as gauges:
        resume = latest.to_directory(folder) if latest else None
        reports = work(
            run,
            config["facts"],
            data,
            rank=rank,
            world=context.get_world_size(),
            device=get_device(),
            resume=resume,
        )
        for report in reports:
            gauges.set(report.metrics)
            began, checkpoint = time.perf_counter(), None
            if rank == 0:
                out = Path(tempfile.mkdtemp(prefix="raylens-"))
                report.save(out)
                checkpoint = ray_train.Checkpoint.from_directory(out)
            ray_train.report(report.metrics, checkpoint=checkpoint, delete_local_checkpoint_after_upload=True)
            gauges.saved(time.perf_counter() - began)


def _in_job() -> bool:
    """Whether this process was started by `ray job submit`, which hands on its settings by this variable."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def _submission() -> str | None:
    """The submission id of the job that this process is, if it is one."""
    settings = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    return settings.get("metadata", {}).get("job_submission_id")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
