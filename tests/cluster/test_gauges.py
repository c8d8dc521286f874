"""Gauges of trials and searches, as Prometheus would read them; no Ray is started."""

from __future__ import annotations

import time

import pytest

from raylens.cluster import gauges
from raylens.cluster.gauges import Gauges
from raylens.cluster.worker import WORST


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
