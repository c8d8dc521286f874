"""A resumed search whose record of its trials is older than what was deleted since."""

from __future__ import annotations

import itertools
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from raylens import config
from raylens.cluster import launch
from raylens.cluster.progress import Progress
from raylens.cluster.trial import nested
from raylens.cluster.tuning import tuned
from raylens.cluster.worker import WORST
from tests.cluster.counting import counts, lives


def counted(folder, **search):
    """The one trial of a search over nothing, or of the same search again."""
    from ray import tune
    from ray.tune.search.basic_variant import BasicVariantGenerator

    settings = {f"search.{name}": value for name, value in {"retries": 0, **search}.items()}
    run = config.build({"method.name": "supervised", "fit.steps": 6, "fit.report_every": 1}, settings)
    plan = tune.TuneConfig(metric="objective", mode="max", search_alg=BasicVariantGenerator(max_concurrent=1))
    trial = tune.with_parameters(counts, folder=str(folder))
    (result,) = tuned(trial, run, f"{folder}/trials", {}, plan, Progress([run], lambda trial: run))
    return result


@pytest.mark.parametrize(
    ("moved", "begun", "kept"),
    [
        pytest.param({2: None, 3: 7}, 4, [8, 9], id="both known ones were deleted, and there are later ones"),
        pytest.param({2: None, 3: None}, 0, [4, 5], id="none is left"),
        pytest.param({2: None}, 4, [4, 5], id="the older one was deleted"),
        pytest.param({3: "state.json"}, 3, [4, 5], id="the newest was cut off"),
    ],
)
def test_a_trial_goes_on_from_a_checkpoint_that_is_left(ray_cluster, tmp_path, moved, begun, kept):
    (tmp_path / "fail").touch()
    first = counted(tmp_path)
    assert first.error is not None
    at = Path(first.path)

    def numbers():
        return sorted(int(path.name.removeprefix("checkpoint_")) for path in at.glob("checkpoint_*"))

    assert numbers() == [2, 3]
    for number, change in moved.items():
        checkpoint = at / f"checkpoint_{number:06d}"
        if isinstance(change, str):
            (checkpoint / change).unlink()
        else:
            checkpoint.rename(at / (f"deleted-{number}" if change is None else f"checkpoint_{change:06d}"))
    (tmp_path / "fail").unlink()

    second = counted(tmp_path)
    assert second.error is None
    assert (tmp_path / "begun").read_text().split() == ["0", str(begun)]
    assert second.metrics["step"] == 6
    assert numbers() == kept
    assert Path(second.checkpoint.path).name == f"checkpoint_{kept[-1]:06d}"
    assert Path(second.checkpoint.path, "state.json").read_text() == "6"


def test_a_resumed_search_tries_again_as_often_as_it_is_told_now(ray_cluster, tmp_path):
    (tmp_path / "fail").write_text("xxx")
    assert counted(tmp_path).error is not None
    assert counted(tmp_path, retries=2).error is None
    assert (tmp_path / "begun").read_text().split() == ["0", "4", "4", "4"]


class Stopped(Progress):
    """Of a driver that ends with its first trial."""

    def on_step_end(self, iteration, trials, **info):
        if any(trial.is_finished() for trial in trials):
            raise KeyError("stopped")


@pytest.mark.parametrize(
    ("searcher", "seconds"), [("random", 1), ("tpe", 6)]
)  # tpe's begin one in five seconds
def test_a_resumed_search_begins_as_many_trials_at_once_as_there_is_room_for_now(
    ray_cluster, tmp_path, searcher, seconds
):
    from ray import tune
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.basic_variant import BasicVariantGenerator
    from ray.tune.search.optuna import OptunaSearch

    first = config.build({"method.name": "supervised", "fit.steps": 6, "fit.report_every": 1})

    def tried(concurrent, retries, progress):
        run = first.replace(**{"search.retries": retries})
        if searcher == "random":
            made = BasicVariantGenerator(max_concurrent=concurrent)
        else:
            made = ConcurrencyLimiter(OptunaSearch(), concurrent)
        plan = tune.TuneConfig(metric="objective", mode="max", num_samples=3, search_alg=made)
        trial = tune.with_parameters(lives, folder=str(tmp_path), seconds=seconds)
        trial = tune.with_resources(trial, {"CPU": 0.5})
        space = {"a": tune.uniform(0, 1)}
        return tuned(trial, run, f"{tmp_path}/trials", space, plan, progress([run] * 3, lambda trial: run))

    with pytest.raises(Exception, match="stopped"):
        tried(1, 0, Stopped)
    assert len(list(tmp_path.glob("life-*"))) < 3, "some of them were not begun"
    for life in tmp_path.glob("life-*"):
        life.unlink()
    if searcher == "tpe":
        (tmp_path / "fail").touch()
    results = tried(2, 1, Progress)
    assert len(results) == 3
    assert not (tmp_path / "fail").exists()
    assert results.num_errors == 0, "new ones too are tried again as often as it is told now"
    spans = sorted(json.loads(life.read_text()) for life in tmp_path.glob("life-*"))
    assert any(later[0] < earlier[1] for earlier, later in itertools.pairwise(spans))


