"""What a cluster must have before anything starts on it, pretended and real: folders that two nodes see, or one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from ray.autoscaler._private.kuberay import node_provider

import raylens
from raylens import checkpoint
from raylens.cluster import nodes, worker
from raylens.cluster.launch import _free_port
from raylens.data.shards import read_split
from raylens.errors import ConfigError
from raylens.find import method
from tests.cluster.drivers import cold, warm

BIN = Path(sys.executable).parent
CHECK = """
import sys
from raylens import config
from raylens.cluster import launch, nodes
launch.connect()
nodes.check_storage(config.build({"method.name": "supervised"}, {"storage": sys.argv[1]}))
"""


@pytest.fixture
def pretended(monkeypatch):
    """Pretends to be a cluster of equal nodes, which may grow by so many others: `pretended(2, {"CPU": 4.0})`."""

    def set_up(
        count: int, each: dict[str, float], more: int = 0, kind: dict[str, float] | None = None
    ) -> None:
        there = [{"Alive": True, "Resources": each}] * count
        group = SimpleNamespace(resources=kind or {}, max_count=more)
        growth = SimpleNamespace(node_group_configs=[group]) if more else None
        state = SimpleNamespace(get_cluster_config=lambda: growth)
        monkeypatch.setattr(nodes, "_autoscaled", list)
        monkeypatch.setattr("ray.nodes", lambda: [*there, {"Alive": False}])
        monkeypatch.setattr("ray.cluster_resources", lambda: {name: count * each[name] for name in each})
        monkeypatch.setattr("ray._private.state.state", state)

    return set_up


def test_an_autoscaler_that_tells_nothing_is_known_by_the_file_it_was_started_with(monkeypatch, tmp_path):
    cluster = yaml.safe_load((Path(__file__).parents[2] / "cluster.yaml").read_text())
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(cluster, sort_keys=False))

    def running(*flags: str) -> None:
        words = ["python", "monitor.py", *flags]
        processes = [SimpleNamespace(info={"cmdline": given}) for given in (None, ["bash"], words)]
        monkeypatch.setattr("psutil.process_iter", lambda _: processes)
        monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(gcs_address="10.0.0.1:6379"))

    ours, file = "--gcs-address=10.0.0.1:6379", f"--autoscaling-config={tmp_path}/cluster.yaml"
    running(ours, file)
    found = dict(zip(cluster["available_node_types"], nodes._autoscaled(), strict=True))
    assert {name: kind.count for name, kind in found.items()} == {"head": 1, "gpu": 8, "cpu": 2}
    assert found["gpu"].resources == {"CPU": 8, "GPU": 1}
    for others in (
        (ours,),
        ("--gcs-address=10.0.0.2:6379", file),
        (ours, "--autoscaling-config=/nowhere.yaml"),
    ):
        running(*others)
        assert nodes._autoscaled() == []


class TestKubeRay:
    """A pod's driver, which asks Kubernetes what the cluster may grow to."""

    @pytest.fixture
    def pod(self, monkeypatch, tmp_path):
        (tmp_path / "namespace").write_text("sky")
        monkeypatch.setattr(nodes, "KUBERNETES_NAMESPACE", tmp_path / "namespace")
        monkeypatch.setenv("RAY_CLUSTER_NAME", "raylens-abc")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")

    @pytest.fixture
    def answer(self, monkeypatch):
        def set_up(answered):
            def get(client, path):
                assert (client._namespace, path) == ("sky", "rayclusters/raylens-abc")
                return answered()

            monkeypatch.setattr(node_provider.KubernetesHttpApiClient, "get", get)

        monkeypatch.setattr(node_provider, "load_k8s_secrets", lambda: ({}, "", None))
        return set_up

    def test_its_groups_are_known(self, pod, answer):
        spec = yaml.safe_load((Path(__file__).parents[2] / "jobs/kuberay.yaml").read_text())["spec"]
        answer(lambda: {"metadata": {"name": "a", "namespace": "sky"}, "spec": spec["rayClusterSpec"]})
        head, gpu, cpu = nodes._autoscaled()
        assert (head.resources["CPU"], gpu.count, cpu.count) == (0, 8, 2)
        assert (gpu.resources["CPU"], gpu.resources["GPU"], cpu.resources["CPU"]) == (8, 1, 16)
        spec["rayClusterSpec"]["enableInTreeAutoscaling"] = False
        assert nodes._autoscaled() == []

    def test_an_account_that_may_not_ask_is_no_error(self, pod, answer):
        def refused():
            raise OSError("403 Forbidden")

        answer(refused)
        assert nodes._autoscaled() == []


def test_a_folder_is_refused_where_nodes_do_not_share_it_or_may_not(tiny, pretended, monkeypatch):
    pretended(1, {"CPU": 2.0}, 8, {"CPU": 8.0})
    with pytest.raises(ConfigError, match=r"storage 'runs' is a folder .* the cluster may grow .*s3://"):
        nodes.check_storage(tiny.run(storage="runs"))
    far = tiny.run(storage="s3://bucket/runs")
    nodes.check_storage(far)
    with pytest.raises(ConfigError, match=r"data.source 'shards' is a folder of one machine"):
        nodes.check_storage(far.replace(**{"data.source": "shards"}))
    with pytest.raises(ConfigError, match=r"storage 'file:///runs' is a folder of one machine"):
        nodes.check_storage(tiny.run(storage="file:///runs"))
    pretended(2, {"CPU": 2.0})
    nodes.check_storage(far)
    monkeypatch.setattr(
        nodes, "_unseen", lambda paths: {setting: int(setting == "data.source") for setting in paths}
    )
    nodes.check_storage(tiny.run(storage="/shared/runs"))
    with pytest.raises(
        ConfigError, match=r"data.source '/shards' is not on 1 of the cluster's 2 nodes; set .*s3://"
    ):
        nodes.check_storage(tiny.run(storage="/shared/runs").replace(**{"data.source": "/shards"}))
    pretended(1, {"CPU": 2.0})
    nodes.check_storage(tiny.run(storage="runs"))


