"""What a search asks of Ray Tune; no Ray is started."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from raylens import config
from raylens.cluster import nodes
from raylens.cluster.tuning import tune_config
from raylens.config import space


@pytest.fixture(autouse=True)
def cluster(monkeypatch):
    monkeypatch.setattr(nodes, "capacity", lambda: {"CPU": 4.0, "GPU": 0.0})
    monkeypatch.setattr(nodes, "now_and_grown", lambda: ([nodes.Nodes({"CPU": 4.0}, 1)], []))


def search(tiny, method="adda", **search):
    return tiny.run(method, fit={"steps": 400, "report_every": 20}, search=search, scale={"gpus": 0})


def test_asha_stops_trials_by_their_steps_and_never_those_that_end(tiny):
    made = tune_config(search(tiny, reduction=3), nested=False)
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
    made = tune_config(search(tiny, **settings), nested=False)
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
    made = tune_config(run, nested=False).search_alg
    (sample,) = getattr(made, "searcher", made)._points_to_evaluate
    assert sample.keys() == space(run).keys()
    assert sample["method.discriminator_lr"] == 1e-3
    assert 1e-4 <= sample["optimizer.lr"] <= 1e-2
    assert sample["method.gate"] in (0.0, 0.6)
    assert sample["data.target_batch"] in range(8, 17)
    run.replace(**sample)


def test_a_population_changes_a_choice_for_another_of_its_values(tiny):
    run = search(tiny, "self_ensembling", scheduler="pbt")
    scheduler = tune_config(run, nested=False).scheduler
    trial = SimpleNamespace(config={path: config.flat(run)[path] for path in space(run)}, trial_id="one")
    found = [scheduler._get_new_config(trial, trial)[0] for _ in range(40)]
    assert {sample["method.decay"] for sample in found} <= {0.98, 0.99, 0.995}
    for sample in found:
        run.replace(**sample)


def test_trials_of_several_workers_are_bounded_by_the_cluster_and_have_processes_of_their_own(tiny):
    run = search(tiny).replace(**{"scale.workers": 2})
    made = tune_config(run, nested=True)
    assert made.search_alg.max_concurrent == 2
    assert not made.reuse_actors
    tpe = tune_config(run.replace(**{"search.searcher": "tpe", "scale.cpus": 2}), nested=True)
    assert tpe.search_alg.max_concurrent == 1
