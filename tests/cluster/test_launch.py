"""What a cluster must have before anything starts on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylens.cluster import launch
from raylens.cluster.folders import addressed
from raylens.errors import ConfigError
from raylens.find import method


@pytest.fixture
def cluster(monkeypatch):
    """Pretends to be a cluster: `cluster(nodes, now, grown)`."""

    def set_up(nodes: int, now: dict[str, float], grown: dict[str, float] | None = None) -> None:
        monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True}] * nodes + [{"Alive": False}])
        monkeypatch.setattr("ray.cluster_resources", lambda: now)
        monkeypatch.setattr(launch, "capacity", lambda: {"CPU": 0.0, "GPU": 0.0, **now, **(grown or {})})

    return set_up


def test_a_folder_is_refused_where_there_are_several_nodes_or_may_be(tiny, cluster):
    cluster(2, {"CPU": 4.0})
    with pytest.raises(ConfigError, match=r"storage 'runs' is a folder .* the cluster has 2 nodes; .*s3://"):
        launch.check_storage(tiny.run(storage="runs"))
    far = tiny.run(storage="s3://bucket/runs")
    launch.check_storage(far)
    with pytest.raises(ConfigError, match=r"data.source 'shards' is a folder of one machine"):
        launch.check_storage(far.replace(**{"data.source": "shards"}))
    cluster(1, {"CPU": 2.0}, {"CPU": 64.0})
    with pytest.raises(ConfigError, match="the cluster may grow beyond this one"):
        launch.check_storage(tiny.run(storage="runs"))
    cluster(1, {"CPU": 2.0})
    launch.check_storage(tiny.run(storage="runs"))


def test_trials_at_a_time_follow_the_cluster_at_its_largest(tiny, cluster):
    def concurrent(**scale):
        return launch.concurrent(tiny.run(scale=scale))

    cluster(1, {"CPU": 1.0}, {"CPU": 8.0, "GPU": 2.0})
    assert concurrent(cpus=2, gpus=0) == 4
    assert concurrent(cpus=2, gpus=0, workers=3) == 1
    assert concurrent(cpus=1, gpus=0.5) == 4
    assert concurrent(cpus=0.5, gpus=1) == 2
    assert launch.concurrent(tiny.run(scale={"cpus": 1, "gpus": 0}, search={"concurrent": 3})) == 3
    with pytest.raises(
        ConfigError, match=r"4 x 1 GPUs, the cluster has 8 CPUs and 2 GPUs; set scale.workers"
    ):
        concurrent(cpus=1, gpus=1, workers=4)


def test_every_stream_needs_a_share_of_a_cpu(tiny, cluster):
    cluster(1, {"CPU": 2.0})
    launch.check_room(tiny.run(data={"cpus": 0.5}), method("adda"))
    launch.check_room(tiny.run(scale={"workers": 1}), method("supervised"))
    with pytest.raises(
        ConfigError, match=r"2 CPUs for workers and 1 for 2 streams, the cluster has 2; lower scale"
    ):
        launch.check_room(tiny.run(scale={"workers": 2}, data={"cpus": 0.5}), method("supervised"))


def test_a_job_keeps_its_runs_where_they_are_found_again(tiny, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert launch.storage(tiny.run()) == f"{tmp_path}/runs"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert launch.storage(tiny.run()) == f"{Path.home()}/runs"
    assert launch.storage(tiny.run(storage="/data/runs")) == "/data/runs"
    assert launch.storage(tiny.run(storage="s3://bucket/runs")) == "s3://bucket/runs"


def test_what_ray_names_without_its_scheme_is_an_address_again():
    assert addressed("bucket/runs/x", "s3://bucket/runs") == "s3://bucket/runs/x"
    assert addressed("s3://bucket/runs/x", "s3://bucket/runs") == "s3://bucket/runs/x"
    assert addressed("/data/runs/x", "/data/runs") == "/data/runs/x"
