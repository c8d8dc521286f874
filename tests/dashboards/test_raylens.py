"""The dashboard for Grafana: built from the gauges' names, and in expressions that Prometheus takes.

tests/cluster/test_job.py draws every panel's data from a search. Grafana itself is nowhere started.
"""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from raylens.cluster.gauges import SHOWN

HOME = Path(__file__).parents[2] / "dashboards"


@pytest.fixture(scope="module")
def dashboard() -> dict:
    return json.loads((HOME / "raylens.json").read_text())


@pytest.fixture(scope="module")
def panels(dashboard) -> list[dict]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions(panels: list[dict]) -> list[str]:
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_the_file_is_what_is_built(dashboard):
    build = runpy.run_path(str(HOME / "build.py"))["build"]
    assert json.loads(build()) == dashboard, "run: uv run python dashboards/build.py"


def test_every_gauge_is_drawn_and_nothing_else(panels):
    drawn = {name for text in expressions(panels) for name in re.findall(r"ray_(raylens_\w+)", text)}
    assert drawn == set(SHOWN)


def test_what_a_legend_names_is_kept(panels):
    for panel in panels:
        (target,) = panel["targets"]
        kept = re.match(r"\w+ by \(([\w, ]+)\)", target["expr"])[1].split(", ")
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= set(kept)


def test_a_gauge_has_the_labels_that_it_is_asked_by(panels):
    for text in expressions(panels):
        (name,) = re.findall(r"ray_(raylens_\w+)", text)
        asked = {*re.match(r"\w+ by \(([\w, ]+)\)", text)[1].split(", "), *re.findall(r"(\w+)=~", text)}
        assert asked - {"SessionName"} <= set(SHOWN[name].tags)


def test_panels_lie_side_by_side(dashboard):
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    for one, other in combinations([panel["gridPos"] for panel in dashboard["panels"]], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in dashboard["panels"])


def test_variables_are_all_defined(dashboard, panels):
    defined = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) == defined


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool comes with Debian's package prometheus"
)
def test_prometheus_takes_every_expression(panels, tmp_path):
    rules = [{"record": f"panel:{i}", "expr": text} for i, text in enumerate(expressions(panels))]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", tmp_path / "rules.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def test_grafana_finds_the_folder(dashboard):
    provided = yaml.safe_load((HOME / "provider.yaml").read_text())
    (provider,) = provided["providers"]
    assert provided["apiVersion"] == 1
    assert (provider["type"], provider["folder"]) == ("file", "raylens")
