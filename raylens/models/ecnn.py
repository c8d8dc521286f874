"""A network whose features do not change when the image is turned or mirrored, on escnn.

The trunk is that of the published lens finder (Nath, DeepLense): six blocks of steerable convolutions with
24, 48, 48, 96, 96 and 64 regular fields, kernels 7, 5, 5, 5, 5 and 5, batch norm within fields, anti-aliased
pools; then the maximum over the group, and a head of two layers. The method: Weiler and Cesa, General
E(2)-Equivariant Steerable CNNs, 2019.

Differs from the published one: maps are averaged over the image before the head, so that the features are
invariant; flattened, as published (`pool: flatten`), they keep positions, which turn with the image. A pool
that halves an even number of pixels has an even kernel, so that it commutes with turns. And filters are
expanded from the weights in every forward pass, so that averaged or loaded weights are the ones that act.

The invariance is exact for the group's mirror images and quarter and half turns; turns by 45 degrees, of C8
and D8, interpolate between pixels, and are approximate.
"""

from __future__ import annotations

import copy
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raylens.config import section
from raylens.errors import ConfigError
from raylens.models.escnn_compat import enn, gspaces


@section
class Config:
    name: str = "ecnn"
    """An encoder of raylens, or any name that timm knows."""
    features: Annotated[int, Field(ge=1)] = 256
    """Length of the feature vector."""
    group: Literal["C4", "D2", "D4", "C8", "D8"] = "D2"
    """Symmetries: C turns by 1/4 or 1/8, D turns by 1/2, 1/4 or 1/8 and mirror images."""
    width: Annotated[int, Field(ge=3)] = 24
    """Regular fields of the first block; the later ones keep the published proportions."""
    pool: Literal["average", "flatten"] = "average"
    """What becomes of positions before the head: averaged, or kept as in the published network."""


class Encoder(nn.Module):
    """Pixels (B, C, H, W) -> features (B, dim), the same for each of the group's turns and mirror images."""

    def __init__(self, config: Config, channels: int, size: int) -> None:
        super().__init__()
        if side(size) < 1:
            raise ConfigError(
                f"encoder 'ecnn' cannot take images of {size} pixels; convert or simulate them with --size 29 or more"
            )
        self.dim, self.size = config.features, size
        kind, turns = config.group[0], int(config.group[1:])
        space = gspaces.flipRot2dOnR2(turns) if kind == "D" else gspaces.rot2dOnR2(turns)
        regular, width = space.regular_repr, config.width
        self.pixels = enn.FieldType(space, channels * [space.trivial_repr])
        one, two, four, last = (
            enn.FieldType(space, round(width * times) * [regular]) for times in (1, 2, 4, 64 / 24)
        )
        self.trunk = nn.Sequential(
            enn.MaskModule(self.pixels, size, margin=1),
            *block(self.pixels, one, kernel=7, padding=1),
            *block(one, two, kernel=5, padding=2),
            Pool(two, stride=2, padding=2),
            *block(two, two, kernel=5, padding=2),
            *block(two, four, kernel=5, padding=2),
            Pool(four, stride=2, padding=2),
            *block(four, four, kernel=5, padding=2),
            *block(four, last, kernel=5, padding=1),
            Pool(last, stride=1, padding=0),
            enn.GroupPooling(last),
        )
        self.pool = nn.AdaptiveAvgPool2d(1) if config.pool == "average" else nn.Identity()
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(len(last) * (1 if config.pool == "average" else side(size) ** 2), self.dim),
            nn.BatchNorm1d(self.dim),
            nn.ELU(),
            nn.Linear(self.dim, self.dim),
        )

    def maps(self, pixels: Tensor) -> Tensor:
        """What is pooled, the maximum over the group: (B, fields, h, w); it turns with the image."""
        return self.trunk(enn.GeometricTensor(pixels, self.pixels)).tensor

    def cells(self, side: int) -> tuple[float, float]:
        """Pixel that the first of `side` cells of the maps looks at, and pixels from each to the next.

        The cells lie around the middle of the image and leave its frame out, since convolutions are cut at the edges.
        """
        return (self.size - 1 - 4 * (side - 1)) / 2, 4.0

    def pooled(self, maps: Tensor) -> Tensor:
        """Features (B, dim) of maps."""
        return self.head(self.pool(maps))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.pooled(self.maps(pixels))

    def plain(self) -> Plain:
        """The same network in torch's own layers, with the filters that the weights stand for now."""
        return Plain(self)


