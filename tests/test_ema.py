"""Averaged copies, and statistics over workers."""

import torch
import torch.distributed as dist
from timm.layers import DropPath
from torch import nn

from raylens.ema import frozen_copy, over_workers, without_dropout


def test_a_frozen_copy_is_equal_apart_and_out_of_reach_of_gradients():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    copy = frozen_copy(module)
    assert all(
        torch.equal(a, b)
        for a, b in zip(module.state_dict().values(), copy.state_dict().values(), strict=True)
    )
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    assert all(parameter.requires_grad for parameter in module.parameters())
    with torch.no_grad():
        module[0].weight.add_(1)
    assert not torch.equal(module[0].weight, copy[0].weight)


def test_a_teacher_drops_neither_values_nor_branches():
    net = nn.Sequential(nn.Dropout(0.5), DropPath(0.5), nn.Conv2d(3, 3, 1), nn.Dropout2d(0.5)).train()
    images = torch.randn(16, 3, 4, 4)
    assert not torch.equal(net(images), net(images))
    assert torch.equal(without_dropout(net)(images), net(images))


def test_alone_a_statistic_is_itself_without_gradient():
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    assert torch.equal(over_workers(value), value)
    assert not over_workers(value).requires_grad


def test_with_workers_a_statistic_is_their_mean_and_the_given_one_stays(monkeypatch):
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda total: total.add_(torch.tensor([3.0, 4.0])))  # the other's
    mean = over_workers(value)
    assert mean.tolist() == [2.0, 3.0]
    assert not mean.requires_grad
    assert value.tolist() == [1.0, 2.0]
