"""Searches with a real Ray: they end, they resume, and what was finished is not repeated."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from raylens import checkpoint, config
from raylens.cluster.search import search
from raylens.cluster.training import training
from raylens.cluster.worker import build
from raylens.config import Run
from tests.cluster.drivers import killed, warm

pytestmark = pytest.mark.slow

TINY = {"encoder.width": 8, "data.batch": 16, "fit.steps": 30, "fit.report_every": 10, "fit.start_steps": 20}
TINY |= {"scale.gpus": 0}
FRAGILE = "tests.cluster.fragile:Fragile"


def weights(folder: str | Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(Path(folder) / "model.safetensors")


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def hparams(trial: Path) -> set[str]:
    """Names of the settings that TensorBoard shows for a trial."""
    events = EventAccumulator(str(trial)).Reload()
    assert "ray/tune/objective" in events.Tags()["scalars"]
    held = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    return set(HParamsPluginData.FromString(held).session_start_info.hparams)


def test_a_search_leaves_a_leaderboard_and_a_checkpoint_and_is_not_repeated(
    ray_cluster, toy_sets, tmp_path, capsys
):
    run = config.build(
        {
            "method.name": "adda",
            "storage": str(tmp_path),
            "name": "first",
            "search.trials": 3,
            "search.keep": 2,
        },
        toy_sets,
        TINY,
    )
    best = search(run)
    assert best == f"{tmp_path}/first/best"
    board = pd.read_csv(tmp_path / "first" / "leaderboard.csv")
    assert list(board["trial"][-2:]) == ["source only", "batch norm only"]
    trials = board[board["trial"].str.startswith("adda")].reset_index()
    steps, agreement = trials["steps"], trials["agreement"]
    assert len(trials) == 3
    assert steps[0] == steps.max()
    whole = trials[steps == steps.max()]
    if len(whole) > 1:  # asha may stop one or two of them
        assert board["trial"][0] == f"average-of-{len(whole)}"
        assert board[["optimizer.lr", "agreement"]].iloc[0].isna().all()
        assert checkpoint.read(best).metrics["averaged"] == ", ".join(whole["trial"])
        states = [weights(path) for path in whole["checkpoint"]]
        for name, value in weights(best).items():
            if value.dtype.kind == "f":
                wanted = np.mean([state[name] for state in states], axis=0)
                np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)
    assert len(board) == 5 + (len(whole) > 1)
    assert steps.is_monotonic_decreasing
    assert agreement.notna().all() == (steps == steps.max()).all(), "half a training is not compared"
    for _, alike in trials.groupby("steps"):
        assert alike["objective" if agreement.isna().any() else "agreement"].is_monotonic_decreasing
    measured = board["target/auroc"].notna()
    assert measured.tolist() == [True, True, *[False] * (len(board) - 4), True, True]
    assert {"target/auroc_low", "difference_high", "optimizer.lr"} <= set(board.columns)
    assert checkpoint.read(best).run.start == f"{tmp_path}/first/start"
    worked = checkpoint.read(f"{tmp_path}/first/start").versions
    assert worked.get("commit") == checkpoint.commit(), "a worker knows it as well"
    assert "target test AUROC" in capsys.readouterr().out
    for trial in trials["trial"]:
        assert hparams(tmp_path / "first" / "trials" / trial) == set(config.space(run))

    held = {
        path: path.stat().st_mtime
        for path in (tmp_path / "first" / "trials").glob("*/checkpoint_*/state.json")
    }
    before = weights(best)
    assert search(run) == best
    assert equal(weights(best), before)
    assert {path: path.stat().st_mtime for path in held} == held


def test_a_search_that_ruins_all_models_releases_the_one_they_started_from(
    ray_cluster, toy_sets, tmp_path, capsys
):
    run = config.build(
        {"method.name": "tests.cluster.fragile:Ruined", "storage": str(tmp_path), "name": "ruin"},
        {"search.trials": 2},
        toy_sets,
        TINY | {"fit.start_steps": 60},
    )
    best = search(run)
    said = capsys.readouterr().out
    assert f"no trial is released; {best} is the model that they started from" in said
    assert "2 of 2 models are not released; their warnings say why" in said
    assert equal(weights(best), weights(tmp_path / "ruin" / "start"))
    board = pd.read_csv(tmp_path / "ruin" / "leaderboard.csv")
    assert list(board["trial"][2:]) == ["source only", "batch norm only"]
    assert board["warnings"][:2].str.contains("not released: source AUROC 0.").all()
    assert board["agreement"].isna().all()


def test_a_trial_whose_process_dies_ends_with_the_weights_of_one_that_lives(ray_cluster, toy_sets, tmp_path):
    ended = {}
    for name, steps in (("calm", 0), ("killed", 17)):
        run = config.build(
            {"method.name": FRAGILE, "method.dies_after": steps, "method.marker": str(tmp_path / name)},
            {"storage": str(tmp_path), "name": name, "search.trials": 1, "search.validator": "source_auroc"},
            {
                "search.space": {"optimizer.lr": {"uniform": [1e-4, 1e-3]}},
                "optimizer.lr": 5e-4,
                "encoder.dropout": 0.1,
            },
            toy_sets,
            TINY,
        )
        search(run)
        (last,) = (tmp_path / name / "trials").glob("*/checkpoint_000002")
        ended[name] = weights(last)
    assert (tmp_path / "killed").exists()
    assert equal(ended["calm"], ended["killed"])


def test_trials_that_fill_the_cluster_wait_for_each_other_and_survive_a_death(
    ray_cluster, toy_sets, tmp_path
):
    """Two workers of a CPU each are all that there is, and a trial's own process holds nothing of it."""
    run = config.build(
        {"method.name": FRAGILE, "method.dies_after": 17, "method.marker": str(tmp_path / "marker")},
        {"storage": str(tmp_path), "name": "nested", "search.trials": 2},
        {"scale.workers": 2, "scale.cpus": 1},
        {"search.space": {"optimizer.lr": {"uniform": [1e-4, 1e-3]}}, "optimizer.lr": 5e-4},
        toy_sets,
        TINY,
    )
    best = search(run)
    assert (tmp_path / "marker").exists()
    board = pd.read_csv(tmp_path / "nested" / "leaderboard.csv")
    assert len(board) == 2
    assert board["steps"].max() == 30
    assert checkpoint.read(best).metrics["step"] in (10, 20, 30)
    end = time.monotonic() + 20  # Train looks once a second for controllers that were killed
    while (reserved := reservations(ray_cluster)) and time.monotonic() < end:
        time.sleep(0.5)
    assert not reserved, "for workers of a trial that was stopped"


