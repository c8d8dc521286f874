"""Ray is reached, its resources are counted, and a Run becomes a TorchTrainer."""

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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylens.cluster.folders import addressed, kept
from raylens.config import Run
from raylens.errors import ConfigError
from raylens.methods.base import Method

KUBERNETES_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where a pod is told its own."""
_reached = False


@dataclass(frozen=True)
class Nodes:
    """So many nodes of the same resources."""

    resources: Mapping[str, float]
    count: int

    def holds(self, each: Mapping[str, float]) -> int:
        """How often `each` fits into one of them; a share of a GPU is of a single one."""
        return min(_times(self.resources.get(name, 0.0), need, name) for name, need in each.items())


def _times(have: float, need: float, name: str) -> int:
    if name == "GPU" and need < 1:
        return int(have) * int(1 / need + 1e-6)
    return int(have / need + 1e-6)


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
        ray.init(
            address="local",
            include_dashboard=dashboard,
            dashboard_port=port,
            logging_level="WARNING",
            job_config=JobConfig(metadata=metadata),
        )
    else:
        ray.init(logging_level="WARNING", job_config=JobConfig(metadata=metadata))
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)  # a local Ray's own handler ends its processes under our feet
    tell(**metadata)


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


def gpus(run: Run) -> float:
    """GPUs of each worker. Raises ConfigError when some are asked for and the cluster has none, nor could have."""
    there = capacity()["GPU"]
    if run.scale.gpus is None:
        return 1.0 if there else 0.0
    if run.scale.gpus and not there:
        raise ConfigError(
            f"scale.gpus is {run.scale.gpus:g}, but the cluster has no GPU; set scale.gpus to 0"
        )
    return run.scale.gpus


def capacity() -> dict[str, float]:
    """Resources of the cluster at its largest: what its nodes have, or may have once it has grown."""
    import ray

    now, (_, kinds) = ray.cluster_resources(), nodes()
    grown = {
        name: sum(kind.count * kind.resources.get(name, 0.0) for kind in kinds) for name in ("CPU", "GPU")
    }
    return {name: max(now.get(name, 0.0), grown[name]) for name in grown}


def nodes() -> tuple[list[Nodes], list[Nodes]]:
    """The cluster's nodes as they are, and as they may be once it has grown."""
    import ray

    now = [Nodes(node["Resources"], 1) for node in ray.nodes() if node["Alive"]]
    growth = ray._private.state.state.get_cluster_config()
    if growth is None:
        return now, _autoscaled()
    return now, [
        Nodes(dict(group.resources), sys.maxsize if group.max_count < 0 else group.max_count)
        for group in growth.node_group_configs
    ]


def _autoscaled() -> list[Nodes]:
    """The nodes that this cluster's autoscaler may start, by the file that it was started with; none without one.

    Ray's own autoscaler tells nobody what it may grow to. It runs on the head, and so do the drivers of jobs.
    """
    import psutil
    import ray
    import yaml

    if os.environ.get("RAY_CLUSTER_NAME") and os.environ.get("KUBERNETES_SERVICE_HOST"):
        return _kuberay(os.environ["RAY_CLUSTER_NAME"])
    address = ray.get_runtime_context().gcs_address
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        flags = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
        if flags.get("--gcs-address") == address and "--autoscaling-config" in flags:
            try:
                settings = yaml.safe_load(Path(flags["--autoscaling-config"]).expanduser().read_text())
            except OSError:  # another machine's, or another user's
                continue
            return _kinds(settings)
    return []


def _kuberay(cluster: str) -> list[Nodes]:
    """The nodes of a cluster of KubeRay's, whose autoscaler, in another container, asks Kubernetes for them."""
    from ray.autoscaler._private.kuberay import autoscaling_config

    try:
        namespace = KUBERNETES_NAMESPACE.read_text().strip()
        producer = autoscaling_config.AutoscalingConfigProducer(cluster, namespace)
        held = producer.kubernetes_api_client.get(f"rayclusters/{cluster}")
        if not held["spec"].get("enableInTreeAutoscaling"):
            return []
        return _kinds(autoscaling_config._derive_autoscaling_config_from_ray_cr(held))
    except Exception as error:  # an account that may not ask
        logging.getLogger(__name__).info("Kubernetes does not tell what %s may grow to: %s", cluster, error)
        return []


