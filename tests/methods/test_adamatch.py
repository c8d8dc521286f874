"""AdaMatch against the formulas of its paper."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raylens.losses import rise
from raylens.models import batch_norms


def softmax(values):
    odds = np.exp(values - values.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


@pytest.mark.parametrize("prior", [None, 0.1])
def test_pseudo_labels_are_those_of_the_paper(tiny, prior):
    method = tiny.method("adamatch", method={"target_prior": prior, "threshold": 0.9})
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(10, 2)), rng.normal(size=(30, 2))
    label, keep = method.pseudo_labels(torch.from_numpy(source).float(), torch.from_numpy(target).float())

    # Berthelot et al. 2021, section 3.3: alignment per class, L1 normalised; relative threshold of the source.
    p, q = softmax(source), softmax(target)
    running = {name: values.mean(0) for name, values in (("p", p), ("q", q))}  # of the first batch
    goal = running["p"] if prior is None else np.array([1 - prior, prior])
    aligned = q * goal / running["q"]
    aligned /= aligned.sum(1, keepdims=True)
    np.testing.assert_array_equal(label.numpy(), aligned.argmax(1))
    np.testing.assert_array_equal(keep.numpy(), aligned.max(1) >= 0.9 * p.max(1).mean())
    assert 0 < keep.mean() < 1


def test_the_threshold_is_relative_to_the_confidence_of_all_workers(tiny, monkeypatch):
    method = tiny.method("adamatch", method={"target_prior": 0.5, "threshold": 0.9})
    monkeypatch.setattr("raylens.methods.adamatch.over_workers", lambda ours: ours - 0.1)
    source, target = torch.randn(10, 2), torch.randn(30, 2)
    _, keep = method.pseudo_labels(source, target)
    guess = target.softmax(1)
    aligned = guess / guess.mean(0)
    confidence = (aligned / aligned.sum(1, keepdim=True)).amax(1)
    usual = source.softmax(1).amax(1).mean()
    assert torch.equal(keep.bool(), confidence >= 0.9 * (usual - 0.1))
    assert not torch.equal(keep.bool(), confidence >= 0.9 * usual)


def test_classes_that_agree_leave_pseudo_labels_alone_and_a_threshold_of_0_keeps_all(tiny):
    method = tiny.method("adamatch", method={"target_prior": None, "threshold": 0.0})
    logits = torch.randn(20, 2)
    label, keep = method.pseudo_labels(logits, logits)
    assert torch.equal(label, logits.argmax(1))
    assert keep.all()


@pytest.mark.parametrize("prior", [None, 0.1])
def test_until_they_are_normalised_aligned_predictions_have_the_wanted_mean(tiny, monkeypatch, prior):
    method = tiny.method("adamatch", method={"target_prior": prior})
    normalize, seen = F.normalize, []
    monkeypatch.setattr(F, "normalize", lambda values, **how: seen.append(values) or normalize(values, **how))
    source, target = torch.randn(10, 2), 2 + torch.randn(30, 2)
    method.pseudo_labels(source, target)
    (aligned,) = seen
    wanted = source.softmax(1).mean(0) if prior is None else torch.tensor([1 - prior, prior])
    torch.testing.assert_close(aligned.mean(0), wanted)


def perfect(rng, lenses, rows=100):
    """Labels of images of which such a share are lenses, and logits that leave no doubt."""
    labels = (rng.random(rows) < lenses).astype(int)
    return labels, torch.from_numpy(40 * np.eye(2)[labels]).float()


@pytest.mark.parametrize("calls", [100, 400])
def test_averages_are_soon_the_true_shares_of_one_lens_in_a_hundred(tiny, calls):
    method, rng = tiny.method("adamatch", method={"target_prior": None}), np.random.default_rng(0)
    for _ in range(calls):
        _, source = perfect(rng, 0.5)
        labels, target = perfect(rng, 0.01)
        found, keep = method.pseudo_labels(source, target)
        np.testing.assert_array_equal(found.numpy(), labels)
        assert keep.all()
    np.testing.assert_allclose(method.target_classes.numpy(), [0.99, 0.01], atol=3e-3)
    np.testing.assert_allclose(method.source_classes.numpy(), [0.5, 0.5], atol=0.02)


def test_averages_are_plain_means_of_the_first_hundred_batches_and_decay_from_there(tiny):
    method, rng = tiny.method("adamatch", method={"target_prior": None}), np.random.default_rng(0)
    means, decayed = [], None
    for call in range(1, 151):
        logits = rng.normal(size=(20, 2))
        method.pseudo_labels(torch.from_numpy(logits[:10]).float(), torch.from_numpy(logits[10:]).float())
        means.append([softmax(part).mean(0) for part in (logits[:10], logits[10:])])
        decayed = np.mean(means, axis=0) if call <= 100 else 0.99 * decayed + 0.01 * np.array(means[-1])
        found = np.stack([method.source_classes.numpy(), method.target_classes.numpy()])
        np.testing.assert_allclose(found, decayed, rtol=1e-4)


def test_mu_rises_along_a_cosine_until_half_way():
    for progress in (0.0, 0.1, 0.25, 0.5, 0.8, 1.0):
        assert rise(progress, until=0.5) == pytest.approx(
            0.5 - math.cos(min(math.pi, 2 * math.pi * progress)) / 2
        )


@pytest.mark.parametrize("batch_norm", ["own", "joint"])
def test_the_loss_is_cross_entropy_on_strong_views_with_labels_of_weak_ones(tiny, batch_norm):
    """Each domain by itself; or, as in the paper, logits of the source between what it says alone and in company."""
    settings = {"target_prior": None, "threshold": 0.99, "batch_norm": batch_norm}
    method = tiny.method("adamatch", method=settings)
    batch = tiny.batch(method)
    torch.manual_seed(0)
    losses = method(batch, 0.25)
    twin = tiny.method("adamatch", method=settings)
    source, target = (torch.cat([batch[name].views[view] for view in ("weak", "strong")]) for name in batch)
    torch.manual_seed(0)
    with torch.no_grad():
        logits = twin.model(source)
        if batch_norm == "own":
            guess = twin.model(target)
        else:
            together, guess = twin.model(torch.cat([source, target])).split([len(source), len(target)])
            share = torch.rand_like(logits)
            logits = share * logits + (1 - share) * together
        label, keep = twin.pseudo_labels(logits.chunk(2)[0], guess.chunk(2)[0])
    wanted = (keep * F.cross_entropy(guess.chunk(2)[1], label, reduction="none")).mean()
    torch.testing.assert_close(losses.terms["pseudo_label"], rise(0.25, until=0.5) * wanted)
    labels = torch.cat([batch["source"].labels] * 2)
    torch.testing.assert_close(losses.terms["supervised"], F.cross_entropy(logits, labels))
    torch.testing.assert_close(losses.monitors["kept"], keep.mean())


def test_the_source_by_itself_leaves_batch_norm_alone(tiny):
    method, twin = (tiny.method("adamatch", method={"batch_norm": "joint"}) for _ in range(2))
    batch = tiny.batch(method)
    method(batch, 0.5)
    with torch.no_grad():
        twin.model(
            torch.cat([images.views[view] for images in batch.values() for view in ("weak", "strong")])
        )
    for ours, theirs in zip(batch_norms(method.model), batch_norms(twin.model), strict=True):
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
        torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_what_is_left_behind_is_the_average(tiny):
    method = tiny.method("adamatch", method={"decay": 0.9})
    before = [p.clone() for p in method.average.parameters()]
    with torch.no_grad():
        for p in method.model.parameters():
            p.add_(1.0)
    method.after_step(0.5)
    for old, new, now in zip(before, method.average.parameters(), method.model.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * now)
    assert method.result is method.average
