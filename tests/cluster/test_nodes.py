"""A cluster of two real nodes, and folders that both see, or one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raylens.cluster.launch import _free_port

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
CHECK = """
import sys
from raylens import config
from raylens.cluster import launch
launch.connect()
launch.check_storage(config.build({"method.name": "supervised"}, {"storage": sys.argv[1]}))
"""


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
        env={name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
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
        env=os.environ | {"RAY_ADDRESS": cluster.address},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_folder_of_one_machine_is_refused_before_anything_starts(cluster, other_machine, tmp_path):
    here = str(tmp_path / "runs")
    short = ["--fit.steps", "20", "--fit.report_every", "20", "--data.source_rows", "200"]
    run = ran(cluster, "-m", "raylens.tune", "adda", "--storage", here, *short)
    assert run.returncode == 2, run.stdout + run.stderr
    said = f"error: storage '{here}' is not on 1 of the cluster's 2 nodes; set storage to a folder that they share"
    assert run.stderr.strip().splitlines()[-1].startswith(said)
    assert not list((tmp_path / "runs").iterdir())


def test_a_folder_that_all_nodes_share_is_taken(cluster, tmp_path):
    cluster.add_node(num_cpus=1)
    run = ran(cluster, "-c", CHECK, str(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    assert not list(tmp_path.iterdir()), "what was asked for is left behind"