def test_a_cut_record_of_tune_is_mended_from_the_last_whole_copy(ray_cluster, tmp_path, monkeypatch):
    from raylens.cluster import recover

    monkeypatch.setattr(recover, "SECONDS", 0.0)
    (tmp_path / "fail").touch()
    assert counted(tmp_path).error is not None
    (tmp_path / "fail").unlink()
    torn = list(Path(tmp_path, "trials").glob("*state-*"))
    assert {path.name for path in torn} == {path.name for path in Path(tmp_path, "trials/record").iterdir()}
    for path in torn:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    result = counted(tmp_path)
    assert result.error is None
    assert result.metrics["step"] == 6
    assert (tmp_path / "begun").read_text().split()[0] == "0"


def test_a_copy_of_the_record_is_made_of_whole_files_alone_and_whole_files_are_left(tmp_path):
    from raylens.cluster.recover import Recorded, mend_record

    trials, searcher = tmp_path / "experiment_state-now.json", tmp_path / "searcher-state-now.pkl"
    for state in ("1", '{"cut'):
        trials.write_text(state)
        searcher.write_bytes(b"held " + state.encode() + b".")
        Recorded(str(tmp_path)).on_step_end(0, [])
    mend_record(str(tmp_path))
    assert trials.read_text() == "1"
    assert searcher.read_bytes() == b"held 1.", "it was whole, and of another moment"
    mend_record(f"{tmp_path}/nothing-there")


def test_what_a_second_driver_left_cut_off_gives_way_to_what_the_first_wrote(tmp_path):
    """Tune reads the newest of these files, and of the others nothing."""
    from raylens.cluster.recover import mend_record, recorded

    (tmp_path / "experiment_state-2026-01-01.json").write_text("1")
    (tmp_path / "basic-variant-state-2026-01-01.json").write_bytes(b"held.")
    (tmp_path / "experiment_state-2026-01-02.json").write_text("")
    (tmp_path / "basic-variant-state-2026-01-02.json").write_bytes(b"held.")
    (tmp_path / "basic-variant-state-2026-01-03.json").write_bytes(b"held.")
    mend_record(str(tmp_path))
    assert recorded(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "basic-variant-state-2026-01-01.json",
        "experiment_state-2026-01-01.json",
    ]


def test_what_was_cut_off_before_any_trial_began_begins_anew(ray_cluster, tmp_path):
    """Tune's settings are there, cut off or not, and no record of a trial."""
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / "tuner.pkl").write_bytes(b"\x80\x05cut off")
    result = counted(tmp_path)
    assert (result.error, result.metrics["step"]) == (None, 6)


def test_a_training_that_ended_before_tune_knew_of_it_tells_its_end(tiny, tmp_path, monkeypatch):
    """Several workers' own record is written at each report, Tune's now and then."""
    from ray.train import UserCallback

    told, begun = [], []

    class Trained:
        """As Ray Train's, whose reports come by the callback."""

        def __init__(self, *_, **settings):
            begun.append(settings["run_config"].name)

        def fit(self):
            return None

    monkeypatch.setattr("ray.train.torch.TorchTrainer", Trained)
    monkeypatch.setattr("raylens.cluster.launch.scaling", lambda run: None)
    monkeypatch.setattr(
        "ray.tune.get_context",
        lambda: SimpleNamespace(get_trial_id=lambda: "abc_00000", get_trial_name=lambda: "a"),
    )
    monkeypatch.setattr("ray.tune.integration.ray_train.TuneReportCallback", UserCallback)
    monkeypatch.setattr("ray.tune.report", told.append)
    run = tiny.run(fit={"steps": 6, "report_every": 1}, scale={"gpus": 0}).replace(
        storage=str(tmp_path), name="run"
    )
    record = tmp_path / "run" / "workers" / "abc_00000"
    record.mkdir(parents=True)
    for step in (0, 5, 6):
        last = {"metrics": {"step": step, "objective": 0.9}, "checkpoint_dir_name": f"at-{step}"}
        if step:
            snapshot = json.dumps({"latest_checkpoint_result": last})
            (record / "checkpoint_manager_snapshot.json").write_text(snapshot)
        assert told == []
        nested({}, run, None, (None,))
    assert begun == ["abc_00000"] * 2, "no worker is needed to find that it has ended"
    assert told == [{"step": 6, "objective": 0.9, "checkpoint_path": f"{record}/at-6"}]


@pytest.mark.parametrize("objective", [0.9, WORST])
def test_a_training_that_has_ended_is_not_begun_again(tiny, tmp_path, monkeypatch, objective):
    def trained(*_):
        raise AssertionError("it began again")

    monkeypatch.setattr(launch, "_trained", trained)
    last = {
        "metrics": {"step": 6, "objective": objective, "warnings": "not finite"},
        "checkpoint_dir_name": "at-6",
    }
    (tmp_path / "checkpoint_manager_snapshot.json").write_text(json.dumps({"latest_checkpoint_result": last}))
    run = tiny.run(fit={"steps": 6, "report_every": 1})
    diverged = objective == WORST
    with pytest.raises(launch.TrainingDiverged, match="not finite") if diverged else nullcontext():
        assert launch.train(run, None, None, str(tmp_path)) == f"{tmp_path}/at-6"
    with pytest.raises(AssertionError, match="began again"):
        launch.train(run.replace(**{"fit.steps": 7}), None, None, str(tmp_path))
