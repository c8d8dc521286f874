"""Benchmarks with a real Ray: every cell is trained once, chosen without target labels, and measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from raylens import checkpoint, config, grid
from raylens.cluster.compare import _ask, compare, draws
from raylens.data.shards import read_split
from raylens.errors import ConfigError
from raylens.grid import Cell
from raylens.tables import Said
from tests.cluster.drivers import killed, warm
from tests.conftest import write_toy

SHORT = {"fit.steps": 30, "fit.report_every": 15, "fit.start_steps": 30, "data.batch": 16, "scale.gpus": 0}


def planned(toy_sets, storage, **written):
    settings = {**SHORT, **toy_sets, "storage": str(storage), "name": written.pop("name", "table")}
    return grid.build(({"encoders": {"small": {"encoder.width": 8}}, **written, **settings}, "a test"))


def times(folder: Path) -> dict[Path, float]:
    """When models were trained."""
    return {path: path.stat().st_mtime for path in folder.rglob("checkpoint_*/model.safetensors")}


@pytest.mark.slow
def test_a_benchmark_leaves_tables_and_is_not_repeated(ray_cluster, toy_sets, tmp_path, capsys):
    made = planned(toy_sets, tmp_path, methods=["adabn", "mcc"], seeds=[0, 1], **{"search.trials": 3})
    folder = Path(compare(made))
    assert folder == tmp_path / "table"
    said = capsys.readouterr().out
    assert "AUROC minus source only" in said
    assert "best objective" not in said.partition("trials of")[2], (
        "those of different methods compare with nothing"
    )

    table = pd.read_csv(folder / "table.csv")
    assert list(table["method"]) == ["source only", "adabn", "mcc"]
    assert (table["seeds"] == 2).all()
    trials = pd.read_csv(folder / "trials.csv")
    cells = trials.groupby(["method", "seed"])
    assert (cells["released"].sum() <= 1).all()
    averages = trials[trials["draw"].isna()]
    assert averages["optimizer.lr"].isna().all()
    assert (averages["method"] == "mcc").all()
    trials = trials[trials["draw"].notna()].astype({"draw": int})
    mcc = table.set_index("method").loc["mcc"]
    assert mcc["auroc"] == pytest.approx(averages["target/auroc"].mean())
    assert mcc["refused"] == 0
    assert len(trials) == 2 * (1 + 3), "adabn has nothing to draw"
    agreed = trials[trials["method"] == "mcc"].groupby("seed")
    assert agreed["agreement"].count().eq(3).all()
    assert len(averages) == 2
    for row in averages.to_dict("records"):
        assert row["released"]
        assert checkpoint.read(row["checkpoint"]).metrics["averaged"].count("mcc-small") == 3
        model = Said.read((folder / "outputs" / f"{Path(row['checkpoint']).name}.npz").read_bytes())
        assert row["target/auroc"] == model.auroc
    for seed in (0, 1):
        starts = {
            yaml.safe_load((path / "run.yaml").read_text())["start"]
            for path in folder.glob(f"trials/*seed{seed}*/checkpoint_*")
        }
        assert [Path(start).parent.name for start in starts] == [f"supervised-small-seed{seed}"]
    assert len([*folder.glob("outputs/*.npz")]) == 2 + 8 + len(averages)
    assert (folder / "table.png").stat().st_size > 5000
    assert (folder / "table.md").read_text() in said
    regret = pd.read_csv(folder / "regret.csv")
    assert set(regret["searches"]) == {2}

    before = times(folder)
    compare(made)
    assert times(folder) == before
    assert capsys.readouterr().out.count((folder / "table.md").read_text()) == 1
    for trial in trials.to_dict("records"):
        name = f"{trial['method']}-small-seed{trial['seed']}-{trial['draw']}"
        assert trial["target/auroc"] == Said.read((folder / "outputs" / f"{name}.npz").read_bytes()).auroc
    with pytest.raises(ConfigError, match=r"is a benchmark with seeds \[0, 1\], and \[0, 2\] was given"):
        compare(planned(toy_sets, tmp_path, methods=["adabn", "mcc"], seeds=[0, 2], **{"search.trials": 3}))


def test_validators_are_told_the_prior_that_a_trial_was(toy_sets, tiny, tmp_path):
    data, scores = tiny.resident(), {}
    for told in (None, 0.01, 0.3):
        run = tiny.run("adda", method={"target_prior": told}).replace(**toy_sets)
        checkpoint.save(tmp_path / "model", run, tiny.facts(), tiny.method(run).result, {})
        _ask(str(tmp_path / "model"), run, data, out := str(tmp_path / "said.npz"))
        scores[told] = Said.read(Path(out).read_bytes()).scores
    by_prior = {told: one.pop("information_maximisation") for told, one in scores.items()}
    assert len({*by_prior.values()}) == 3
    assert scores[None] == scores[0.01] == scores[0.3], "no other validator wants to know"


@pytest.mark.slow
def test_parts_of_another_test_split_are_measured_by_themselves(ray_cluster, toy_sets, tmp_path):
    other = write_toy(f"{tmp_path}/other", shifted=True, rows=300, seed=5)
    parts = {"where": ["half=odd", "half=odd,even"], "methods": ["adabn"], "seeds": [0], "data.test": other}
    folder = Path(compare(planned(toy_sets, tmp_path, **parts)))
    trials = pd.read_csv(folder / "trials.csv")
    (trial,) = trials.to_dict("records")
    said = Said.read((folder / "outputs" / "adabn-small-seed0-0.npz").read_bytes())
    np.testing.assert_array_equal(said.labels, read_split(other, "test")["label"])
    assert trial["target/auroc half=odd,even"] == pytest.approx(said.auroc)
    odd = read_split(other, "test", ("half",))["half"] == "odd"
    assert trial["target/auroc half=odd"] == pytest.approx(said.only(odd).auroc)
    table = pd.read_csv(folder / "table-half.odd.csv").set_index("method")
    assert table.loc["adabn", "auroc"] == pytest.approx(said.only(odd).auroc)
    start = Said.read((folder / "outputs" / "supervised-small-seed0.npz").read_bytes())
    assert table.loc["source only", "auroc"] == pytest.approx(start.only(odd).auroc)
    assert not (folder / "table.csv").exists()
    parts["where"] = ["halb=odd"]
    with pytest.raises(ConfigError, match="'halb=odd' is not COLUMN=VALUE"):
        compare(planned(toy_sets, tmp_path, **parts, name="other"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_benchmark_goes_on_with_what_was_not_finished(toy_sets, tmp_path):
    settings = {
        **SHORT,
        **toy_sets,
        "search.trials": 3,
        "encoder.width": 8,
        "storage": str(tmp_path),
        "name": "killed",
    }
    settings |= {"fit.steps": 300}
    flags = [word for path, value in settings.items() for word in (f"--{path}", str(value))]
    command = [sys.executable, "-m", "raylens.benchmark", "--methods", "mcc", "--seeds", "0", *flags]
    folder = tmp_path / "killed"
    finished = killed(command, folder / "trials", tmp_path / "log")
    assert len(finished) < 3
    kept = {path: at for name in finished for path, at in times(folder / "trials" / name).items()}
    kept |= times(folder / "starts")
    again = [sys.executable, "-m", "raylens.benchmark", "--resume", str(folder)]
    resumed = subprocess.run(again, env=warm(), capture_output=True, text=True, timeout=400)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.strip().splitlines()[-1] == str(folder)
    now = times(folder)
    assert {path: now[path] for path in kept} == kept
    assert (pd.read_csv(folder / "trials.csv")["steps"] == 300).all()


def test_draws_are_the_defaults_and_others_the_same_for_every_encoder():
    made = grid.build(
        ({"methods": ["adda", "adabn"], "encoders": ["small", "lcnet_050"], "seeds": [0, 1]}, "a test")
    )
    cells = made.cells()
    drawn = {cell: draws(run) for cell, run in cells.items()}
    assert len(drawn[Cell("adabn", "small", 0)]) == 1
    ours = drawn[Cell("adda", "small", 0)]
    run = cells[Cell("adda", "small", 0)]
    assert len(ours) == 4
    assert ours[0] == {path: config.flat(run)[path] for path in config.space(run)}
    assert ours == drawn[Cell("adda", "lcnet_050", 0)]
    assert ours[1] != drawn[Cell("adda", "small", 1)][1]
    rates = np.array([sample["optimizer.lr"] for sample in ours])
    assert len(set(rates)) == 4
