"""WDGRL against the formulas of its paper."""

import numpy as np
import pytest
import torch
from torch import nn

from raylens.records import Images


def test_a_plane_is_as_steep_as_its_weights(tiny):
    method = tiny.method("wdgrl")
    method.critic = nn.Sequential(nn.Linear(16, 1), nn.Flatten(0))
    weight = method.critic[0].weight
    found = method.steepness(torch.randn(5, 16), torch.randn(7, 16))
    assert found.item() == pytest.approx((weight.norm().item() - 1) ** 2, rel=1e-5)


def steepness(critic, source, target, share):
    """Shen et al. 2018, eq. 4, for a critic of one hidden layer, whose gradient is that of its units that are not 0."""
    rows = len(share)
    points = torch.cat([(1 - share) * source[:rows] + share * target[:rows], source, target])
    into, _, out, _ = critic
    active = (points @ into.weight.T + into.bias > 0).float()
    gradients = (active * out.weight) @ into.weight
    return ((gradients.square().sum(1).sqrt() - 1) ** 2).mean()


@pytest.mark.parametrize(("ours", "theirs"), [(5, 7), (7, 5)])
def test_steepness_is_that_at_the_features_and_at_points_drawn_between_them(tiny, ours, theirs):
    method = tiny.method("wdgrl")
    torch.manual_seed(1)
    source, target = 3 * torch.randn(ours, 16), 1 + torch.randn(theirs, 16)
    torch.manual_seed(0)
    found = method.steepness(source, target)
    torch.manual_seed(0)
    share = torch.rand(5, 1)
    torch.testing.assert_close(found, steepness(method.critic, source, target, share), rtol=1e-5, atol=0)


def test_the_critic_widens_the_gap_and_pays_for_its_steepness(tiny):
    method = tiny.method("wdgrl", method={"target_prior": None, "penalty": 3.0})
    batch = tiny.batch(method)
    torch.manual_seed(0)
    found = method(batch, progress=0.5).terms["critic"]
    with torch.no_grad():
        source, target = (method.model.features(batch[name].views["view"]) for name in ("source", "target"))
    torch.manual_seed(0)
    share = torch.rand(len(source), 1)
    distance = method.critic(source).mean() - method.critic(target).mean()
    wanted = 3.0 * steepness(method.critic, source, target, share) - distance
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    parameters = [*method.critic.parameters()]
    for ours, plain in zip(
        torch.autograd.grad(found, parameters), torch.autograd.grad(wanted, parameters), strict=True
    ):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)


def test_critic_and_encoder_have_opposite_aims_and_leave_each_other_alone(tiny):
    method = tiny.method("wdgrl", method={"target_prior": None, "penalty": 0, "weight": 0.1})
    batch = tiny.batch(method)
    losses = method(batch, progress=0.5)
    # Shen et al. 2018, eq. 2: mean critic of the source minus that of the target.
    with torch.no_grad():
        seen = {
            name: method.critic(method.model.features(images.views["view"])) for name, images in batch.items()
        }
    distance = seen["source"].mean() - seen["target"].mean()
    torch.testing.assert_close(losses.terms["critic"], -distance, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(losses.terms["distance"], 0.1 * distance, rtol=1e-4, atol=1e-6)
    encoder, critic = next(method.model.encoder.parameters()), next(method.critic.parameters())
    assert torch.autograd.grad(losses.terms["critic"], [encoder], retain_graph=True, allow_unused=True) == (
        None,
    )
    assert torch.autograd.grad(losses.terms["distance"], [critic], allow_unused=True) == (None,)


def test_the_prior_weighs_the_source(tiny):
    method = tiny.method("wdgrl", method={"target_prior": 0.1, "penalty": 0, "weight": 0.1})
    batch = tiny.batch(method)
    labels = torch.tensor([1, 0, 0, 0, 0, 0, 0, 1])
    batch["source"] = Images(batch["source"].views, labels)
    with torch.no_grad():
        source, target = (
            method.critic(method.model.features(batch[name].views["view"])).numpy()
            for name in ("source", "target")
        )
    weights = np.where(labels == 1, 0.1 / 0.25, 0.9 / 0.75)
    distance = (weights * source).mean() - target.mean()
    losses = method(batch, progress=0.5)
    assert losses.terms["critic"].item() == pytest.approx(-distance, rel=1e-4, abs=1e-6)
    assert losses.terms["distance"].item() == pytest.approx(0.1 * distance, rel=1e-4, abs=1e-6)