def _kinds(settings: Mapping[str, Any]) -> list[Nodes]:
    """The nodes of an autoscaler's configuration, in Ray's format."""
    most, head = settings.get("max_workers", 0), settings.get("head_node_type")
    return [
        Nodes(kind["resources"], 1 if name == head else min(most, kind.get("max_workers", 0)))
        for name, kind in settings["available_node_types"].items()
    ]


def room(run: Run) -> int:
    """Workers that the cluster, at its largest, can run at a time; each of them lies on one node."""
    each = {"CPU": run.scale.cpus, "GPU": gpus(run)}
    each = {name: need for name, need in each.items() if need}
    there = capacity()
    together = min(int(there[name] / need + 1e-6) for name, need in each.items())
    return min(together, max(sum(kind.count * kind.holds(each) for kind in kinds) for kinds in nodes()))


def concurrent(run: Run) -> int:
    """Trials that the cluster can run at a time. Raises ConfigError when it is none."""
    workers = run.scale.min_workers or run.scale.workers
    most = room(run) // workers
    if most < 1:
        there, each = capacity(), {"CPU": run.scale.cpus, "GPU": gpus(run)}
        needs = " and ".join(f"{need:g} {name}s" for name, need in each.items() if need)
        have = " and ".join(f"{there[name]:g} {name}s" for name, need in each.items() if need)
        raise ConfigError(
            f"a trial needs {workers} worker(s) with {needs} on one node, the cluster's {have} have room for "
            f"{room(run)}; set scale.workers, scale.cpus or scale.gpus"
        )
    return min(most, run.search.concurrent or most)


def check_storage(run: Run) -> None:
    """Raises ConfigError when something would lie on one of several nodes, that are or may come. Needs Ray."""
    import ray

    now, grown = ray.cluster_resources(), capacity()
    there, growth = (sum(kind.count for kind in kinds) for kinds in nodes())
    grows = growth > there or any(grown[name] > now.get(name, 0.0) for name in grown)
    if there < 2 and not grows:
        return
    paths = {"storage": run.storage, "start": run.start}
    paths |= {"data.source": run.data.source, "data.target": run.data.target, "data.test": run.data.test}
    local = {setting: path for setting, path in paths.items() if path is not None and _is_local(path)}
    if grows and local:
        setting, path = next(iter(local.items()))
        raise ConfigError(
            f"{setting} {path!r} is a folder of one machine, and the cluster may grow beyond those it has; "
            f"set {setting} to an s3:// or gs:// address that all of them reach"
        )
    for setting, lacking in _unseen(local).items() if local else ():
        if lacking:
            raise ConfigError(
                f"{setting} {local[setting]!r} is not on {lacking} of the cluster's {there} nodes; set {setting} to a "
                "folder that they share, or to an s3:// or gs:// address that all of them reach"
            )


def _is_local(path: str) -> bool:
    """Whether a path is of a folder, that other machines may see or not, and no address."""
    return "://" not in path or path.startswith("file://")