def test_trials_at_a_time_follow_the_cluster_at_its_largest(tiny, pretended):
    def concurrent(**scale):
        return nodes.concurrent(tiny.run(scale=scale))

    pretended(1, {"CPU": 1.0}, 1, {"CPU": 8.0, "GPU": 2.0})
    assert concurrent(cpus=2, gpus=0) == 4
    assert concurrent(cpus=2, gpus=0, workers=3) == 1
    assert concurrent(cpus=1, gpus=0.5) == 4
    assert concurrent(cpus=0.5, gpus=1) == 2
    assert nodes.concurrent(tiny.run(scale={"cpus": 1, "gpus": 0}, search={"concurrent": 3})) == 3
    with pytest.raises(
        ConfigError,
        match=r"4 worker.* 1 CPUs and 1 GPUs on one .* 8 CPUs and 2 GPUs have room for 2; set scale",
    ):
        concurrent(cpus=1, gpus=1, workers=4)


def test_a_worker_lies_on_one_node(tiny, pretended):
    def concurrent(**scale):
        return nodes.concurrent(tiny.run(scale=scale))

    pretended(2, {"CPU": 3.0, "GPU": 1.0})
    assert concurrent(cpus=2, gpus=0) == 2
    assert concurrent(cpus=1, gpus=0.4) == 4
    assert concurrent(cpus=1.5, gpus=0, workers=3) == 1
    with pytest.raises(ConfigError, match="4 CPUs on one node, the cluster's 6 CPUs have room for 0"):
        concurrent(cpus=4, gpus=0)
    with pytest.raises(ConfigError, match="have room for 2"):
        concurrent(cpus=2, gpus=0, workers=3)
    with pytest.raises(ConfigError, match="have room for 0"):
        concurrent(cpus=1, gpus=2)
    pretended(1, {"CPU": 2.0}, -1, {"CPU": 4.0})
    assert concurrent(cpus=4, gpus=0, workers=8) > 1000


def test_every_stream_needs_a_share_of_a_cpu(tiny, pretended):
    pretended(1, {"CPU": 2.0})
    nodes.check_room(tiny.run(data={"cpus": 0.5}), method("adda"))
    nodes.check_room(tiny.run(scale={"workers": 1}), method("supervised"))
    with pytest.raises(
        ConfigError, match=r"2 CPUs for workers and 1 for 2 streams, the cluster has 2; lower scale"
    ):
        nodes.check_room(tiny.run(scale={"workers": 2}, data={"cpus": 0.5}), method("supervised"))


@pytest.fixture
def cluster():
    """A Ray of one node with a CPU."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


def alive(cluster) -> int:
    return sum(node["Alive"] for node in cluster.global_state.node_table())


@pytest.fixture
def other_machine(cluster, tmp_path):
    """A second node, in whose eyes `tmp_path` is another folder: one of its own memory."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount anything")
    start = [f"{BIN}/ray", "start", "--address", cluster.address, "--num-cpus", "1", "--block"]
    start += ["--dashboard-agent-listen-port", str(_free_port())]  # two agents on one machine
    mount = f'mount -t tmpfs none {tmp_path} && exec "$0" "$@"'
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", mount, *start],
        env={name: value for name, value in cold().items() if not name.startswith("RAY_")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 60
    while (there := alive(cluster)) < 2 and time.monotonic() < end:
        time.sleep(0.5)
    assert there == 2
    yield
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def ran(cluster, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words],
        env=warm(RAY_ADDRESS=cluster.address),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_a_folder_of_one_machine_is_refused_before_anything_starts(cluster, other_machine, tmp_path):
    here = str(tmp_path / "runs")
    short = ["--fit.steps", "20", "--fit.report_every", "20", "--data.source_rows", "200"]
    run = ran(cluster, "-m", "raylens.tune", "adda", "--storage", here, *short)
    assert run.returncode == 2, run.stdout + run.stderr
    said = f"error: storage '{here}' is not on 1 of the cluster's 2 nodes; set storage to a folder that they share"
    assert run.stderr.strip().splitlines()[-1].startswith(said)
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.slow
def test_a_folder_that_all_nodes_share_is_taken(cluster, tmp_path):
    cluster.add_node(num_cpus=1)
    run = ran(cluster, "-c", CHECK, str(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    assert not list(tmp_path.iterdir()), "what was asked for is left behind"


@pytest.mark.slow
def test_predictions_of_two_nodes_are_those_of_the_model_alone(cluster, tiny, toy_sets, tmp_path):
    cluster.add_node(num_cpus=1)
    run, facts, model = tiny.run("supervised"), tiny.facts(), str(tmp_path / "model")
    checkpoint.save(model, run, facts, worker.build(run, facts).result, {})
    # A model fills the CPU of one node, so it is another that reads.
    done = ran(cluster, "-m", "raylens.predict", model, toy_sets["data.target"], "--out", f"{tmp_path}/out")
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_parquet(tmp_path / "out/predictions").set_index("id")
    held = [read_split(toy_sets["data.target"], split) for split in ("train", "val", "test")]
    ids, pixels = (np.concatenate([part[name] for part in held]) for name in ("id", "pixels"))
    assert len(table) == len(ids)
    expected = raylens.load(model)(pixels)[:, 1]
    assert table.loc[ids, "probability"].to_numpy() == pytest.approx(expected, abs=1e-6)
