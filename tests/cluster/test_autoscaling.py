"""A cluster that grows for a search and shrinks after it: Ray's autoscaler with nodes of a CPU on this machine.

The head has no CPU, as in cluster.yaml; sets and runs lie in object storage, since nodes that come share no folder.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from ray._private.state import GlobalState
from ray._raylet import GcsClientOptions

from raylens.cluster.launch import _free_port
from tests.cluster.test_storage import bucket, server  # noqa: F401, fixtures

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

BIN = Path(sys.executable).parent
MOST = 2
"""Workers that the cluster may have."""


class Growing:
    """A head without CPUs, whose autoscaler starts nodes as other processes."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="rl", dir="/tmp")
        port = _free_port()
        self.address = f"127.0.0.1:{port}"
        config = {
            "cluster_name": "growing",
            "max_workers": MOST,
            "upscaling_speed": 10.0,
            "idle_timeout_minutes": 0.2,
            "provider": {
                "type": "fake_multinode",
                "gcs_address": self.address,
                "use_node_id_as_ip": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "available_node_types": {
                "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
                "worker": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": MOST},
            },
            "head_node_type": "ray.head.default",
            "auth": {},
            "file_mounts": {},
        }
        lists = ("initialization_commands", "setup_commands", "cluster_synced_files", "rsync_exclude")
        config |= {name: [] for name in (*lists, "head_start_ray_commands", "worker_start_ray_commands")}
        config |= {name: [] for name in ("head_setup_commands", "worker_setup_commands")}
        Path(f"{self.folder}/growing.json").write_text(json.dumps(config))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        self.environment = inherited | quiet | {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        command = [f"{BIN}/ray", "start", "--head", "--block", "--num-cpus=0", f"--port={port}"]
        command += [f"--autoscaling-config={self.folder}/growing.json", f"--temp-dir={self.folder}"]
        command += ["--include-dashboard=false", f"--dashboard-agent-listen-port={_free_port()}"]
        with open(f"{self.folder}/head.log", "w") as log:
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def nodes(self) -> int:
        """Nodes that are alive beside the head; -1 while there is no head to ask."""
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(self.address.rpartition(":")[2]))):
                return -1
        state = GlobalState()  # of which ray.cluster_utils asks, too: a driver of its own would take seconds
        state._initialize_global_state(GcsClientOptions.create(self.address, None, True, False))
        nodes = state.node_table()
        state.disconnect()
        return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in nodes)

    def wait(self, meets: Callable[[int], bool], seconds: float) -> int:
        """The number of nodes once it meets what is asked, or after so many seconds."""
        end = time.monotonic() + seconds
        while not meets(count := self.nodes()) and time.monotonic() < end:
            time.sleep(1)
        return count

    def close(self) -> None:
        ours = [self.process.pid, *(child.pid for child in psutil.Process(self.process.pid).children(True))]
        for process in psutil.process_iter(["cmdline"]):
            if any(self.folder in word for word in process.info["cmdline"] or ()):
                ours += [process.pid, *(child.pid for child in process.children(True))]
        for pid in dict.fromkeys(ours):
            if psutil.pid_exists(pid):
                psutil.Process(pid).kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def growing(bucket):  # noqa: F811, whose address its nodes must know
    cluster = Growing()
    try:
        yield cluster
    finally:
        cluster.close()


def test_a_search_makes_the_cluster_grow_and_leaves_it_to_shrink(growing, bucket):  # noqa: F811
    """First with trials of one worker, then with one trial of two, by the data that the first has made."""
    assert growing.wait(lambda count: count == 0, 120) == 0
    for workers in (1, 2):
        searched(growing, bucket, workers)
        assert growing.wait(lambda count: count == 0, 120) == 0


def searched(growing: Growing, bucket: str, workers: int) -> None:  # noqa: F811
    """A search, during which the cluster has as many nodes as it may have."""
    flags = {
        "storage": f"{bucket}/runs",
        "name": f"grown-{workers}",
        "scale.workers": workers,
        "scale.cpus": 1,
    }
    flags |= {"encoder.width": 4, "data.batch": 16, "fit.steps": 20, "fit.report_every": 10}
    flags |= {"data.source_rows": 200, "data.target_rows": 300, "data.target_lenses": 0.3}
    flags |= {"search.trials": MOST // workers, "search.scheduler": "none"}
    command = [sys.executable, "-m", "raylens.tune", "supervised"]
    command += [word for path, value in flags.items() for word in (f"--{path}", str(value))]
    with open(f"{growing.folder}/search.log", "w+") as log:
        search = subprocess.Popen(
            command,
            env=growing.environment | {"RAY_ADDRESS": growing.address},
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=growing.folder,
        )
        most = 0
        while search.poll() is None:
            most = max(most, growing.nodes())
            time.sleep(0.5)
        log.seek(0)
        said = log.read()
    assert search.returncode == 0, said
    assert most == MOST
    assert said.strip().splitlines()[-1] == f"{bucket}/runs/grown-{workers}/best"
