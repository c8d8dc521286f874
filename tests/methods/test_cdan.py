"""CDAN against the formulas of its paper."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raylens.losses import reversed_gradient
from raylens.methods.cdan import joint
from raylens.records import Images


def test_features_and_probabilities_are_multiplied_each_with_each():
    features, logits = torch.randn(3, 4), torch.randn(3, 2)
    probability = logits.softmax(1).numpy()
    wanted = [np.outer(p, f).ravel() for p, f in zip(probability, features.numpy(), strict=True)]
    np.testing.assert_allclose(joint(features, logits).numpy(), wanted, rtol=1e-6)


def test_a_gradient_is_turned_round():
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    turned = reversed_gradient(value, 0.5)
    assert torch.equal(turned, value)
    turned.square().sum().backward()
    assert value.grad.tolist() == [-1.0, -2.0]


@pytest.mark.parametrize("prior", [None, 0.1])
def test_the_discriminator_learns_and_the_encoder_unlearns(tiny, prior):
    method = tiny.method("cdan", method={"target_prior": prior})
    batch = tiny.batch(method)
    labels = torch.tensor([1, 0, 0, 0, 0, 0, 0, 1])
    batch["source"] = Images(batch["source"].views, labels)
    losses = method(batch, progress=0.5)
    strength = 2 / (1 + np.exp(-5)) - 1

    # Long et al. 2018, eqs. 2 and 8, written plainly; batch norm by each domain's own batch.
    features = {name: method.model.features(images.views["view"]) for name, images in batch.items()}
    domain = 0
    for name, is_source in (("source", 1.0), ("target", 0.0)):
        logits = method.model.head(features[name])
        probability = logits.detach().softmax(1)
        weight = 1 + torch.exp((probability * probability.log()).sum(1))
        if prior and name == "source":
            weight = weight * torch.where(labels == 1, prior / 0.25, (1 - prior) / 0.75)
        weight = weight / weight.mean()
        seen = method.discriminator(joint(features[name], logits))
        told = F.binary_cross_entropy_with_logits(seen, torch.full_like(seen, is_source), reduction="none")
        domain = domain + (weight * told).mean() / 2
    torch.testing.assert_close(losses.terms["domain"], domain)

    weight = next(method.discriminator.parameters())
    first = next(method.model.encoder.parameters())
    ours = torch.autograd.grad(losses.terms["domain"], [weight, first])
    plain = torch.autograd.grad(domain, [weight, first])
    torch.testing.assert_close(ours[0], plain[0])
    torch.testing.assert_close(ours[1], -strength * plain[1], rtol=1e-4, atol=1e-7)


def test_at_the_start_the_encoder_hears_nothing_of_the_discriminator(tiny):
    method = tiny.method("cdan")
    losses = method(tiny.batch(method), progress=0.0)
    (gradient,) = torch.autograd.grad(losses.terms["domain"], [next(method.model.encoder.parameters())])
    assert gradient.abs().max() == 0
