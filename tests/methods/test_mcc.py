"""MCC against the formulas of its paper."""

import numpy as np
import pytest
import torch

from raylens.losses import certainty, class_confusion


def softmax(values):
    odds = np.exp(values - values.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 3])
def test_confusion_is_that_of_the_paper(classes):
    logits = np.random.default_rng(0).normal(size=(20, classes))
    # Jin et al. 2020, eqs. 2, 4, 5, 6, 7 and 8.
    probability = softmax(logits / 2.5)
    entropy = -(probability * np.log(probability)).sum(1)
    weight = 1 + np.exp(-entropy)
    weight = len(logits) * weight / weight.sum()
    confusion = np.zeros((classes, classes))
    for row, share in zip(probability, weight, strict=True):
        confusion += share * np.outer(row, row)
    confusion /= confusion.sum(1, keepdims=True)
    wanted = sum(confusion[i, j] for i in range(classes) for j in range(classes) if i != j) / classes
    found = class_confusion(torch.from_numpy(logits), 2.5)
    assert found.item() == pytest.approx(wanted, rel=1e-6)


def test_sure_and_different_images_are_not_confused_and_undecided_ones_are():
    sure = torch.tensor([[20.0, -20.0], [-20.0, 20.0]])
    assert class_confusion(sure, 1.0).item() == pytest.approx(0, abs=1e-6)
    assert class_confusion(torch.zeros(4, 2), 1.0).item() == pytest.approx(0.5)
    assert class_confusion(torch.zeros(4, 4), 1.0).item() == pytest.approx(0.75)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("odds", [20.0, 45.0, 400.0])
def test_a_class_that_no_image_has_is_mixed_up_with_the_other_and_finite(precision, odds):
    """As where none of a batch of a survey's images is a lens."""
    logits = torch.tensor([[0.0, -odds]]).repeat(64, 1).to(precision).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision != torch.float32):
        found = class_confusion(logits, 1.5)
    found.backward()
    assert found.item() == pytest.approx(0.5 if odds < 100 else 0.0, abs=1e-3)
    assert logits.grad.isfinite().all()


def test_sure_images_count_more_and_weights_carry_no_gradient():
    logits = torch.tensor([[9.0, -9.0], [0.0, 0.0]], requires_grad=True)
    weights = certainty(logits)
    assert weights.mean().item() == pytest.approx(1)
    assert (weights[0] / weights[1]).item() == pytest.approx(2 / 1.5, rel=1e-3)
    assert not weights.requires_grad


def test_confusion_is_counted_on_the_target_and_the_source_has_labels(tiny):
    """The method's own terms: eq. 8 of target logits at its temperature, times its weight; and cross-entropy."""
    method, twin = (tiny.method("mcc", method={"weight": 0.4, "temperature": 3.0}).train() for _ in range(2))
    batch = tiny.batch(method)
    with torch.no_grad():
        of_source, of_target = (twin.model(batch[name].views["view"]) for name in ("source", "target"))
    terms = method(batch, 0.5).terms
    torch.testing.assert_close(terms["confusion"], 0.4 * class_confusion(of_target, 3.0))
    wanted = torch.nn.functional.cross_entropy(of_source, batch["source"].labels)
    torch.testing.assert_close(terms["supervised"], wanted)
    assert not torch.isclose(terms["confusion"], 0.4 * class_confusion(of_source, 3.0))