def reservations(ray) -> list[dict]:
    """Placement groups that hold a part of the cluster, or wait for one."""
    groups = ray.util.placement_group_table().values()
    return [group for group in groups if group["state"] != "REMOVED"]


def test_a_trial_of_two_workers_that_failed_goes_on_and_ends_as_one_that_did_not(
    ray_cluster, toy_sets, tmp_path
):
    def run(name: str, steps: int) -> Run:
        return config.build(
            {"method.name": FRAGILE, "method.dies_after": steps, "method.marker": str(tmp_path / name)},
            {"storage": str(tmp_path / "runs"), "name": name, "search.trials": 1, "scale.workers": 2},
            {"search.space": {"optimizer.lr": {"uniform": [1e-4, 1e-3]}}, "search.retries": 0},
            {"optimizer.lr": 5e-4},
            toy_sets,
            TINY,
        )

    calm = search(run("calm", 0))
    with pytest.raises(RuntimeError, match="no trial of 1 came to an end"):
        search(run("killed", 17))  # with a checkpoint of step 10, which is no end
    assert (tmp_path / "killed").exists()
    killed = search(run("killed", 17))
    (result,) = (tmp_path / "runs" / "killed" / "trials").glob("*/result.json")
    steps = [json.loads(line)["step"] for line in result.read_text().splitlines()]
    assert steps == [10, 20, 30]
    assert equal(weights(calm), weights(killed))


