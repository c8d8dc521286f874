"""Priors of the target, estimated on Gaussians whose priors are known."""

import numpy as np
import pytest

from raylens.priors import bbse, calibration, estimate, mlls, told


def gaussians(rows: int, prior: float, seed: int, *, apart: float = 3.0):
    """Log odds of a classifier that is right, but twice too sure and biased, and the labels."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < prior).astype(int)
    x = rng.normal(apart * labels, 1.0)
    odds = apart * x - apart**2 / 2 + np.log(0.5)  # of a source with 1 in 3
    return np.stack([np.zeros(rows), 2 * odds + 1.0], axis=1), labels


@pytest.mark.parametrize("prior", [0.01, 0.1, 1 / 3, 0.7])
@pytest.mark.parametrize("method", [mlls, bbse])
def test_the_prior_is_found(method, prior):
    source, labels = gaussians(4000, 1 / 3, 0)
    target, truth = gaussians(20000, prior, 1)
    assert method(source, labels, target)[1] == pytest.approx(truth.mean(), abs=0.015)


def test_calibration_undoes_what_is_wrong_with_the_classifier():
    logits, labels = gaussians(20000, 1 / 3, 0)
    temperature, bias = calibration(logits, labels)
    assert temperature == pytest.approx(2.0, rel=0.1)
    assert bias[1] - bias[0] == pytest.approx(-0.5, abs=0.15)


def test_the_interval_holds_the_estimate_and_most_often_the_truth():
    source, labels = gaussians(2000, 1 / 3, 0)
    inside = 0
    for seed in range(10):
        target, _ = gaussians(3000, 0.02, seed + 1)
        found = estimate(source, labels, target, resamples=50)
        assert found.low[1] <= found.shares[1] <= found.high[1]
        assert found.shares.sum() == pytest.approx(1)
        inside += found.low[1] <= 0.02 <= found.high[1]
    assert inside >= 7


def test_three_classes():
    rng = np.random.default_rng(0)
    means, shares = 4 * np.eye(3), np.array([0.7, 0.2, 0.1])

    def draw(shares, rows):
        labels = rng.choice(3, rows, p=shares)
        x = rng.normal(means[labels], 1.0)
        return x @ means.T - 8.0, labels

    source, labels = draw(np.full(3, 1 / 3), 3000)
    target, _ = draw(shares, 10000)
    np.testing.assert_allclose(mlls(source, labels, target), shares, atol=0.02)
    np.testing.assert_allclose(bbse(source, labels, target), shares, atol=0.02)


def test_a_run_is_told_what_its_method_is(tiny):
    np.testing.assert_allclose(told(tiny.run("adda", method={"target_prior": 0.03})), [0.97, 0.03])
    assert told(tiny.run("adda", method={"target_prior": None})) is None
    assert told(tiny.run("mcc")) is None, "it has no such setting"