def _unseen(paths: Mapping[str, str]) -> dict[str, int]:
    """Of each folder, on how many of the cluster's nodes it is not, or another is. Needs Ray.

    A folder that can be written gets a file for as long as this takes, which all nodes must see.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    mark = f".shared-{uuid.uuid4().hex}"
    wanted = {setting: Path(path.removeprefix("file://")) for setting, path in paths.items()}
    marks = {folder / mark for folder in wanted.values() if folder.is_dir() and os.access(folder, os.W_OK)}
    wanted = {setting: path / mark if path / mark in marks else path for setting, path in wanted.items()}
    look = ray.remote(num_cpus=0)(lambda: {setting: path.exists() for setting, path in wanted.items()})
    there = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    try:
        for file in marks:
            file.touch()
        seen = ray.get([look.options(scheduling_strategy=On(node, soft=False)).remote() for node in there])
    finally:
        for file in marks:
            file.unlink(missing_ok=True)
    return {setting: sum(not found[setting] for found in seen) for setting in paths}


def check_writable(run: Run) -> None:
    """Raises ConfigError unless a file can be written under `storage`."""
    from raylens.data.shards import filesystem

    try:
        fs, path = filesystem(run.storage)
        fs.create_dir(path, recursive=True)
        probe = f"{path}/.writable-{uuid.uuid4().hex}"
        with fs.open_output_stream(probe) as stream:
            stream.write(b"")
        fs.delete_file(probe)
    except Exception as error:
        reason = str(error).splitlines()[0][:160]
        raise ConfigError(f"storage {run.storage!r} cannot be written: {reason}; set storage") from None


def task_device() -> str:
    """Where a task runs its model: on the GPU that it was given, if it was."""
    import ray
    import torch

    return "cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu"


def quiet(threads: int) -> None:
    """In a worker: so many threads for tensors, and no line for every checkpoint."""
    import torch

    torch.set_num_threads(max(1, threads))
    reports = sys.modules.get("ray.train.v2._internal.execution.context")  # whose logger is named by its file
    for name in ("ray.tune", "ray.train", getattr(reports, "__file__", None)):
        if name:
            logging.getLogger(name).setLevel(logging.WARNING)


def train(run: Run, facts: Any, data: Any, folder: str) -> str:
    """Run one TorchTrainer, or go on with it, in `folder`; returns the path of its last checkpoint.

    `data` is a reference to resident sets, or Streaming. Raises RuntimeError when the loss is not finite.
    """
    import ray
    from ray.train import CheckpointConfig, DataConfig, FailureConfig, LoggingConfig, RunConfig
    from ray.train.torch import TorchTrainer

    from raylens import find
    from raylens.cluster.progress import told
    from raylens.cluster.worker import WORST
    from raylens.data.streaming import datasets

    streams = {} if isinstance(data, ray.ObjectRef) else datasets(run, find.method(run.method.name), folder)
    in_order = ray.data.ExecutionOptions(preserve_order=True)
    storage, _, name = folder.rpartition("/")
    interrupt = signal.getsignal(signal.SIGINT)
    with told(run) as progress:
        trainer = TorchTrainer(
            train_worker,
            train_loop_config={"run": run, "facts": facts, "data": data, "label": run.title},
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
    if result.metrics["objective"] <= WORST:
        raise RuntimeError(
            f"the training diverged: {result.metrics['warnings']}; a lower optimizer.lr may do"
        )
    return addressed(result.checkpoint.path, run.storage)


def check_room(run: Run, method: type[Method]) -> None:
    """Raises ConfigError unless each of a method's streams, a dataset a worker, has a CPU's share for its tasks.

    A task that waits for its batches to be taken keeps its share, so a stream without one would wait for ever.
    """
    there, streams = capacity()["CPU"], len(method.streams) * run.scale.workers
    workers, tasks = run.scale.workers * run.scale.cpus, streams * run.data.cpus
    if workers + tasks > there + 1e-6:
        raise ConfigError(
            f"streaming needs {workers:g} CPUs for workers and {tasks:g} for {streams} streams, the cluster has "
            f"{there:g}; lower scale.workers, scale.cpus or data.cpus"
        )


def scaling(run: Run) -> Any:
    """Workers and what each of them is given."""
    from ray.train import ScalingConfig

    each, (fewest, most) = gpus(run), (run.scale.min_workers, run.scale.workers)
    return ScalingConfig(
        num_workers=(fewest, most) if fewest else most,
        use_gpu=each > 0,
        resources_per_worker={"CPU": run.scale.cpus, **({"GPU": each} if each else {})},
    )


def storage(run: Run) -> str:
    """Where runs are kept, as an absolute path or an address.

    A job works in a copy of what was submitted, which Ray deletes, so there a relative path begins at home.
    """
    if "://" in run.storage:
        return run.storage
    return os.path.abspath(Path.home() / run.storage if _in_job() else run.storage)


def train_worker(config: dict[str, Any]) -> None:
    """A Train worker: reports carry a checkpoint, or Train would drop their metrics."""
    import ray
    from ray import train as ray_train
    from ray.train.torch import get_device

    from raylens.cluster.gauges import Gauges
    from raylens.cluster.worker import work

    run, context = config["run"], ray_train.get_context()
    quiet(int(run.scale.cpus))
    gauges = Gauges(run.method.name, config["label"], context.get_world_rank())
    data = config["data"]
    if isinstance(data, ray.ObjectRef):
        data = ray.get(data)
    latest = ray_train.get_checkpoint()
    with tempfile.TemporaryDirectory() as folder:
        resume = latest.to_directory(folder) if latest else None
        reports = work(
            run,
            config["facts"],
            data,
            rank=context.get_world_rank(),
            world=context.get_world_size(),
            device=get_device(),
            resume=resume,
        )
        for report in reports:
            gauges.set(report.metrics)
            began, checkpoint = time.perf_counter(), None
            if context.get_world_rank() == 0:
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
