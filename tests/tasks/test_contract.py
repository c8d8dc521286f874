"""What every task keeps to. A new file in raylens/tasks is covered the moment it exists."""

import inspect

import numpy as np
import pytest
import torch

from raylens import find, metrics
from raylens.config import TaskConfig
from raylens.data.shards import HIGH

every_task = pytest.mark.parametrize("name", find.names("tasks"))
supervised_task = pytest.mark.parametrize("name", ["classification", "regression"])
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
    task = find.task(name)
    assert inspect.getmodule(task).__doc__
    assert task.__doc__
    for metric in (
        *task.shown,
        *task.beside,
        *filter(None, [task.objective, getattr(task, "measured", None)]),
    ):
        assert metrics.explain(metric).meaning
    assert task.gives.isidentifier(), "it names a variable in the code of a card"
    task.card.format(classes="a, b", target="log10_mass", factor=2)


def test_the_column_that_is_learned_is_one_that_a_set_may_have():
    columns = {name: find.task(name).column(TaskConfig(target="redshift")) for name in find.names("tasks")}
    assert columns == dict.fromkeys(columns) | {"regression": "redshift", "super_resolution": HIGH}


@supervised_task
def test_a_head_takes_features_to_what_the_loss_takes(name, outputs):
    classes, _, labels = outputs
    task = find.task(name)(classes)
    head = task.head(16)
    loss = task.loss(head(torch.randn(len(labels), 16)), torch.from_numpy(labels))
    assert loss.shape == ()
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_so_few_images_that_they_lie_on_a_line_are_no_collapse(tiny, rows):
    features = np.random.default_rng(0).normal(size=(rows, 16))
    found = find.task("pretraining")().metrics(features, None)
    told = {f"source/{name}": value for name, value in found.items()}
    assert tiny.method("byol").symptoms({"loss/byol": 1.0, **told}) == []


def test_better_predictions_have_a_lower_loss(outputs):
    classes, logits, labels = outputs
    task = find.task("classification")(classes)
    given = torch.from_numpy(labels)
    assert task.loss(torch.from_numpy(logits), given) < task.loss(torch.from_numpy(-logits), given)


@every_task
def test_metrics_are_finite_known_and_do_not_touch_what_they_are_given(name, outputs):
    classes, logits, labels = outputs
    before = logits.copy()
    if name == "super_resolution":
        logits = np.abs(logits[:, [0, 0, -1, -1]])  # errors and similarities are judged
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


def test_regression_is_of_standardised_numbers_and_says_them_in_their_own_unit():
    rng = np.random.default_rng(0)
    numbers = rng.normal(-23, 0.6, 200).astype(np.float32)
    task = find.task("regression")((), (-23.0, 0.6))
    right = ((numbers - -23.0) / 0.6)[:, None]
    np.testing.assert_allclose(task.predict(right), numbers, atol=1e-5)
    loss = task.loss(torch.from_numpy(right + 0.5), torch.from_numpy(numbers))
    assert loss.item() == pytest.approx(0.25, rel=1e-4)
    off = task.metrics(right + 0.5, numbers)  # half a deviation of 0.6 dex
    assert off["mae"] == pytest.approx(0.3, rel=1e-4)
    assert off["rmse"] == pytest.approx(0.3, rel=1e-4)
    assert off["r2"] == pytest.approx(1 - 0.09 / numbers.var(), rel=1e-3)
    assert task.metrics(np.zeros((200, 1)) + (numbers.mean() + 23) / 0.6, numbers)["r2"] == pytest.approx(
        0, abs=1e-6
    )


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [(-23.0, 0.58), (12000.0, 10.0), (200000.0, 50000.0)])
def test_mixed_precision_rounds_no_number_that_is_learned(half, scale):
    numbers = torch.tensor(scale[0] + scale[1] * np.linspace(-1, 1, 21))
    logits = torch.linspace(-1, 1, 21)[:, None].to(half)
    loss = find.task("regression")((), scale).loss(logits, numbers)
    assert loss.item() < 1e-5  # that of the logits' own rounding


def test_a_regressions_report_has_intervals_that_hold_its_values():
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=300)
    logits = numbers[:, None] + 0.3 * rng.normal(size=(300, 1))
    report = find.task("regression")().report(logits, numbers, resamples=200)
    for found in report["metrics"].values():
        assert found["low"] < found["value"] < found["high"]
    assert report["rows"] == 300
    worse = logits + 0.5
    value, low, high = metrics.paired(worse[:, 0], logits[:, 0], numbers, "mae", resamples=200)
    assert 0 < low < value < high


@supervised_task
def test_a_fitted_head_says_what_the_regression_of_features_says(name):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 6)) * [1, 2, 3, 4, 5, 6] + 7
    signal = features[:, 0] - 7 + 0.1 * rng.normal(size=300)
    labels = signal if name == "regression" else np.digitize(signal, [-0.4, 0.4])
    task = find.task(name)(("a", "b", "c"), (float(labels.mean()), float(labels.std())))
    weights, bias = task.fitted(features, labels)
    head = task.head(6)
    assert head.weight.shape == weights.shape
    assert head.bias.shape == bias.shape
    found = task.metrics((features @ weights.T + bias).astype(np.float32), labels)
    assert found[task.objective] > 0.95


def test_a_fitted_head_of_two_classes():
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 2
    features = rng.normal(size=(100, 4)) + 3 * labels[:, None]
    task = find.task("classification")(("a", "b"))
    weights, bias = task.fitted(features, labels)
    assert task.metrics(features @ weights.T + bias, labels)["auroc"] > 0.99
