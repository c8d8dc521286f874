"""What a search says while it runs, and what a resumed one remembers."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest

from raylens import config
from raylens.cluster import gauges
from raylens.cluster.progress import Clock, Progress
from raylens.cluster.tuning import _remember
from raylens.cluster.worker import WORST


@pytest.fixture(autouse=True)
def forgotten():
    """No gauge is set any more once a test has ended."""
    yield
    gauges.forget({})


class Trial(SimpleNamespace):
    def __str__(self) -> str:
        return self.trial_id


@pytest.fixture
def clock(monkeypatch):
    """Seconds on the clock: `clock.now = 5.0`."""
    fake = SimpleNamespace(now=0.0)
    monkeypatch.setattr("raylens.cluster.progress.time.monotonic", lambda: fake.now)
    return fake


def result(progress: Progress, name: str, step: int, **more) -> None:
    progress.on_trial_result(0, [], Trial(trial_id=name), {"step": step, "objective": 0.5} | more)


def searched(trials: int, steps: int, oracle: bool = False) -> Progress:
    given = {"search.trials": trials, "fit.steps": steps, "fit.report_every": steps, "search.oracle": oracle}
    run = config.build({"method.name": "supervised"}, given)
    return Progress([run] * trials, lambda trial: run)


def test_time_left_follows_the_pace_since_the_first_reading(clock):
    made = Clock()
    clock.now = 30.0
    assert made.read(100, 500) == ("[0:30]", "")
    clock.now = 40.0
    assert made.read(200, 400) == ("[0:40]", ", 0:40 left")
    clock.now = 3700.0
    assert made.read(600, 0) == ("[1:01:40]", "")


def test_a_line_tells_what_is_done_and_left(clock, capsys):
    progress = searched(trials=2, steps=100)
    clock.now = 10.0
    result(progress, "a", 50)
    clock.now = 20.0
    result(progress, "a", 100, warnings="it is cold; it is dark")
    progress.on_trial_complete(0, [], Trial(trial_id="a", last_result={"step": 100, "objective": 0.5}))
    clock.now = 30.0
    result(progress, "b", 50, warnings="it is cold")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "[0:10] 0/2 trials ended, 50 steps taken, best objective 0.5000"
    assert said[1:3] == ["  a warns at step 100: it is cold", "  a warns at step 100: it is dark"]
    assert said[-2] == "  b warns at step 50: it is cold"
    assert said[-1] == "[0:30] 1/2 trials ended, 150 steps taken, best objective 0.5000, 0:10 left at most"


def test_a_trial_that_diverged_is_not_the_best(clock, capsys):
    progress = searched(trials=2, steps=100)
    clock.now = 10.0
    result(progress, "a", 50, objective=WORST)
    clock.now = 20.0
    result(progress, "b", 50)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "[0:10] 0/2 trials ended, 50 steps taken"
    assert "best objective 0.5000" in second


def test_what_was_chosen_by_target_labels_says_so(clock, capsys):
    progress = searched(trials=1, steps=10, oracle=True)
    clock.now = 10.0
    result(progress, "a", 5)
    progress.on_trial_complete(0, [], Trial(trial_id="a", last_result={"step": 10, "objective": 0.5}))
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3
    assert all("objective (BY TARGET LABELS, cheating) 0.5000" in line for line in said)


def test_a_resumed_search_remembers_its_rungs_and_its_steps():
    from ray.tune.schedulers import ASHAScheduler

    asha = ASHAScheduler(time_attr="step", max_t=41, grace_period=10, reduction_factor=2)
    asha.set_search_properties("objective", "max")
    progress = searched(trials=3, steps=40)
    tables = {
        "good": pd.DataFrame({"trial_id": "good", "step": [10, 20, 40], "objective": [0.8, 0.9, 0.95]}),
        "half": pd.DataFrame({"trial_id": "half", "step": [10, 20], "objective": [0.7, 0.85]}),
    }
    results = [
        SimpleNamespace(metrics_dataframe=table, metrics={"done": name == "good"})
        for name, table in tables.items()
    ]
    _remember([*results, SimpleNamespace(metrics_dataframe=None, metrics={})], asha, progress)
    assert progress.done == {"good": 40, "half": 20}
    assert progress.ended == {"good"}
    assert progress.best == 0.95
    rungs = dict(asha._brackets[0]._rungs)
    assert rungs[10] == {"good": 0.8, "half": 0.7}
    assert rungs[20] == {"good": 0.9, "half": 0.85}
    assert rungs[40] == {"good": 0.95}


def test_a_trial_that_goes_on_says_after_what(tmp_path, capsys):
    (tmp_path / "error.txt").write_text(
        "Failure # 1 (occurred at noon)\nTraceback\n  ...\nOSError: the disk is full\n"
    )
    trial = Trial(trial_id="a", path="runs/a", error_file=str(tmp_path / "error.txt"))
    progress = searched(trials=1, steps=10)
    progress.on_trial_recover(0, [], trial)
    trial.error_file = None
    progress.on_trial_recover(0, [], trial)
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "  a goes on from its last checkpoint after: OSError: the disk is full",
        "  a goes on from its last checkpoint after: an error that was not written down",
    ]
