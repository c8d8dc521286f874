"""What a search asks of Tune, and what it makes of a trial that ended; no Ray is started."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from raylens.cluster import gauges, launch
from raylens.cluster.board import Board
from raylens.cluster.gauges import Gauges
from raylens.cluster.search import _found, _tune_config


@pytest.fixture(autouse=True)
def cluster(monkeypatch):
    monkeypatch.setattr(launch, "capacity", lambda: {"CPU": 4.0, "GPU": 0.0})


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
    assert type(made.search_alg) is searcher


def test_trials_of_several_workers_are_bounded_by_the_cluster_and_have_processes_of_their_own(tiny):
    run = search(tiny).replace(**{"scale.workers": 2})
    made = _tune_config(run, nested=True)
    assert made.search_alg.max_concurrent == 2
    assert not made.reuse_actors
    tpe = _tune_config(run.replace(**{"search.searcher": "tpe", "scale.cpus": 2}), nested=True)
    assert tpe.max_concurrent_trials == 1


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
    board = Board(run, [_found(run, result) for result in results], {})
    assert board.table["warnings"].tolist() == ["cold; dark", ""]
    assert "target/auroc" not in board.table, "nothing was measured"


def test_gauges_carry_method_and_trial(monkeypatch):
    told = []

    class Gauge:
        def __init__(self, name, description, tag_keys):
            self.name, self.keys = name, tag_keys

        def set(self, value, tags):
            assert set(tags) == set(self.keys)
            told.append((self.name, value, tags))

    monkeypatch.setattr("ray.util.metrics.Gauge", Gauge)
    gauges._gauge.cache_clear()
    Gauges("adda", "adda-1_00003").set({"objective": 0.9, "step": 40, "loss/adversary": 1.0})
    gauges._gauge.cache_clear()
    tags = {"method": "adda", "trial": "adda-1_00003"}
    assert told == [("raylens_step", 40.0, tags), ("raylens_objective", 0.9, tags)]
