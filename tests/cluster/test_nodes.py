"""A cluster of two real nodes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def two_nodes():
    """The address of a Ray of two nodes with a CPU each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


def test_a_folder_of_one_machine_is_refused_before_anything_starts(two_nodes, tmp_path):
    here = str(tmp_path / "runs")
    run = subprocess.run(
        [sys.executable, "-m", "raylens.tune", "adda", "--storage", here],
        env=os.environ | {"RAY_ADDRESS": two_nodes},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 2, run.stdout + run.stderr
    said = f"error: storage '{here}' is a folder of one machine, and the cluster has 2 nodes"
    assert run.stderr.strip().splitlines()[-1].startswith(said)
    assert not list((tmp_path / "runs").iterdir())
