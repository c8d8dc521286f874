"""What every task keeps to. A new file in raylens/tasks is covered the moment it exists."""

import inspect

import numpy as np
import pytest
import torch

from raylens import find, metrics

every_task = pytest.mark.parametrize("name", find.names("tasks"))
CLASSES = [("nonlens", "lens"), ("axion", "cdm", "no")]


@pytest.fixture(params=CLASSES, ids=["two", "three"])
def outputs(request):
    """Classes, logits and labels."""
    rng = np.random.default_rng(0)
    classes = request.param
    labels = np.arange(60) % len(classes)
    logits = rng.normal(size=(60, len(classes))) + 1.5 * np.eye(len(classes))[labels]
    return classes, logits.astype(np.float32), labels


@every_task
def test_a_task_says_what_it_is(name):
    assert inspect.getmodule(find.task(name)).__doc__
    assert find.task(name).__doc__


@every_task
def test_a_head_takes_features_to_what_the_loss_takes(name, outputs):
    classes, _, labels = outputs
    task = find.task(name)(classes)
    head = task.head(16)
    loss = task.loss(head(torch.randn(len(labels), 16)), torch.from_numpy(labels))
    assert loss.shape == ()
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


@every_task
def test_better_predictions_have_a_lower_loss(name, outputs):
    classes, logits, labels = outputs
    task = find.task(name)(classes)
    given = torch.from_numpy(labels)
    assert task.loss(torch.from_numpy(logits), given) < task.loss(torch.from_numpy(-logits), given)


@every_task
def test_metrics_are_finite_known_and_do_not_touch_what_they_are_given(name, outputs):
    classes, logits, labels = outputs
    before = logits.copy()
    found = find.task(name)(classes).metrics(logits, labels)
    assert found
    for metric, value in found.items():
        assert np.isfinite(value), metric
        assert metrics.explain(metric).meaning
    np.testing.assert_array_equal(logits, before)


def test_classification_is_cross_entropy_with_smoothing(outputs):
    classes, logits, labels = outputs
    task = find.task("classification")(classes)
    log = logits.astype(float) - np.log(np.exp(logits.astype(float)).sum(1, keepdims=True))
    hot = np.eye(len(classes))[labels]
    for smoothing in (0.0, 0.1):
        smoothed = (1 - smoothing) * hot + smoothing / len(classes)
        ours = task.loss(torch.from_numpy(logits), torch.from_numpy(labels), smoothing=smoothing)
        assert ours.item() == pytest.approx(-(smoothed * log).sum(1).mean(), rel=1e-5)


def test_classification_predicts_probabilities_that_keep_the_order_of_the_surest(outputs):
    classes, logits, _ = outputs
    task = find.task("classification")(classes)
    found = task.predict(logits)
    np.testing.assert_allclose(found.sum(1), 1)
    assert found.dtype == np.float64
    sure = np.zeros((2, len(classes)), np.float32)
    sure[:, -1] = 30, 31
    assert task.predict(sure)[0, -1] < task.predict(sure)[1, -1]
