"""Self-Ensembling against the formulas of its paper."""

import math

import numpy as np
import pytest
import torch

from raylens.models import batch_norms


def apart(tiny, **settings):
    """Its teacher a little off the student, as it is after a while."""
    method = tiny.method("self_ensembling", method=settings)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method.train()


def predictions(method, batch):
    views = batch["target"].views
    with torch.no_grad():
        return method.model(views["strong"]).softmax(1), method.teacher(views["weak"]).softmax(1)


@pytest.mark.parametrize(
    ("progress", "rise"), [(0.0, math.exp(-5)), (0.125, math.exp(-1.25)), (0.25, 1), (1.0, 1)]
)
def test_consistency_is_the_squared_difference_of_probabilities(tiny, progress, rise):
    method = apart(tiny, weight=3.0)
    batch = tiny.batch(method)
    student, teacher = predictions(method, batch)
    wanted = 3.0 * rise * (student - teacher).square().mean(1).mean()
    torch.testing.assert_close(method(batch, progress).terms["consistency"], wanted)


def test_only_images_of_a_confident_teacher_count(tiny):
    method = apart(tiny, threshold=0.5, weight=3.0)
    batch = tiny.batch(method)
    student, teacher = predictions(method, batch)
    threshold = teacher.amax(1).median().item()
    method = apart(tiny, threshold=threshold, weight=3.0)
    counts = (teacher.amax(1) > threshold).float()
    assert 0 < counts.mean() < 1
    wanted = 3.0 * (counts * (student - teacher).square().mean(1)).mean()
    found = method(batch, 0.0)
    torch.testing.assert_close(found.terms["consistency"], wanted)
    torch.testing.assert_close(found.monitors["counted"], counts.mean())


def test_balance_is_least_at_the_prior_and_off_unless_asked_for(tiny):
    assert "balance" not in apart(tiny)(tiny.batch(apart(tiny)), 0.5).terms
    method = apart(tiny, balance=0.005, target_prior=0.1)
    batch = tiny.batch(method)
    student, _ = predictions(method, batch)
    mean, shares = student.mean(0), torch.tensor([0.9, 0.1])
    wanted = -(shares * mean.log() + (1 - shares) * (1 - mean).log()).mean()
    torch.testing.assert_close(method(batch, 0.5).terms["balance"], 0.005 * wanted)
    rise = math.exp(-5 * 0.75**2)  # it counts as far as the images do
    torch.testing.assert_close(method(batch, 0.0625).terms["balance"], 0.005 * rise * wanted)


def test_the_teacher_follows_the_student_and_has_no_gradient(tiny):
    method = apart(tiny, decay=0.9)
    before = [p.clone() for p in method.teacher.parameters()]
    method(tiny.batch(method), 0.5).total.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    method.after_step(0.5)
    for old, new, student in zip(before, method.teacher.parameters(), method.model.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * student)


def test_running_statistics_are_the_targets(tiny):
    method = apart(tiny)
    batch = tiny.batch(method)
    twin = apart(tiny)
    method(batch, 0.5)
    with torch.no_grad():
        twin.model(batch["target"].views["strong"])
        twin.teacher(batch["target"].views["weak"])
    for ours, theirs in zip(batch_norms(method), batch_norms(twin), strict=True):
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)


def test_a_threshold_that_nothing_passes_is_said(tiny):
    assert "lower method.threshold" in " ".join(apart(tiny).symptoms({"monitor/counted": 0.0}))


def test_the_student_learns_the_source_from_its_strong_view(tiny):
    """Cross-entropy by hand, the source by its own batch norm."""
    method = apart(tiny)
    batch = tiny.batch(method)
    with torch.no_grad():
        logits = apart(tiny).model(batch["source"].views["strong"]).double().numpy()
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wanted = -np.log(chances[np.arange(len(logits)), batch["source"].labels.numpy()]).mean()
    assert method(batch, 0.5).terms["supervised"].item() == pytest.approx(wanted, rel=1e-5)
