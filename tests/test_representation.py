"""Measures of features, by hand and at their ends."""

import numpy as np
import pytest

from raylens.representation import _some, knn, measurable, probe, rankme, spread

RANDOM = np.random.default_rng(0)


def test_rankme_counts_the_dimensions_that_are_filled():
    basis = np.eye(64)[:8]
    filled = RANDOM.permutation(np.repeat(basis, 50, axis=0))
    assert rankme(filled) == pytest.approx(8, rel=1e-3)
    assert rankme(np.ones((100, 16))) == pytest.approx(1, rel=1e-3)
    assert rankme(np.zeros((100, 16))) == 1
    assert np.isnan(rankme(np.full((100, 16), np.nan)))
    assert 14 < rankme(RANDOM.normal(size=(2000, 16))) <= 16.01


def test_rankme_by_its_formula():
    features = RANDOM.normal(size=(40, 5)) * [1, 2, 3, 4, 5]
    values = np.sqrt(np.linalg.eigvalsh(features.T @ features))
    shares = values / values.sum() + 1e-7
    assert rankme(features) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_spread_is_1_for_isotropic_features_and_0_for_one():
    assert spread(RANDOM.normal(size=(4000, 32))) == pytest.approx(1, abs=0.01)
    assert spread(np.ones((50, 32))) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
def test_probe_and_neighbours_know_features_that_tell(classes):
    labels = np.arange(300) % classes
    told = RANDOM.normal(size=(300, 8)) + 4 * np.eye(8)[labels]
    untold = RANDOM.normal(size=(300, 8))
    assert probe(told, labels) > 0.98
    assert knn(told, labels) > 0.95
    assert probe(untold, labels) == pytest.approx(0.5, abs=0.1)
    assert knn(untold, labels) == pytest.approx(1 / classes, abs=0.12)


def test_a_rare_class_counts_as_much_as_a_common_one():
    """All called common would be right for 95 in 100."""
    labels = (np.arange(400) % 20 == 0).astype(int)
    assert knn(RANDOM.normal(size=(400, 8)), labels) == pytest.approx(0.5, abs=0.1)


def test_a_rare_class_is_not_lost_among_many_rows_and_these_stay_few():
    labels = np.r_[np.zeros(40_000), np.ones(150), np.full(3, 2)].astype(int)
    features, kept = _some(RANDOM.normal(size=(len(labels), 2)), labels)
    assert np.bincount(kept).tolist() == [1992, 50, 3]
    assert len(features) == len(kept)
    few = np.arange(90) % 3
    assert (_some(few[:, None], few)[1] == few).all(), "all of few rows, as they lie"


def test_labels_that_tell_too_little():
    assert not measurable(None)
    assert not measurable(np.zeros(5))
    assert not measurable(np.array([0, 0, 1]))
    assert measurable(np.array([0, 0, 1, 1]))
