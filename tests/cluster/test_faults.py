"""Machines that vanish while a search runs on them: nodes of a CPU each on this one, killed without a word."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import safetensors.numpy

from raylens import checkpoint, config
from raylens.cluster.search import search
from raylens.cluster.training import training
from tests.cluster.drivers import warm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS, EVERY = 300, 20


def headed():
    """A head without work on it."""
    from ray.cluster_utils import Cluster

    return Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})


def manned(cluster):
    """The same with two nodes, of which earlier tests may have removed some."""
    while len(cluster.worker_nodes) < 2:
        cluster.add_node(num_cpus=1)
    return cluster


@pytest.fixture(scope="module")
def head():
    cluster = headed()
    yield cluster
    cluster.shutdown()


@pytest.fixture
def cluster(head):
    """A head and two nodes."""
    return manned(head)


TWO_TRIALS = {"search.trials": 2, "search.scheduler": "none"}
TWO_WORKERS = {"scale.workers": 2, "scale.min_workers": 1}
STREAMED = {"data.mode": "streaming", "fit.steps": 100}


def flags(toy_sets: dict[str, str], folder: Path, more: dict) -> dict:
    """Settings of a run that ends in `folder`."""
    named = {"storage": str(folder.parent), "name": folder.name, "encoder.width": 8, "data.batch": 16}
    return {**toy_sets, **named, "fit.steps": STEPS, "fit.report_every": EVERY, "search.retries": 3, **more}


@pytest.fixture(scope="module")
def calm(ray_cluster, toy_sets, tmp_path_factory) -> list[dict[str, np.ndarray]]:
    """What the trials of a search end with that nothing happens to."""
    folder = tmp_path_factory.mktemp("calm") / "calm"
    search(config.build({"method.name": "supervised", "scale.gpus": 0}, flags(toy_sets, folder, TWO_TRIALS)))
    return weights(folder)


@pytest.fixture
def started(toy_sets):
    """Begins a search of two trials, one for each node, or what else the settings `more` ask for.

    A test that fails leaves nothing running on the nodes of the next one.
    """
    begun = []

    def start(cluster, folder: Path, verb: str = "tune", **more) -> subprocess.Popen:
        settings = flags(toy_sets, folder, more or TWO_TRIALS)
        words = [word for path, value in settings.items() for word in (f"--{path}", str(value))]
        begun.append(
            subprocess.Popen(
                [sys.executable, "-m", f"raylens.{verb}", "supervised", *words],
                env=warm(RAY_ADDRESS=cluster.address),
                stdout=folder.with_suffix(".log").open("w"),
                stderr=subprocess.STDOUT,
            )
        )
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()


def results(folder: Path) -> list[list[dict]]:
    """What each trial has reported."""
    written = [path.read_text().splitlines() for path in sorted(folder.glob("trials/*/result.json"))]
    return [[json.loads(line) for line in lines] for lines in written]


def weights(folder: Path) -> list[dict[str, np.ndarray]]:
    """What each trial ended with."""
    last = f"checkpoint_{STEPS // EVERY - 1:06d}/model.safetensors"
    trials = sorted(path.parent for path in folder.glob("trials/*/result.json"))
    return [safetensors.numpy.load_file(trial / last) for trial in trials]


def at_work(struck: subprocess.Popen, folder: Path) -> None:
    """Wait until both trials have reported."""
    while struck.poll() is None and not (len(told := results(folder)) == 2 and all(map(len, told))):
        time.sleep(0.1)


def check_whole(folder: Path, calm: list[dict[str, np.ndarray]]) -> None:
    """Every trial ended as if nothing had happened, and did at most one report interval again."""
    assert max(len({result["pid"] for result in told}) for told in results(folder)) > 1, "no trial was hit"
    for told in results(folder):
        steps = [result["step"] for result in told]
        assert sorted(set(steps)) == list(range(EVERY, STEPS + 1, EVERY))
        assert len(steps) - len(set(steps)) <= 1, "more than one report interval was done again"
    board = pd.read_csv(folder / "leaderboard.csv")
    assert (board["steps"].dropna() == STEPS).all()
    for one, other in zip(calm, weights(folder), strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_search_outlives_a_node_and_ends_as_if_nothing_had_happened(cluster, calm, started, tmp_path):
    struck = started(cluster, tmp_path / "struck")
    at_work(struck, tmp_path / "struck")
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    assert struck.wait(600) == 0, (tmp_path / "struck.log").read_text()
    check_whole(tmp_path / "struck", calm)


def test_a_search_goes_on_under_a_new_head(cluster, calm, started, tmp_path, monkeypatch):
    # A driver looks a minute for its head.
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "5")
    first = manned(headed())
    try:
        struck = started(first, tmp_path / "struck")
        at_work(struck, tmp_path / "struck")
        for node in [*first.worker_nodes]:
            first.remove_node(node, allow_graceful=False)  # at once, or trials would end in the meantime
    finally:
        first.shutdown()
    assert struck.wait(120) != 0
    struck = started(cluster, tmp_path / "struck")
    assert struck.wait(600) == 0, (tmp_path / "struck.log").read_text()
    check_whole(tmp_path / "struck", calm)


def test_a_stream_outlives_a_task_that_reads_it(ray_cluster, cluster, toy_sets, started, tmp_path):
    alone = {"method.name": "supervised", "scale.gpus": 0}
    calm = training(config.build(alone, flags(toy_sets, tmp_path / "calm", STREAMED)))
    struck, killed = started(cluster, tmp_path / "struck", "train", **STREAMED), 0
    while struck.poll() is None and killed < 3:
        killed += kill_reader()
        time.sleep(0.02)
    assert struck.wait(600) == 0, (tmp_path / "struck.log").read_text()
    assert killed, "no task was hit"
    one, other = (
        safetensors.numpy.load_file(Path(folder) / "model.safetensors")
        for folder in (calm, tmp_path / "struck" / "last")
    )
    assert all(np.array_equal(one[name], other[name]) for name in one)


def kill_reader() -> bool:
    """Kill a process in which a task of Ray Data runs; whether there was one."""
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or ())
        if words.startswith("ray::") and ("Map" in words or "Read" in words):
            process.kill()
            return True
    return False


def test_a_training_goes_on_with_the_worker_that_is_left(cluster, started, tmp_path):
    run = started(cluster, tmp_path / "run", "train", **TWO_WORKERS)
    while run.poll() is None and not [*tmp_path.glob("run/workers/checkpoint_*/model.safetensors")]:
        time.sleep(0.1)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    said = run.wait(600), (tmp_path / "run.log").read_text()
    assert said[0] == 0, said[1]
    told = [int(step) for step in re.findall(rf"step (\d+)/{STEPS}", said[1])]
    assert sorted(set(told)) == list(range(EVERY, STEPS + 1, EVERY))
    assert len(told) - len(set(told)) <= 1, "more than one report interval was done again"
    assert checkpoint.read(str(tmp_path / "run" / "last")).metrics["step"] == STEPS
