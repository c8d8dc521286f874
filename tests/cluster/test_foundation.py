"""jobs/foundation.sh, whole, as small as it comes: simulated, searched, finetuned and evaluated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

HOME = Path(__file__).parents[2]
SMALL = {"ROWS": "180", "STEPS": "6", "FINE": "4", "SEEDS": "0", "TRIALS": "2"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_a_search_without_labels_to_an_evaluated_model(tmp_path):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = inherited | SMALL | {"RAYLENS": sys.executable, "RAY_USAGE_STATS_ENABLED": "0"}
    ran = subprocess.run(
        ["bash", str(HOME / "jobs" / "foundation.sh"), "model-ii", "contrastive", "mae"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    runs = tmp_path / "runs"
    assert len(pd.read_csv(runs / "model-ii-small-contrastive" / "leaderboard.csv")) == 2
    table = pd.read_csv(runs / "model-ii-finetuned" / "finetuned.csv")
    assert table["labels"].tolist() == ["1%"] * 6 + ["10%"] * 6 + ["all"] * 6
    assert table["encoder"].tolist()[::3] == ["small contrastive finetuned", "vit mae finetuned"] * 3
    (measured,) = (runs / "model-ii-finetuned" / "evaluation").glob("*/metrics.json")
    assert json.loads(measured.read_text())["classes"] == {"no_sub": 6, "cdm": 6, "axion": 6}
