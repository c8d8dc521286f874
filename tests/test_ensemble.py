"""The candidate that agrees most with all is chosen, and the ruined ones are not."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from raylens.ensemble import agreement, average


def candidates(*noises: float, classes: int = 2, rows: int = 400) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(rows, classes))
    return [truth + noise * rng.normal(size=truth.shape) for noise in noises]


@pytest.mark.parametrize("classes", [2, 3])
def test_the_least_noisy_agrees_most(classes):
    found = agreement(candidates(1.0, 0.1, 0.5, 0.8, classes=classes))
    assert found.argmax() == 1
    assert found.argmin() == 0


def test_of_two_classes_it_is_the_rank_correlation_with_the_median_rank():
    logits = candidates(0.5, 0.5, 0.5)
    odds = np.stack([one[:, 1] - one[:, 0] for one in logits])
    median = np.median(odds.argsort(1).argsort(1), axis=0)
    wanted = [spearmanr(one, median).statistic for one in odds]
    np.testing.assert_allclose(agreement(logits), wanted, atol=1e-3)


def test_scale_and_shift_of_the_logits_do_not_count():
    logits = candidates(0.5, 0.5, 0.5)
    np.testing.assert_allclose(agreement(logits), agreement([logits[0], 9 * logits[1], logits[2] + [0, 4]]))


def test_the_average_is_the_mean_of_weights_and_statistics_and_keeps_whole_numbers():
    layers = [torch.nn.BatchNorm1d(3) for _ in range(3)]
    for number, layer in enumerate(layers):
        layer.running_mean.fill_(number)
        layer.weight.data.fill_(2.0 * number)
        layer.num_batches_tracked.fill_(10 + number)
    found = average([layer.state_dict() for layer in layers])
    assert found["running_mean"].tolist() == [1.0] * 3
    assert found["weight"].tolist() == [2.0] * 3
    assert found["num_batches_tracked"] == 10
    assert layers[0].weight[0] == 0, "what was averaged stays as it was"


def test_the_ruined_are_last_even_if_some_are_turned_round():
    good = candidates(0.3, 0.4, 0.5)
    found = agreement([*good, -good[0], np.zeros_like(good[0])])
    assert found[:3].min() > 0.5
    assert found[3] < 0
    assert found[4] == 0
