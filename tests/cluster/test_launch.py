"""Where runs are kept, and whose Ray is left."""

from __future__ import annotations

from pathlib import Path

from raylens.cluster import launch
from raylens.cluster.folders import addressed


def test_a_job_keeps_its_runs_where_they_are_found_again(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert launch.lasting("runs") == f"{tmp_path}/runs"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert launch.lasting("runs") == f"{Path.home()}/runs"
    assert launch.lasting("/data/runs") == "/data/runs"
    assert launch.lasting("s3://bucket/runs/") == "s3://bucket/runs"
    assert launch.lasting("~/elsewhere") == f"{Path.home()}/elsewhere"


def test_what_ray_names_without_its_scheme_is_an_address_again():
    assert addressed("bucket/runs/x", "s3://bucket/runs") == "s3://bucket/runs/x"
    assert addressed("s3://bucket/runs/x", "s3://bucket/runs") == "s3://bucket/runs/x"
    assert addressed("/data/runs/x", "/data/runs") == "/data/runs/x"


def test_a_ray_that_others_started_is_not_left(ray_cluster):
    launch.connect()
    launch.leave()
    assert ray_cluster.is_initialized()
