"""A small convolutional network that trains on two CPU cores: the default.

Strides do the pooling, so that no layer works at full resolution. The maximum over the image goes to the
features beside the average, since an arc covers few pixels.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from raylens.config import section


@section
class Config:
    name: str = "small"
    """An encoder of raylens, or any name that timm knows."""
    features: Annotated[int, Field(ge=1)] = 256
    """Length of the feature vector."""
    width: Annotated[int, Field(ge=1)] = 16
    """Channels of the first layer; the last has eight times as many. CPUs like multiples of 16."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the pooled channels that are dropped while training."""


class Encoder(nn.Module):
    """Pixels (B, C, H, W) -> features (B, dim); images of 16 x 16 and larger."""

    def __init__(self, config: Config, channels: int, size: int) -> None:
        super().__init__()
        self.dim, width = config.features, config.width
        self.layers = nn.Sequential(
            convolution(channels, width, kernel=5, stride=2),
            convolution(width, 2 * width, kernel=3, stride=2),
            convolution(2 * width, 4 * width, kernel=3, stride=2),
            convolution(4 * width, 8 * width, kernel=3, stride=2),
            convolution(8 * width, 8 * width, kernel=3, stride=1),
        )
        self.project = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(16 * width, self.dim), nn.PReLU())
        self.to(memory_format=torch.channels_last)  # faster, on CPUs too

    def maps(self, pixels: Tensor) -> Tensor:
        """What is pooled: (B, 8 width, H / 16, W / 16)."""
        return self.layers(pixels.contiguous(memory_format=torch.channels_last))

    def cells(self, side: int) -> tuple[float, float]:
        """Pixel that the first of `side` cells of the maps looks at, and pixels from each to the next."""
        return 0.0, 16.0

    def pooled(self, maps: Tensor) -> Tensor:
        """Features (B, dim) of maps."""
        return self.project(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.pooled(self.maps(pixels))


def convolution(channels: int, out: int, *, kernel: int, stride: int) -> nn.Module:
    layer = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out), nn.ReLU(inplace=True))
