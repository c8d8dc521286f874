"""Losses against their formulas, written out in NumPy."""

import numpy as np
import pytest
import torch

from raylens.losses import domain_loss, importance


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture
def logits():
    rng = np.random.default_rng(0)
    return rng.normal(0, 2, 20), rng.normal(0, 2, 20)


def test_the_discriminators_loss_is_equation_2_of_tzeng_2017(logits):
    # min_D  -E_source[log D(M_s(x))] - E_target[log(1 - D(M_t(x)))]
    source, target = logits
    wanted = -np.log(sigmoid(source)).mean() - np.log(1 - sigmoid(target)).mean()
    ours = domain_loss(torch.tensor(source), True) + domain_loss(torch.tensor(target), False)
    assert ours.item() == pytest.approx(wanted)


def test_the_adversarys_loss_is_equation_7_of_tzeng_2017(logits):
    # min_Mt  -E_target[log D(M_t(x))]: the label is inverted, the gradient is not
    target = logits[1]
    assert domain_loss(torch.tensor(target), True).item() == pytest.approx(-np.log(sigmoid(target)).mean())


def test_a_discriminator_that_knows_nothing_is_at_ln_2():
    assert domain_loss(torch.zeros(5), True).item() == pytest.approx(np.log(2))
    assert domain_loss(torch.zeros(5), False).item() == pytest.approx(np.log(2))


@pytest.mark.parametrize("source", [True, False])
def test_very_sure_discriminators_give_finite_losses_and_gradients(source):
    logits = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = domain_loss(logits, source)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_weights_count_images_unequally(logits):
    source, weights = logits[0], np.linspace(0, 2, 20)
    wanted = -(weights * np.log(sigmoid(source))).mean()
    assert domain_loss(torch.tensor(source), True, torch.tensor(weights)).item() == pytest.approx(wanted)
    assert domain_loss(torch.tensor(source), True, torch.ones(20)) == domain_loss(torch.tensor(source), True)


@pytest.mark.parametrize("prior", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("lenses", [1, 8, 15])
def test_importance_is_the_ratio_of_the_priors_and_gives_the_wanted_one(prior, lenses):
    # Tachet des Combes et al. 2020: w(y) = p_target(y) / p_source(y)
    labels = np.arange(16) < lenses
    ours = importance(torch.tensor(labels.astype(int)), prior).numpy()
    share = lenses / 16
    np.testing.assert_allclose(ours, np.where(labels, prior / share, (1 - prior) / (1 - share)), rtol=1e-5)
    assert ours.mean() == pytest.approx(1)
    assert ours[labels].sum() / ours.sum() == pytest.approx(prior)


@pytest.mark.parametrize("label", [0, 1])
def test_a_batch_of_one_class_has_nothing_to_weigh(label):
    assert importance(torch.full((4,), label), 0.01).tolist() == pytest.approx([1, 1, 1, 1])


def test_labels_may_be_true_and_false():
    labels = torch.tensor([True, False, False])
    assert torch.equal(importance(labels, 0.5), importance(labels.long(), 0.5))
