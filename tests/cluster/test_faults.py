"""Machines that vanish while a search runs on them: nodes of a CPU each on this one, killed without a word."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy

from raylens import checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS, EVERY = 300, 20


@pytest.fixture
def cluster():
    """A head without work on it, and two nodes."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
    yield cluster
    cluster.shutdown()


TWO_TRIALS = {"search.trials": 2, "search.scheduler": "none"}
TWO_WORKERS = {"scale.workers": 2, "scale.min_workers": 1}


def started(cluster, toy_sets: dict[str, str], folder: Path, verb: str = "tune", **more) -> subprocess.Popen:
    """A search of two trials, one for each node, or what else the settings `more` ask for."""
    flags = {**toy_sets, "storage": folder.parent, "name": folder.name, "encoder.width": 8, "data.batch": 16}
    flags |= {"fit.steps": STEPS, "fit.report_every": EVERY, "search.retries": 3, **(more or TWO_TRIALS)}
    words = [word for path, value in flags.items() for word in (f"--{path}", str(value))]
    return subprocess.Popen(
        [sys.executable, "-m", f"raylens.{verb}", "supervised", *words],
        env=os.environ | {"RAY_ADDRESS": cluster.address},
        stdout=folder.with_suffix(".log").open("w"),
        stderr=subprocess.STDOUT,
    )


def results(folder: Path) -> list[list[dict]]:
    """What each trial has reported."""
    written = [path.read_text().splitlines() for path in sorted(folder.glob("trials/*/result.json"))]
    return [[json.loads(line) for line in lines] for lines in written]


def weights(folder: Path) -> list[dict[str, np.ndarray]]:
    """What each trial ended with."""
    last = f"checkpoint_{STEPS // EVERY - 1:06d}/model.safetensors"
    trials = sorted(path.parent for path in folder.glob("trials/*/result.json"))
    return [safetensors.numpy.load_file(trial / last) for trial in trials]


def test_a_search_outlives_a_node_and_ends_as_if_nothing_had_happened(cluster, toy_sets, tmp_path):
    calm, struck = tmp_path / "calm", tmp_path / "struck"
    assert started(cluster, toy_sets, calm).wait(600) == 0, calm.with_suffix(".log").read_text()
    search = started(cluster, toy_sets, struck)
    while search.poll() is None and not (len(told := results(struck)) == 2 and all(map(len, told))):
        time.sleep(0.1)
    cluster.remove_node(cluster.workers[0], allow_graceful=False)
    assert search.wait(600) == 0, struck.with_suffix(".log").read_text()
    assert max(len({result["pid"] for result in told}) for told in results(struck)) > 1, "no trial was hit"
    for told in results(struck):
        steps = [result["step"] for result in told]
        assert sorted(set(steps)) == list(range(EVERY, STEPS + 1, EVERY))
        assert len(steps) - len(set(steps)) <= 1, "more than one report interval was done again"
    board = pd.read_csv(struck / "leaderboard.csv")
    assert (board["steps"].dropna() == STEPS).all()
    for one, other in zip(weights(calm), weights(struck), strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_training_goes_on_with_the_worker_that_is_left(cluster, toy_sets, tmp_path):
    training = started(cluster, toy_sets, tmp_path / "run", "train", **TWO_WORKERS)
    while training.poll() is None and not [*tmp_path.glob("run/workers/checkpoint_*/model.safetensors")]:
        time.sleep(0.1)
    cluster.remove_node(cluster.workers[0], allow_graceful=False)
    said = training.wait(600), (tmp_path / "run.log").read_text()
    assert said[0] == 0, said[1]
    told = [int(step) for step in re.findall(rf"step (\d+)/{STEPS}", said[1])]
    assert sorted(set(told)) == list(range(EVERY, STEPS + 1, EVERY))
    assert len(told) - len(set(told)) <= 1, "more than one report interval was done again"
    assert checkpoint.read(str(tmp_path / "run" / "last")).metrics["step"] == STEPS
