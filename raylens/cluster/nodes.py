"""What a cluster has room for: the nodes that are, those that may come, and folders that all of them share."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raylens.config import Run
from raylens.errors import ConfigError
from raylens.methods.base import Method

KUBERNETES_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where a pod is told its own."""


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

    now, (_, kinds) = ray.cluster_resources(), now_and_grown()
    grown = {
        name: sum(kind.count * kind.resources.get(name, 0.0) for kind in kinds) for name in ("CPU", "GPU")
    }
    return {name: max(now.get(name, 0.0), grown[name]) for name in grown}


def now_and_grown() -> tuple[list[Nodes], list[Nodes]]:
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
    return min(
        together, max(sum(kind.count * kind.holds(each) for kind in kinds) for kinds in now_and_grown())
    )


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
    """Raises ConfigError when what a run reads or writes would lie on one of several nodes. Needs Ray."""
    paths = {"storage": run.storage, "start": run.start}
    paths |= {"data.source": run.data.source, "data.target": run.data.target, "data.test": run.data.test}
    check_shared({setting: path for setting, path in paths.items() if path is not None})


def check_shared(paths: Mapping[str, str]) -> None:
    """Raises ConfigError when one of `paths`, by setting, lies on one of several nodes, that are or may come."""
    import ray

    now, grown = ray.cluster_resources(), capacity()
    there, growth = (sum(kind.count for kind in kinds) for kinds in now_and_grown())
    grows = growth > there or any(grown[name] > now.get(name, 0.0) for name in grown)
    if there < 2 and not grows:
        return
    local = {setting: path for setting, path in paths.items() if _is_local(path)}
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
