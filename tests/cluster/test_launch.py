"""What a cluster must have before anything starts on it."""

from __future__ import annotations

import pytest

from raylens.cluster import launch
from raylens.errors import ConfigError


def test_a_folder_is_refused_where_there_are_several_nodes(tiny, monkeypatch):
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True}, {"Alive": True}, {"Alive": False}])
    with pytest.raises(
        ConfigError, match=r"'runs' is a folder of one machine, and the cluster has 2 nodes.*s3://"
    ):
        launch.check_storage(tiny.run(storage="runs"))
    launch.check_storage(tiny.run(storage="s3://bucket/runs"))
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True}])
    launch.check_storage(tiny.run(storage="runs"))


def test_trials_at_a_time_follow_the_cluster_at_its_largest(tiny, monkeypatch):
    there = {"CPU": 8.0, "GPU": 2.0}
    monkeypatch.setattr(launch, "capacity", lambda: there)

    def concurrent(**scale):
        return launch.concurrent(tiny.run(scale=scale))

    assert concurrent(cpus=2, gpus=0) == 4
    assert concurrent(cpus=2, gpus=0, workers=3) == 1
    assert concurrent(cpus=1, gpus=0.5) == 4
    assert concurrent(cpus=0.5, gpus=1) == 2
    assert launch.concurrent(tiny.run(scale={"cpus": 1, "gpus": 0}, search={"concurrent": 3})) == 3
    with pytest.raises(
        ConfigError, match=r"4 x 1 GPUs, the cluster has 8 CPUs and 2 GPUs; set scale.workers"
    ):
        concurrent(cpus=1, gpus=1, workers=4)
