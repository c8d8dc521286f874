"""A collapse is seen without target labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raylens.cluster.worker import validate
from raylens.health import collapses, counted, watched
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
