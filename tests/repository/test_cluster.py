"""cluster.yaml, by Ray's own schema and code, without a cloud."""

from __future__ import annotations

import copy
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private import util

HOME = Path(__file__).parents[2]


@pytest.fixture
def cluster() -> dict:
    return yaml.safe_load((HOME / "cluster.yaml").read_text())


@pytest.fixture
def whole(cluster) -> dict:
    """With what Ray fills in."""
    return util.prepare_config(copy.deepcopy(cluster))


def test_ray_takes_it(whole):
    util.validate_config(whole)


def test_ray_would_refuse_what_is_wrong(whole):
    few = {"gpu": whole["available_node_types"]["gpu"] | {"min_workers": 11}}
    for wrong, said in (
        ({"head_node_type": "nobody"}, "head_node_type"),
        ({"max_worker": 3}, "max_worker"),
        ({"available_node_types": whole["available_node_types"] | few}, "min_workers"),
    ):
        with pytest.raises((jsonschema.ValidationError, ValueError), match=said):
            util.validate_config(whole | wrong)


def test_nothing_runs_on_the_head_and_workers_come_and_go(whole):
    types = whole["available_node_types"]
    assert types[whole["head_node_type"]]["resources"]["CPU"] == 0
    assert "InstanceMarketOptions" not in types[whole["head_node_type"]]["node_config"]
    for name in ("gpu", "cpu"):
        assert types[name]["min_workers"] == 0
        assert types[name]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert types["gpu"]["resources"]["GPU"] == 1
    assert whole["idle_timeout_minutes"] <= 15
    assert sum(kind.get("max_workers", 0) for kind in types.values()) == whole["max_workers"]


def test_the_head_has_boto3_where_its_autoscaler_runs(whole):
    """Ray's own line for AWS is of the system's pip."""
    (command,) = whole["head_setup_commands"][-1:]
    assert command.endswith("--python ~/raylens/.venv/bin/python boto3")
    assert not any("pip install" in one and ".venv" not in one for one in whole["head_setup_commands"])


def test_no_port_is_open_to_the_network(cluster):
    commands = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    started = [command for command in commands if "ray start" in command]
    assert len(started) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in started)
    assert "--dashboard-host=127.0.0.1" in started[0]
    assert not any("0.0.0.0" in command for command in commands)
    for kind in cluster["available_node_types"].values():
        assert kind["node_config"]["SecurityGroupIds"], "Ray's own group opens port 22 to all"


def test_what_is_sent_is_the_project_and_no_results(cluster):
    assert cluster["file_mounts"]["~/raylens"] == "."
    assert {".git", ".venv", "runs", "shards"} <= set(cluster["rsync_exclude"])
    assert ".gitignore" not in cluster.get("rsync_filter", []), "uv.lock is ignored by git, and sent"
    assert any("uv sync" in command for command in cluster["setup_commands"])
