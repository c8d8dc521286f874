"""The transforms of preprocess.py once more, in torch, so that an exported model carries its own.

`tests/data/test_preprocess_torch.py` holds each against the other.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from raylens.data.preprocess import CONTRAST, HUGE, SKY_CLIP, SKY_FRAME, TRANSFORMS

TINY = float(np.finfo(np.float32).tiny)


class Preprocess(nn.Module):
    """Raw pixels float32 (N, C, H, W), in any unit -> what `preprocess` makes of them."""

    def __init__(self, transform: str, size: int) -> None:
        super().__init__()
        assert transform in TRANSFORMS, transform
        self.transform = transform
        edge = max(1, round(SKY_FRAME * size))
        inside = torch.zeros(size, size, dtype=torch.bool)
        inside[edge : size - edge, edge : size - edge] = True
        self.register_buffer("sky", (~inside).flatten().nonzero()[:, 0])

    def forward(self, pixels: Tensor) -> Tensor:
        x = repaired(pixels)
        if self.transform in ("minmax", "log"):
            x = minmax(x)
        if self.transform == "log":
            return torch.log1p((CONTRAST - 1) * x) / float(np.log(CONTRAST))
        if self.transform == "asinh":
            return asinh(x, x.flatten(2)[:, :, self.sky])
        return x


def repaired(x: Tensor) -> Tensor:
    """Pixels that are NaN, infinite or beyond HUGE have the median of their image's others; 0 if there is none."""
    flat = x.flatten(1)
    good = flat.abs() < HUGE  # False for NaN
    ranked = torch.where(good, flat, torch.inf).sort(1).values
    count = good.sum(1, keepdim=True)
    middle = (
        ranked.gather(1, ((count - 1) // 2).clamp_min(0)),
        ranked.gather(1, (count // 2).clamp_max(flat.shape[1] - 1)),
    )
    median = torch.where(count > 0, 0.5 * (middle[0] + middle[1]), 0.0)
    return torch.where(good, flat, median).reshape(x.shape)


def minmax(x: Tensor) -> Tensor:
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    span = high - low
    return (x - low) / torch.where(span == 0, 1.0, span)


def asinh(x: Tensor, sky: Tensor) -> Tensor:
    """Of images (N, C, H, W) with the sky (N, C, pixels of the frame)."""
    ranked = sky.sort(-1).values
    middle, quarter = sky.shape[-1] // 2, 3 * sky.shape[-1] // 4
    median, upper = ranked[..., middle, None], ranked[..., quarter, None]
    deviation = (sky - median).abs()
    noise = 1.4826 * deviation.sort(-1).values[..., middle, None]
    noise = torch.maximum(noise, 1.4826 * (upper - median))
    noise = torch.where(noise > 0, noise, deviation.mean(-1, keepdim=True))[..., None]
    span = x.amax((2, 3), keepdim=True) - x.amin((2, 3), keepdim=True)
    noise = torch.where(noise > 1e-6 * span, noise, span / SKY_CLIP[1]).clamp_min(TINY)
    low, high = (float(end) for end in np.arcsinh(SKY_CLIP))
    scaled = ((x - median[..., None]) / noise).clamp(*SKY_CLIP)
    return (torch.asinh(scaled) - low) / (high - low) * (span > 0)
