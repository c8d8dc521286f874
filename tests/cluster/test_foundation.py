"""Jobs of substructure, whole, as small as they come: jobs/foundation.sh and jobs/easier.sh."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.cluster.drivers import warm

HOME = Path(__file__).parents[2]
SMALL = {"ROWS": "180", "STEPS": "6", "FINE": "4", "SEEDS": "0", "TRIALS": "2"}


@pytest.fixture(scope="module")
def cluster():
    """A Ray that the commands of a job find, as on a cluster; to start one for each takes ten seconds."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


def job(cluster, name: str, *words: str, folder: Path, **settings: str) -> Path:
    """Run a job in `folder`; returns where its runs are."""
    ran = subprocess.run(
        ["bash", str(HOME / "jobs" / name), *words],
        cwd=folder,
        env=warm(RAYLENS=sys.executable, RAY_ADDRESS=cluster.address, **settings),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return folder / "runs"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_a_search_without_labels_to_an_evaluated_model(cluster, tmp_path):
    runs = job(cluster, "foundation.sh", "model-ii", "mae", folder=tmp_path, **SMALL)
    assert len(pd.read_csv(runs / "model-ii-vit-mae" / "leaderboard.csv")) == 2
    table = pd.read_csv(runs / "model-ii-finetuned" / "finetuned.csv")
    assert table["labels"].tolist() == ["1%"] * 3 + ["10%"] * 3 + ["all"] * 3
    assert table["encoder"].tolist() == ["finetuned", "frozen", "from scratch"] * 3
    (measured,) = (runs / "model-ii-finetuned" / "evaluation").glob("*/metrics.json")
    assert json.loads(measured.read_text())["classes"] == {"no_sub": 6, "cdm": 6, "axion": 6}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_heavier_substructure_to_the_set_itself(cluster, tmp_path):
    runs = job(cluster, "easier.sh", "model-ii", folder=tmp_path, ROWS="180", STEPS="4", SEEDS="0")
    made = json.loads((tmp_path / "shards" / "model-ii-heavier4-64" / "manifest.json").read_text())["made"]
    assert "--heavier 4" in made["command"]
    table = pd.read_csv(runs / "model-ii-from-easier" / "finetuned.csv")
    assert table["kind"].tolist() == ["finetuned", "from scratch"] * 3
    (start,) = json.loads((runs / "model-ii-from-easier" / "plan.json").read_text())["starts"]
    assert start.endswith("model-ii-heavier2/best")