class Plain(nn.Module):
    """An Encoder of plain convolutions, for use alone: nothing would keep it equivariant in training."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.dim = encoder.dim
        self.trunk = nn.Sequential(*(_plain(layer) for layer in encoder.trunk))
        self.pool, self.head = copy.deepcopy(encoder.pool), copy.deepcopy(encoder.head)
        self.eval()

    def maps(self, pixels: Tensor) -> Tensor:
        return self.trunk(pixels)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.pool(self.maps(pixels)))


def _plain(layer: nn.Module) -> nn.Module:
    return Mask(layer.mask) if isinstance(layer, enn.MaskModule) else copy.deepcopy(layer).export()


class Mask(nn.Module):
    """Pixels times a mask (1, 1, H, W)."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask.detach().clone())

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels * self.mask


def block(fields: enn.FieldType, out: enn.FieldType, *, kernel: int, padding: int) -> list[nn.Module]:
    convolution = Convolution(fields, out, kernel_size=kernel, padding=padding, bias=False)
    return [convolution, enn.InnerBatchNorm(out), enn.ReLU(out, inplace=True)]


def side(size: int) -> int:
    """Of the maps after the trunk."""
    size = (size - 4 + 1) // 2
    size = (size + 1) // 2
    return size - 6


class Convolution(enn.R2Conv):
    """escnn's, without the filter it keeps in evaluation mode, which goes stale and changes the keys."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        del self.filter
        self._basisexpansion = copy.deepcopy(
            self._basisexpansion
        )  # escnn shares it between layers and models

    def train(self, mode: bool = True) -> Convolution:
        return nn.Module.train(self, mode)

    def forward(self, maps: enn.GeometricTensor) -> enn.GeometricTensor:
        filters, _ = self.expand_parameters()
        return enn.GeometricTensor(F.conv2d(maps.tensor, filters, padding=self.padding), self.out_type)

    @torch.no_grad()
    def export(self) -> nn.Conv2d:
        """torch's own convolution with these filters."""
        filters, _ = self.expand_parameters()
        out, channels, width, _ = filters.shape
        plain = nn.Conv2d(channels, out, width, padding=self.padding, bias=False)
        plain.weight.copy_(filters)
        return plain


class Pool(nn.Module):
    """An average under a Gaussian of 0.66 pixels: 5 pixels wide, or 6 where an even number is halved."""

    def __init__(self, fields: enn.FieldType, *, stride: int, padding: int) -> None:
        super().__init__()
        self.fields, self.stride, self.padding = fields, stride, padding
        for name, width in (("odd", 5), ("even", 6)):
            line = torch.exp(-((torch.arange(width) - (width - 1) / 2) ** 2) / (2 * 0.66**2))
            kernel = torch.outer(line, line) / line.sum() ** 2
            self.register_buffer(name, kernel.expand(fields.size, 1, width, width).clone(), persistent=False)

    def forward(self, maps: enn.GeometricTensor) -> enn.GeometricTensor:
        return enn.GeometricTensor(self.averaged(maps.tensor), self.fields)

    def averaged(self, maps: Tensor) -> Tensor:
        halves_even = self.stride == 2 and maps.shape[-1] % 2 == 0
        kernel = self.even if halves_even else self.odd
        return F.conv2d(maps, kernel, stride=self.stride, padding=self.padding, groups=self.fields.size)

    def export(self) -> nn.Module:
        return PlainPool(self)


class PlainPool(nn.Module):
    """A Pool of tensors."""

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, maps: Tensor) -> Tensor:
        return self.pool.averaged(maps)
