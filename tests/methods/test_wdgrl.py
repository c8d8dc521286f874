"""WDGRL against the formulas of its paper."""

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_plane_is_as_steep_as_its_weights(tiny):
    method = tiny.method("wdgrl")
    method.critic = nn.Sequential(nn.Linear(16, 1), nn.Flatten(0))
    weight = method.critic[0].weight
    found = method.steepness(torch.randn(5, 16), torch.randn(7, 16))
    assert found.item() == pytest.approx((weight.norm().item() - 1) ** 2, rel=1e-5)


def test_critic_and_encoder_have_opposite_aims_and_leave_each_other_alone(tiny):
    method = tiny.method("wdgrl", method={"target_prior": None, "penalty": 0})
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
    method = tiny.method("wdgrl", method={"target_prior": 0.5, "penalty": 0})
    plain = tiny.method("wdgrl", method={"target_prior": None, "penalty": 0})
    batch = tiny.batch(method)  # half of its source images are lenses
    ours, theirs = (one(batch, progress=0.5).terms["critic"] for one in (method, plain))
    torch.testing.assert_close(ours, theirs)
