"""A collapse is seen without target labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from raylens.cluster.choice import _average
from raylens.cluster.worker import BROKEN, WORST, validate, work
from raylens.health import collapses, counted, surprises, watched
from raylens.records import Outputs

LENSES = ("nonlens", "lens")


def outputs(shares: list[float], spread: float = 1.0) -> Outputs:
    """1,000 images, of which each class is called for its share, with features so far apart."""
    called = np.repeat(np.arange(len(shares)), np.round(1000 * np.array(shares)).astype(int))
    features = np.random.default_rng(0).normal(size=(1000, 8)) * spread + 5
    return Outputs(features, np.eye(len(shares))[called], None, np.arange(1000))


def said(target: Outputs, classes: tuple[str, ...] = LENSES) -> list[str]:
    source = outputs([1 / len(classes)] * (len(classes) - 1) + [1 - (len(classes) - 1) / len(classes)])
    return collapses(watched(source, target), classes)


def test_shares_and_spread_are_those_of_the_images():
    found = watched(outputs([0.5, 0.5]), outputs([0.7, 0.3], spread=0.5))
    assert found["monitor/target_called_0"] == pytest.approx(0.7)
    assert found["monitor/target_called_1"] == pytest.approx(0.3)
    assert found["monitor/target_spread"] == pytest.approx(0.5)


@pytest.mark.parametrize("shares", [[1.0, 0.0], [0.99, 0.01], [0.5, 0.5], [0.1, 0.9]])
def test_a_survey_of_nearly_no_lenses_is_no_collapse(shares):
    assert said(outputs(shares)) == []


def test_all_called_lens_is_a_collapse():
    assert said(outputs([0.01, 0.99])) == ["collapsed: all of the target is called lens"]


def test_of_more_classes_any_may_swallow_the_others():
    classes = ("no_sub", "cdm", "axion")
    assert said(outputs([0.99, 0.005, 0.005]), classes) == ["collapsed: all of the target is called no_sub"]
    assert said(outputs([0.9, 0.05, 0.05]), classes) == []


def test_features_that_are_all_alike_are_a_collapse():
    assert said(outputs([0.5, 0.5], spread=0.01)) == ["collapsed: the target's features are all alike"]


def test_what_is_not_watched_has_not_collapsed():
    assert collapses({"source/auroc": 0.9}, LENSES) == []


def test_collapsed_trials_are_counted_and_named():
    lens, alike = (
        "collapsed: all of the target is called lens",
        "collapsed: the target's features are all alike",
    )
    assert counted(["", "the weights do not move", lens, f"it is cold; {lens}; {alike}"]) == (
        "2 of 4 trials collapsed: all of the target is called lens; the target's features are all alike"
    )
    assert counted(["", "it is cold"]) is None


def test_reports_of_a_training_watch_it(tiny):
    method = tiny.method("adda")
    with torch.no_grad():
        method.result.head.bias.copy_(torch.tensor([-100.0, 100.0]))
    metrics = validate(tiny.run("adda"), tiny.facts(), method.result, tiny.resident())
    assert metrics["monitor/target_called_1"] == 1.0
    assert collapses(metrics, LENSES) == ["collapsed: all of the target is called lens"]


def surprised(share: float, told: float | None, **more: float) -> list[str]:
    prior = None if told is None else np.array([1 - told, told])
    found = watched(outputs([0.6, 0.4]), replace(outputs([1 - share, share]), prior=prior))
    return surprises(found | more, LENSES)


def test_far_more_lenses_than_were_expected_are_a_warning_and_no_collapse():
    (warning,) = surprised(0.9, 0.01)
    assert warning == (
        "more than 50% of the target is called lens, and 1% was expected: set method.target_prior to the share that "
        "you expect, or lower optimizer.lr"
    )
    assert "; " not in warning, "by which warnings are told apart"
    assert surprised(0.7, 0.01) == [warning], "the same in every report, or each would be told anew"
    assert counted([warning]) is None


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (0.42, 0.01),
        (0.9, None),
        (0.55, 0.06),
        (0.9, 0.1),
        (0.9, 0.7),
        (1.0, 0.01),  # a collapse, which is told by itself
    ],
)
def test_what_may_well_be_is_no_surprise(share, told):
    assert surprised(share, told) == []


def test_pseudo_labels_are_held_against_the_prior_too():
    """Of those that are kept; most batches may keep none."""
    (warning,) = surprised(0.1, 0.03, **{"monitor/last_class_kept": 0.0099, "monitor/kept": 0.01})
    assert warning.startswith(
        "more than 50% of the pseudo-labels that are kept are called lens, and 3% was expected"
    )
    assert surprised(0.1, 0.03, **{"monitor/last_class_kept": 0.24, "monitor/kept": 1.0}) == []
    assert surprised(0.1, 0.03, **{"monitor/last_class_kept": 0.0, "monitor/kept": 0.0}) == []


def test_a_training_reports_the_prior_that_it_is_told_and_a_validator_takes_it(tiny):
    run, data = tiny.run("adda", search={"validator": "information_maximisation"}), tiny.resident()
    model = tiny.method(run).result

    def validated(told):
        return validate(run.replace(**{"method.target_prior": told}), tiny.facts(), model, data)

    name = "validator/information_maximisation"
    found, other, none = validated(0.01), validated(0.9), validated(None)
    assert (found["monitor/target_prior"], other["monitor/target_prior"]) == (0.01, 0.9)
    assert "monitor/target_prior" not in none
    assert len({one[name] for one in (found, other, none)}) == 3
    held = data.validation["source"].labels.mean()
    assert none[name] == pytest.approx(validated(held)[name]), "the source's share"


def test_a_training_and_an_average_warn_of_more_lenses_than_they_were_told(tiny, tmp_path, monkeypatch):
    many = {"monitor/target_called_1": 0.7, "monitor/target_prior": 0.01}
    monkeypatch.setattr("raylens.health.watched", lambda source, target: many)
    run, data = tiny.run("adda", fit={"steps": 1, "report_every": 1}), tiny.resident()
    (report,) = work(run, tiny.facts(), data)
    assert "more than 50% of the target is called lens" in report.metrics["warnings"]
    report.save(tmp_path / "trial")
    averaged = _average([("trial", str(tmp_path / "trial"))], tiny.facts(), data, str(tmp_path / "average"))
    assert "more than 50% of the target is called lens" in averaged["warnings"]


@pytest.mark.parametrize(("told", "wanted"), [(None, []), (0.01, []), (0.11, []), (0.3, ["nonlens"])])
def test_a_target_without_lenses_has_collapsed_where_many_were_expected(told, wanted):
    prior = None if told is None else np.array([1 - told, told])
    found = watched(outputs([0.6, 0.4]), replace(outputs([1.0, 0.0]), prior=prior))
    assert collapses(found, LENSES) == [f"collapsed: all of the target is called {name}" for name in wanted]


@pytest.mark.parametrize("name", ["supervised", "adda", "byol"])
def test_a_model_that_breaks_at_a_report_is_the_worst_and_no_error(tiny, name):
    """One step of a rate beyond all bounds, after a loss that was still finite."""
    settings = {"fit.steps": 1, "fit.report_every": 1, "fit.clip": 1e30, "optimizer.lr": 1e30}
    run = tiny.run(name).replace(**{**settings, "optimizer.warmup": 0.0})
    (report,) = work(run, tiny.facts(), tiny.resident())
    assert report.metrics["objective"] == WORST
    assert BROKEN in report.metrics["warnings"]


def test_a_validator_without_a_finite_score_is_named(tiny, monkeypatch):
    monkeypatch.setattr("raylens.validators.entropy.score", lambda *_: float("nan"))
    run = tiny.run("adda", fit={"steps": 1, "report_every": 1}, search={"validator": "entropy"})
    (report,) = work(run, tiny.facts(), tiny.resident())
    assert report.metrics["objective"] == WORST
    assert "search.validator entropy says nothing finite" in report.metrics["warnings"]
