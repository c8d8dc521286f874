"""Folders of runs, read back."""

from __future__ import annotations

import json
import shutil

import pytest

from raylens import config
from raylens.errors import ConfigError
from raylens.pages import parts, runs


def test_a_search_is_read_with_its_trials_as_they_went(searched):
    found = runs.read(searched + "/")
    assert (found.name, found.kind, len(found.trials)) == ("found", "search", 9)
    states = [trial.state for trial in found.trials]
    assert states == ["ended"] * 7 + ["stopped early", "failed"]
    assert found.trials[8].error == "RuntimeError: out of memory"
    assert list(found.trials[0].reports["step"]) == [2, 4]  # and not the line that was cut off
    assert found.trials[0].settings.keys() == {"optimizer.lr"}
    assert found.checkpoint("best", "last").folder.name == "best"
    assert found.table["trial"].iloc[0] == "adda-00000"


def test_of_a_search_that_goes_on_only_what_was_stopped_counts_as_stopped(searched, tmp_path):
    copied = shutil.copytree(searched, tmp_path / "found")
    (copied / "leaderboard.csv").unlink()
    (copied / "trials" / "adda-00008" / "error.txt").unlink()
    last = {"step": 2, "objective": 0.1, "done": True}
    with (copied / "trials" / "adda-00008" / "result.json").open("w") as file:
        file.write(json.dumps({"step": 1, "objective": 0.1, "done": False}) + "\n" + json.dumps(last))
    states = [trial.state for trial in runs.read(str(copied)).trials]
    assert states == ["ended"] * 7 + ["unfinished", "stopped early"]


def test_a_report_that_was_made_twice_counts_once_and_as_it_was_last(searched, tmp_path):
    path = tmp_path / "result.json"
    path.write_text(
        "".join(
            json.dumps({"step": step, "objective": value}) + "\n"
            for step, value in [(2, 0.1), (4, 0.2), (2, 0.3)]
        )
    )
    found = runs._reports(str(path))
    assert found["step"].tolist() == [2, 4]
    assert found["objective"].tolist() == [0.3, 0.2]


def test_a_training_is_told_by_its_reports(tiny, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "run.yaml").write_text(config.dump(tiny.run()))
    assert runs.read(str(tmp_path / "one")).trials == ()
    (tmp_path / "one" / "workers").mkdir()
    (tmp_path / "one" / "workers" / "reports.jsonl").write_text('{"step": 4, "objective": 0.5}\n')
    (trial,) = runs.read(str(tmp_path / "one")).trials
    assert trial.state == "ended"
    (tmp_path / "one" / "workers" / "reports.jsonl").write_text('{"step": 2, "objective": 0.5}\n')
    (trial,) = runs.read(str(tmp_path / "one")).trials
    assert trial.state == "unfinished"
    (tmp_path / "one" / "start-workers").mkdir()  # as an adaptation leaves it that trained its own start
    assert runs.read(str(tmp_path / "one")).kind == "training"
    (tmp_path / "one" / "trials").mkdir()
    assert runs.read(str(tmp_path / "one")).kind == "search", "trials of several workers leave both"


def test_what_diverged_has_failed_and_says_why(tiny, tmp_path):
    (tmp_path / "one" / "workers").mkdir(parents=True)
    (tmp_path / "one" / "run.yaml").write_text(config.dump(tiny.run()))
    last = '{"step": 2, "objective": -1e9, "warnings": "not finite at step 1: loss/supervised"}\n'
    (tmp_path / "one" / "workers" / "reports.jsonl").write_text(last)
    folder = runs.read(str(tmp_path / "one"))
    assert folder.trials[0].state == "failed"
    (words,) = parts._summary(folder, None)
    assert words.text == "The training diverged: not finite at step 1: loss/supervised."


def test_what_is_no_run_is_refused(searched, tmp_path):
    with pytest.raises(ConfigError, match="is no run: it has no"):
        runs.read(str(tmp_path))
    with pytest.raises(ConfigError, match="is a checkpoint; give the folder of its run"):
        runs.read(f"{searched}/best")
