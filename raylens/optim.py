"""The optimizer section -> an optimizer, and the learning rate as a function of progress."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from raylens.config import Optimizer


def build(config: Optimizer, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
    """An optimizer over parameter groups; a group's own `lr` replaces the section's, its `scale` multiplies it.

    Fused, all parameters in one pass, where torch has that.
    """
    groups = [{"lr": config.lr, **group} for group in groups]
    for group in groups:
        group["lr"] = group["peak"] = group["lr"] * group.pop("scale", 1.0)
    fused = all(weight.device.type in ("cpu", "cuda") for group in groups for weight in group["params"])
    shared = {"weight_decay": config.weight_decay, "fused": fused}
    if config.name == "sgd":
        made = torch.optim.SGD(groups, momentum=config.betas[0], **shared)
        if config.betas[0]:
            # A fused first step that a scaler skips would leave momentum as the memory was before.
            for weight in (weight for group in made.param_groups for weight in group["params"]):
                made.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        return made
    make = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return make(groups, betas=config.betas, **shared)


def rate(config: Optimizer, step: int, steps: int) -> float:
    """The factor on the peak learning rate at `step`: a linear rise that is never 0, then half a cosine.

    Counted in optimizer steps; no state, so a resumed run cannot fall out of step with it.
    """
    warmup = round(config.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
