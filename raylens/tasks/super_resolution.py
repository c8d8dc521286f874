"""Super-resolution: the image as a camera with finer pixels would see it.

A residual network on the image's own pixels (EDSR: Lim et al. 2017, arXiv 1707.02921), which sees the encoder's maps
too, ends in a pixel shuffle (Shi et al. 2016, arXiv 1609.05158); what it paints is added to the bicubic enlargement,
and is 0 at first. Both images are preprocessed with the constants of the one that is given.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from raylens import metrics
from raylens.models import Painter
from raylens.tasks import base

DETAILS = 8
"""Channels of the encoder's maps, once they are as wide as the image."""
WIDER = 8
"""How many times wider maps become by shuffling their channels; the rest is interpolated."""
WINDOW = 5
"""Pixels from the middle of SSIM's Gaussian window to its edge."""


class Task(base.Task):
    """Images (N, C, f H, f W) from images (N, C, H, W) of the same field."""

    objective = "psnr"
    unused = ("method.label_smoothing",)
    shown = ("psnr", "bicubic_psnr", "ssim")
    measured = "psnr"
    beside = ("psnr_gain", "ssim", "mse")
    gives = "image"
    card = "paints an image with {factor} times as many pixels along each side"

    @staticmethod
    def column(settings: Any) -> str:
        return "high"  # as raylens.data.shards calls it

    def __init__(
        self, classes=(), scale=(0.0, 1.0), *, factor: int = 2, width: int = 32, blocks: int = 4, **_: Any
    ) -> None:
        super().__init__(classes, scale)
        self.factor, self.width, self.blocks = factor, width, blocks

    def model(self, encoder: nn.Module, channels: int, size: int) -> Painter:
        was = encoder.training
        maps = encoder.eval().maps(torch.zeros(1, channels, size, size))
        encoder.train(was)
        weights = [weight for weight in encoder.parameters() if weight.requires_grad]
        slopes = torch.autograd.grad(maps.sum(), weights, allow_unused=True)
        for weight, slope in zip(weights, slopes, strict=True):
            weight.requires_grad_(slope is not None)  # what pools the maps is not trained here
        cells, side = getattr(encoder, "cells", None), maps.shape[-1]
        at = cells(side) if cells else (0.0, size / side)
        head = Head(
            channels, size, maps.shape[1:], self.factor, width=self.width, blocks=self.blocks, cells=at
        )
        return Painter(encoder, head)

    def loss(self, painted: Tensor, high: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean squared error of images (N, C, f H, f W)."""
        return F.mse_loss(painted, high)

    def judge(self, painted: Tensor, high: Tensor, pixels: Tensor) -> Tensor:
        """Mean squared errors and SSIM of what is painted and of the bicubic enlargement of `pixels`: (N, 4).

        In units of the range of each true image `high` (N, C, f H, f W).
        """
        low = high.amin((1, 2, 3), keepdim=True)
        span = (high.amax((1, 2, 3), keepdim=True) - low).clamp_min(1e-12)
        true = (high - low) / span
        found = []
        for image in (painted, bicubic(pixels, self.factor)):
            scaled = (image.float() - low) / span
            _, similar = structural_similarity_index_measure(
                scaled, true, data_range=1.0, reduction="none", return_full_image=True
            )
            whole = similar[..., WINDOW:-WINDOW, WINDOW:-WINDOW]  # where the window lies within the image
            found += [(scaled - true).square().mean((1, 2, 3)), whole.mean((1, 2, 3))]
        return torch.stack(found, 1)

    def predict(self, judged: np.ndarray) -> np.ndarray:
        """What `judge` found of each image, (N, 4)."""
        return np.asarray(judged, np.float64)

    scores = predict
    """What metrics compare."""

    def metrics(self, judged: np.ndarray, labels: Any = None) -> dict[str, float]:
        """Metrics of what `judge` found, (N, 4)."""
        return metrics.super_resolution(judged)

    def report(self, judged: np.ndarray, labels: Any = None, *, seed=0, resamples=1000, **_: Any) -> dict:
        """All metrics with their intervals, ready for JSON."""
        return metrics.evaluate_super_resolution(judged, seed=seed, resamples=resamples)


class Head(nn.Module):
    """Paints an image `factor` times as wide, of the image and the encoder's maps of it."""

    def __init__(
        self,
        channels: int,
        size: int,
        maps: tuple[int, int, int],
        factor: int,
        *,
        width: int,
        blocks: int,
        cells: tuple[float, float],
    ) -> None:
        super().__init__()
        self.factor, self.size = factor, size
        (depth, side, _), (first, step) = maps, cells
        tiled = round(step * side) >= size
        wider = min(size // side, WIDER) if tiled else 1
        # Cells that leave the image's frame out, as an encoder's `cells` says, stay where they look.
        if not tiled:
            at = ((torch.arange(size) - first) / step).clamp(0, side - 1)
            weights = (1 - (at[:, None] - torch.arange(side)).abs()).clamp_min(0)
            self.register_buffer("placed", weights, persistent=False)
        self.details = nn.Sequential(nn.Conv2d(depth, DETAILS * wider**2, 1), nn.PixelShuffle(wider))
        self.stem = nn.Conv2d(channels + DETAILS, width, 3, padding=1)
        self.trunk = nn.Sequential(*(Residual(width) for _ in range(blocks)))
        self.shuffle = nn.Sequential(
            nn.Conv2d(width, channels * factor**2, 3, padding=1), nn.PixelShuffle(factor)
        )
        nn.init.zeros_(self.shuffle[0].weight)
        nn.init.zeros_(self.shuffle[0].bias)

    def forward(self, pixels: Tensor, maps: Tensor) -> Tensor:
        details = self.details(maps)
        if hasattr(self, "placed"):
            details = self.placed @ details @ self.placed.T
        elif details.shape[-1] != self.size:
            details = F.interpolate(details, size=self.size, mode="bilinear", align_corners=False)
        first = self.stem(torch.cat([pixels, details.to(pixels.dtype)], 1))
        return bicubic(pixels, self.factor) + self.shuffle(first + self.trunk(first))


class Residual(nn.Module):
    """Two convolutions beside the way past them, without batch norm: Lim et al. 2017, section 3.1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(width, width, 3, padding=1) for _ in range(2)]
        self.layers = nn.Sequential(layers[0], nn.ReLU(inplace=True), layers[1])

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.layers(maps)


def bicubic(pixels: Tensor, factor: int) -> Tensor:
    """Images (N, C, H, W) enlarged to (N, C, f H, f W) by cubic convolution, with a of -0.75, as torch has it."""
    return F.interpolate(pixels.float(), scale_factor=factor, mode="bicubic", align_corners=False)