@pytest.mark.parametrize(
    ("searcher", "scheduler", "oracle"), [("tpe", "asha", True), ("random", "pbt", False)]
)
def test_other_searchers_and_schedulers(
    ray_cluster, toy_sets, tmp_path, capsys, monkeypatch, searcher, scheduler, oracle
):
    together = []

    def count(self, iteration, trials, trial, result, **info):
        together.append(sum(one.status == "RUNNING" for one in trials))

    monkeypatch.setattr("raylens.cluster.progress.Progress.on_trial_result", count)
    run = config.build(
        {"method.name": "supervised", "storage": str(tmp_path), "name": "other", "search.trials": 3},
        {"search.searcher": searcher, "search.scheduler": scheduler, "search.oracle": oracle},
        toy_sets,
        TINY | ({"scale.gpus": 0.5, "scale.cpus": 0.5} if searcher == "tpe" else {}),
    )
    best = search(run)
    if searcher == "tpe":
        assert max(together) == 2, "there are two halves of the GPU, and four of CPUs"
    said = capsys.readouterr().out
    assert ("cheating" in said) is oracle
    written = (tmp_path / "other" / "leaderboard.csv").read_text()
    assert ("cheating" in written) is oracle
    board = pd.read_csv(tmp_path / "other" / "leaderboard.csv", comment="#")
    assert len(board) == 3
    assert board["optimizer.lr"].nunique() > 1
    assert checkpoint.read(best).metrics["step"] == board["steps"][0]


def test_the_winner_of_a_search_on_a_part_trains_on_the_whole(ray_cluster, toy_sets, tmp_path, capsys):
    run = config.build(
        {"method.name": "adda", "storage": str(tmp_path), "name": "part", "search.trials": 2},
        {"data.resident_limit": 0.0014, "search.validator": "source_auroc", "data.cpus": 0.25},
        {"search.may_lose": None},  # the target's batch norm costs this source more
        toy_sets,
        TINY,
    )
    best = search(run)
    said = capsys.readouterr().out
    assert "the winner trains on all of them" in said
    assert "streaming" in said
    assert checkpoint.read(best).metrics["step"] == 30
    table = pd.read_csv(tmp_path / "part" / "leaderboard.csv")
    assert table["target/auroc"].notna().tolist() == [True, True, False, True, True], "but for its own part"
    winner = table["checkpoint"][0]
    assert "/part/whole-adda-" in winner
    assert (tmp_path / "part" / "start-workers").is_dir(), "the start knows all of the source"
    assert not (tmp_path / "part" / "start-trial").exists()
    assert equal(weights(best), weights(winner))
    before, board = weights(best), (tmp_path / "part" / "leaderboard.csv").read_text()
    assert len(pd.read_csv(tmp_path / "part" / "leaderboard.csv")) == 5, (
        "the winner on all rows, the trials, and two baselines"
    )
    search(run)
    assert equal(weights(best), before)
    assert (tmp_path / "part" / "leaderboard.csv").read_text() == board


def test_a_method_without_target_that_starts_from_a_model_is_compared_with_it(
    ray_cluster, toy_sets, tmp_path, tiny
):
    here = {"storage": str(tmp_path), "name": "start"}
    first = config.build(TINY, {"method.name": "supervised"}, here, toy_sets)
    checkpoint.save(tmp_path / "start", first, tiny.facts(), build(first, tiny.facts()).model, {})
    search(first.replace(name="on", start=str(tmp_path / "start"), **{"search.trials": 1}))
    board = pd.read_csv(tmp_path / "on" / "leaderboard.csv")
    assert list(board["trial"][1:]) == ["source only"]
    assert board["difference"].notna().tolist() == [True, False]


