"""What a search asks of Tune, and what it makes of a trial that ended; no Ray is started."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pandas as pd
import pytest
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from raylens import config
from raylens.cluster import gauges, nodes
from raylens.cluster.board import Board
from raylens.cluster.gauges import Gauges
from raylens.cluster.search import _tune_config, of_result
from raylens.cluster.worker import WORST
from raylens.config import space


@pytest.fixture(autouse=True)
def cluster(monkeypatch):
    monkeypatch.setattr(nodes, "capacity", lambda: {"CPU": 4.0, "GPU": 0.0})
    monkeypatch.setattr(nodes, "now_and_grown", lambda: ([nodes.Nodes({"CPU": 4.0}, 1)], []))


def search(tiny, method="adda", **search):
    return tiny.run(method, fit={"steps": 400, "report_every": 20}, search=search, scale={"gpus": 0})


def test_asha_stops_trials_by_their_steps_and_never_those_that_end(tiny):
    made = _tune_config(search(tiny, reduction=3), nested=False)
    assert isinstance(made.scheduler, ASHAScheduler)
    (bracket,) = made.scheduler._brackets
    rungs = [milestone for milestone, _ in bracket._rungs]
    assert rungs == [300, 100]
    assert made.scheduler._time_attr == "step"
    assert made.scheduler._max_t > 400
    assert (made.metric, made.mode, made.reuse_actors) == ("objective", "max", True)


@pytest.mark.parametrize(
    ("settings", "scheduler", "searcher"),
    [
        ({}, ASHAScheduler, BasicVariantGenerator),
        ({"searcher": "tpe"}, ASHAScheduler, OptunaSearch),
        ({"scheduler": "none"}, FIFOScheduler, BasicVariantGenerator),
        ({"scheduler": "pbt"}, PopulationBasedTraining, BasicVariantGenerator),
    ],
)
def test_a_setting_is_what_tune_is_given(tiny, settings, scheduler, searcher):
    made = _tune_config(search(tiny, **settings), nested=False)
    assert type(made.scheduler) is scheduler
    assert type(getattr(made.search_alg, "searcher", made.search_alg)) is searcher


@pytest.mark.parametrize("searcher", ["random", "tpe"])
def test_the_first_trial_has_the_defaults_that_lie_in_the_ranges(tiny, searcher):
    ranges = {
        "optimizer.lr": {"log_uniform": [1e-4, 1e-2]},  # the default is 3e-5
        "method.gate": {"choice": [0.0, 0.6]},  # 0.55
        "data.target_batch": {"uniform": [8, 16]},  # null: as many as of the source
        "method.discriminator_lr": {"log_uniform": [1e-4, 1e-2]},  # 1e-3
        "method.source_weight": None,
    }
    run = search(tiny, searcher=searcher, space=ranges)
    made = _tune_config(run, nested=False).search_alg
    (sample,) = getattr(made, "searcher", made)._points_to_evaluate
    assert sample.keys() == space(run).keys()
    assert sample["method.discriminator_lr"] == 1e-3
    assert 1e-4 <= sample["optimizer.lr"] <= 1e-2
    assert sample["method.gate"] in (0.0, 0.6)
    assert sample["data.target_batch"] in range(8, 17)
    run.replace(**sample)


def test_a_population_changes_a_choice_for_another_of_its_values(tiny):
    run = search(tiny, "self_ensembling", scheduler="pbt")
    scheduler = _tune_config(run, nested=False).scheduler
    trial = SimpleNamespace(config={path: config.flat(run)[path] for path in space(run)}, trial_id="one")
    found = [scheduler._get_new_config(trial, trial)[0] for _ in range(40)]
    assert {sample["method.decay"] for sample in found} <= {0.98, 0.99, 0.995}
    for sample in found:
        run.replace(**sample)


def test_trials_of_several_workers_are_bounded_by_the_cluster_and_have_processes_of_their_own(tiny):
    run = search(tiny).replace(**{"scale.workers": 2})
    made = _tune_config(run, nested=True)
    assert made.search_alg.max_concurrent == 2
    assert not made.reuse_actors
    tpe = _tune_config(run.replace(**{"search.searcher": "tpe", "scale.cpus": 2}), nested=True)
    assert tpe.search_alg.max_concurrent == 1


def ended(path: str, **reports: list) -> SimpleNamespace:
    table = pd.DataFrame(reports)
    last = {name: values[-1] for name, values in reports.items()}
    return SimpleNamespace(
        metrics=last, metrics_dataframe=table, checkpoint=None, path=path, config={}, error=None
    )


def test_what_was_warned_of_at_any_step_is_on_the_leaderboard(tiny):
    run = search(tiny)
    results = [
        ended("/t/a", step=[20, 40, 60], objective=[0.5, 0.6, 0.7], warnings=["cold; dark", "cold", ""]),
        ended("/t/b", step=[20], objective=[0.4], warnings=[""]),
    ]
    board = Board(run, [of_result(run, result) for result in results], {})
    assert board.table["warnings"].tolist() == ["cold; dark", ""]
    assert "target/auroc" not in board.table, "nothing was measured"


def test_collapsed_trials_are_counted_but_not_those_that_came_back(tiny, capsys):
    run, lens = search(tiny), "collapsed: all of the target is called lens"
    results = [
        ended("/t/a", step=[20, 40], objective=[0.5, 0.6], warnings=["", lens]),
        ended("/t/b", step=[20, 40], objective=[0.5, 0.7], warnings=[lens, "cold"]),
    ]
    board = Board(run, [of_result(run, result) for result in results], {})
    assert board.table["warnings"].tolist() == [lens, "cold"]
    board.show()
    assert "1 of 2 trials collapsed: all of the target is called lens" in capsys.readouterr().out


def test_an_error_with_brackets_is_shown_as_it_is(tiny, capsys):
    failed = ended("/t/a", step=[20], objective=[0.5], warnings=[""])
    failed.error = RuntimeError("[/gloo/pair.cc:545] Connection reset [bold]")
    Board(search(tiny), [of_result(search(tiny), failed)], {}).show()
    assert "[/gloo/pair.cc:545]" in "".join(capsys.readouterr().out.split())


@pytest.fixture
def told(monkeypatch):
    """What gauges were set to: name, value, tags."""
    told = []

    class Gauge:
        def __init__(self, name, description, tag_keys):
            self.name, self.keys = name, tag_keys

        def set(self, value, tags):
            assert set(tags) == set(self.keys)
            told.append((self.name, value, tags))

    monkeypatch.setattr("ray.util.metrics.Gauge", Gauge)
    monkeypatch.setattr(gauges, "AGAIN", 0.05)
    gauges._gauge.cache_clear()
    yield told
    gauges.forget({})
    until(lambda: gauges._setter is None)
    gauges._gauge.cache_clear()


def until(met):
    end = time.monotonic() + 60
    while not met():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_gauges_carry_method_and_trial(told):
    with Gauges("adda", "adda-1_00003", 1) as of_worker:
        of_worker.set({"objective": 0.9, "step": 40, "time/step": 0.2, "time/wait": 0.05})
        tags = {"method": "adda", "trial": "adda-1_00003", "worker": "1"}
        assert told[:4] == [
            ("raylens_step", 40.0, tags),
            ("raylens_objective", 0.9, tags),
            ("raylens_step_seconds", 0.2, tags),
            ("raylens_wait_share", 0.25, tags),
        ]


def test_gauges_are_set_anew_until_a_trial_ends_and_no_longer(told):
    """Ray drops those that are not."""
    with Gauges("adda", "long") as of_trial:
        of_trial.set({"step": 40})
        gauges.tell_search("adda", "run", 0.5, ["RUNNING"], 0)
        until(lambda: sum(tags.get("trial") == "long" for *_, tags in told) > 3)
    told.clear()
    until(lambda: sum(name == "raylens_best_objective" for name, *_ in told) > 1)
    assert not [tags for *_, tags in told if "trial" in tags]
    gauges.forget_search("adda", "run")
    until(lambda: gauges._setter is None)
    told.clear()
    gauges.tell("raylens_step", 1, {"method": "a", "trial": "b", "worker": "0"})
    until(lambda: len(told) > 2)  # another thread does it


def test_an_objective_of_a_training_that_diverged_is_not_drawn(told):
    with Gauges("adda", "lost") as of_trial:
        of_trial.set({"objective": WORST, "step": 40})
        assert "raylens_objective" not in {name for name, *_ in told}
        assert "raylens_step" in {name for name, *_ in told}


def test_gauges_of_a_search_count_its_trials(told):
    gauges.tell_search("adda", "run", float("-inf"), ["RUNNING", "ERROR", "RUNNING"], 1)
    tags = {"method": "adda", "run": "run"}
    assert told[0] == ("raylens_warned_trials", 1.0, tags), "there is no best objective yet"
    states = {tags["state"]: value for name, value, tags in told if name == "raylens_trials"}
    assert states == {"PENDING": 0, "RUNNING": 2, "PAUSED": 0, "TERMINATED": 0, "ERROR": 1}


@pytest.mark.parametrize("storage", ["/now", "s3://bucket/now"])
def test_a_checkpoint_of_several_workers_is_found_where_the_run_lies_now(tiny, storage):
    run = search(tiny).replace(storage=storage, name="moved", **{"scale.workers": 2})
    result = ended("/then/a", step=[4], objective=[0.5], warnings=[""])
    result.metrics["checkpoint_path"] = "/then/moved/workers/a_00000/checkpoint_2026"
    assert of_result(run, result).checkpoint == f"{storage}/moved/workers/a_00000/checkpoint_2026"
