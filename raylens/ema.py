"""Averaged copies of modules, and of statistics over workers."""

from __future__ import annotations

import copy

import torch
import torch.distributed as dist
from torch import Tensor, nn


def frozen_copy(module: nn.Module) -> nn.Module:
    """A copy that no gradient reaches."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def over_workers(value: Tensor) -> Tensor:
    """The mean of a statistic over all data-parallel workers, without gradient."""
    if not (dist.is_available() and dist.is_initialized()):
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
