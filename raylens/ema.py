"""Averaged copies of modules, statistics over workers, and the rows of all of them."""

from __future__ import annotations

import copy

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd


def frozen_copy(module: nn.Module) -> nn.Module:
    """A copy that no gradient reaches."""
    return copy.deepcopy(module).requires_grad_(False)


def without_dropout(module: nn.Module) -> nn.Module:
    """`module`, made to drop nothing, in training neither; its batch norm stays as it is."""
    from timm.layers import DropPath  # here, not above: timm takes seconds to import

    for layer in module.modules():
        if isinstance(layer, _DropoutNd):
            layer.p = 0.0
        elif isinstance(layer, DropPath):  # whole branches, as some of timm's networks do by default
            layer.drop_prob = 0.0
    return module


@torch.no_grad()
def over_workers(value: Tensor) -> Tensor:
    """The mean of a statistic over all data-parallel workers, without gradient."""
    if not (dist.is_available() and dist.is_initialized()):
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def gathered(value: Tensor) -> Tensor:
    """The rows (B, ...) of all data-parallel workers, (W B, ...), through which gradients flow back to each.

    Every worker that computes the same loss of them has W times the gradient of its own rows, and the mean over
    workers, as data-parallel training takes it, is the gradient of that loss.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    return _Gathered.apply(value)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(context, value: Tensor) -> Tensor:
        parts = [torch.empty_like(value) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, value.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


@torch.no_grad()
def follow_(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Move the parameters of `average` towards those of `module`, 1 - decay of the way; buffers stay as they are."""
    for slow, fast in zip(average.parameters(), module.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)


@torch.no_grad()
def average_(running: Tensor, value: Tensor, decay: float | Tensor) -> None:
    """Move a running average towards a statistic of this step, the mean over all workers."""
    running.lerp_(over_workers(value).to(running.dtype), 1 - decay)