def test_a_training_of_two_workers_streams_both_domains_and_resumes(ray_cluster, toy_sets, tmp_path, tiny):
    here = {"name": "start", "storage": str(tmp_path)}
    first = config.build(TINY, {"method.name": "supervised"}, here, toy_sets)
    checkpoint.save(tmp_path / "start", first, tiny.facts(), build(first, tiny.facts()).model, {})
    ended = {}
    for name, steps in (("calm", 0), ("killed", 17)):
        run = config.build(
            {"method.name": f"{FRAGILE}ADDA", "method.dies_after": steps, "start": str(tmp_path / "start")},
            {"method.marker": str(tmp_path / f"{name}-marker"), "storage": str(tmp_path), "name": name},
            {"data.mode": "streaming", "data.cpus": 0.25, "scale.workers": 2, "scale.cpus": 0.5},
            toy_sets,
            TINY,
        )
        ended[name] = weights(training(run))
    assert (tmp_path / "killed-marker").exists()
    assert equal(ended["calm"], ended["killed"])


def test_a_cut_record_of_a_training_is_made_anew_from_its_checkpoints(ray_cluster, toy_sets, tmp_path):
    here = {"storage": str(tmp_path), "name": "cut"}
    run = config.build(
        TINY | {"fit.steps": 20}, {"method.name": "supervised", "data.source": toy_sets["data.source"]}, here
    )
    before = weights(training(run))
    workers = tmp_path / "cut" / "workers"
    first, last = sorted(workers.glob("checkpoint_2*"))
    written = (first / "state.json").stat().st_mtime
    shutil.rmtree(last)
    shutil.rmtree(tmp_path / "cut" / "last")
    record = workers / "checkpoint_manager_snapshot.json"
    record.write_bytes(record.read_bytes()[:100])

    assert equal(weights(training(run)), before)
    kept, again = sorted(workers.glob("checkpoint_2*"))
    assert (kept, (kept / "state.json").stat().st_mtime) == (first, written), "it went on from there"
    assert again != last


@pytest.mark.timeout(900)
def test_a_killed_driver_resumes_without_repeating_what_was_finished(toy_sets, tmp_path):
    command = [
        sys.executable,
        "-m",
        "raylens.tune",
        "supervised",
        "--storage",
        str(tmp_path),
        "--name",
        "killed",
    ]
    flags = {**toy_sets, **TINY, "search.trials": 4, "search.scheduler": "none"}
    flags |= {"fit.steps": 400, "fit.report_every": 20}
    command += [word for path, value in flags.items() for word in (f"--{path}", str(value))]
    folder = tmp_path / "killed"
    finished = killed(command, folder / "trials", tmp_path / "log")
    done = [path for name in finished for path in folder.glob(f"trials/{name}/checkpoint_*/*")]
    kept = {path: path.stat().st_mtime for path in done}
    ends = {end: weights(end) for end in _ends(folder)}
    again = [sys.executable, "-m", "raylens.tune", "--resume", str(folder)]
    resumed = subprocess.run(again, env=warm(), capture_output=True, text=True, timeout=600)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.strip().splitlines()[-1] == f"{folder}/best"
    assert {path: path.stat().st_mtime for path in kept} == kept
    for end, before in ends.items():  # those that the driver had no time to call finished too
        assert equal(weights(end), before)
    board = pd.read_csv(folder / "leaderboard.csv")
    assert (board["steps"].dropna() == 400).all()
    for result in folder.glob("trials/*/result.json"):
        steps = [json.loads(line)["step"] for line in result.read_text().splitlines()]
        # Tune copies its log to storage now and then: of a trial that had finished, the last line dies with the driver.
        uncopied = {400} if result.parent.name in finished else set()
        assert set(range(20, 401, 20)) - set(steps) <= uncopied
        assert len(steps) - len(set(steps)) <= 1  # at most one report interval was done again


def _ends(folder: Path) -> list[Path]:
    """The last checkpoints of the trials that have reported their last step."""
    results = folder.glob("trials/*/result.json")
    return [path.parent / "checkpoint_000019" for path in results if '"step": 400' in path.read_text()]
