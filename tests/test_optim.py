"""The optimizer section -> an optimizer; the learning rate as a function of the step."""

import math

import pytest
import torch
from torch import nn

from raylens.config import Optimizer
from raylens.optim import build, rate


def rates(steps=100, **settings):
    config = Optimizer(**settings)
    return [rate(config, step, steps) for step in range(steps)]


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_rate_is_never_0_and_never_above_its_peak(warmup, steps, schedule):
    assert all(0 < factor <= 1 for factor in rates(steps, warmup=warmup, schedule=schedule))


def test_the_rate_rises_from_the_first_step_on_and_ends_near_0():
    found = rates(100, warmup=0.1)
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert found[10] == 1
    assert found == sorted(found[:10]) + sorted(found[10:], reverse=True)
    assert 0 < found[-1] < 1e-3


def test_half_way_down_the_cosine_the_rate_is_half():
    assert rate(Optimizer(warmup=0.2), 60, 100) == pytest.approx(0.5)
    assert rate(Optimizer(warmup=0.0), 25, 100) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_a_constant_rate_stays_after_its_rise():
    found = rates(100, warmup=0.05, schedule="constant")
    assert found[4:] == [1.0] * 96


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_a_groups_own_rate_replaces_the_sections(name):
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    groups = [
        {"name": "encoder", "params": [*one.parameters()]},
        {"name": "discriminator", "params": [*other.parameters()], "lr": 0.3},
    ]
    made = build(Optimizer(name=name, lr=0.1, weight_decay=0.2, betas=(0.5, 0.9)), groups)
    assert [group["peak"] for group in made.param_groups] == [0.1, 0.3]
    assert [group["lr"] for group in made.param_groups] == [0.1, 0.3]
    assert [group["name"] for group in made.param_groups] == ["encoder", "discriminator"]
    assert all(group["weight_decay"] == 0.2 for group in made.param_groups)
    assert "lr" not in groups[0], "the method's own groups stay as they are"
    if name == "sgd":
        assert made.param_groups[0]["momentum"] == 0.5
    else:
        assert made.param_groups[0]["betas"] == (0.5, 0.9)


@pytest.mark.parametrize(
    ("name", "cls"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)]
)
def test_the_name_says_which_optimizer(name, cls):
    assert type(build(Optimizer(name=name), [{"params": [nn.Parameter(torch.ones(1))]}])) is cls


def test_an_encoder_learns_at_its_share_of_the_head_s_rate(tiny):
    method = tiny.method("supervised", method={"encoder_rate": 0.1})
    made = build(Optimizer(lr=0.01), method.groups())
    assert {group["name"]: group["peak"] for group in made.param_groups} == {"head": 0.01, "encoder": 0.001}
    assert sum(len(group["params"]) for group in made.param_groups) == len([*method.parameters()])
    (whole,) = build(Optimizer(lr=0.01), tiny.method("supervised").groups()).param_groups
    assert whole["peak"] == 0.01


def test_a_first_step_that_a_scaler_skips_leaves_no_trace():
    """Fused momentum would be what the memory held before."""
    weight, plain = nn.Parameter(torch.ones(1000)), nn.Parameter(torch.ones(1000))
    made = build(Optimizer(name="sgd", lr=0.1, betas=(0.9, 0.99), weight_decay=0), [{"params": [weight]}])
    scaler, expected = torch.amp.GradScaler("cpu"), torch.optim.SGD([plain], lr=0.1, momentum=0.9)
    for bad in (True, False, False):
        made.zero_grad()
        scaler.scale((weight * (float("inf") if bad else 2.0)).sum()).backward()
        scaler.step(made)
        scaler.update()
    for _ in range(2):
        expected.zero_grad()
        (plain * 2.0).sum().backward()
        expected.step()
    torch.testing.assert_close(weight, plain)
