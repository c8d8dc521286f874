"""A vision transformer for images of 32 to 150 pixels, small enough for two cores, on timm's.

Dosovitskiy et al. 2021 (arXiv 2010.11929), with patches that fit cutouts: 16 pixels, as on photographs, would leave
16 of them. `mae` needs it, since it encodes a part of the patches.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from raylens.config import section
from raylens.errors import ConfigError

PATCHES = (8, 10, 9, 7, 6, 5, 4)
"""Sides of a patch in pixels, by liking."""


@section
class Config:
    name: str = "vit"
    """An encoder of raylens, or any name that timm knows."""
    features: Annotated[int, Field(ge=4)] = 256
    """Length of a token, and of the feature vector."""
    patch: Annotated[int, Field(ge=2)] | None = None
    """Side of a patch in pixels; 8 or the next best that divides the image without it."""
    depth: Annotated[int, Field(ge=1)] = 6
    """Blocks."""
    heads: Annotated[int, Field(ge=1)] = 4
    """Attention heads; they share the token out."""
    pool: Literal["average", "cls"] = "average"
    """What becomes the feature vector: the mean of the patches' tokens, or the class token."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the tokens' values that are dropped while training."""


class Encoder(nn.Module):
    """Pixels (B, C, H, W) -> features (B, dim)."""

    def __init__(self, config: Config, channels: int, size: int) -> None:
        super().__init__()
        self.dim, self.size, self.channels, self.pool = config.features, size, channels, config.pool
        self.patch = config.patch or next((side for side in PATCHES if size % side == 0), size)
        if size % self.patch or size == self.patch:
            raise ConfigError(
                f"encoder 'vit' cannot cut {size} pixels into patches; set encoder.patch to a part of it, or convert "
                "the images with --crop or --size"
            )
        if config.features % config.heads:
            raise ConfigError(
                f"encoder.heads {config.heads} cannot share encoder.features {config.features} out; set a divisor"
            )
        self.network = VisionTransformer(
            img_size=size,
            patch_size=self.patch,
            in_chans=channels,
            num_classes=0,
            global_pool="",
            embed_dim=config.features,
            depth=config.depth,
            num_heads=config.heads,
            proj_drop_rate=config.dropout,
        )

    @property
    def patches(self) -> int:
        """How many there are."""
        return (self.size // self.patch) ** 2

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.tokens(pixels)
        return tokens[:, 0] if self.pool == "cls" else tokens[:, 1:].mean(1)

    def maps(self, pixels: Tensor) -> Tensor:
        """The patches' tokens where they lie: (B, dim, H / patch, W / patch)."""
        side = self.size // self.patch
        return self.tokens(pixels)[:, 1:].mT.unflatten(2, (side, side))

    def cells(self, side: int) -> tuple[float, float]:
        """Pixel that the first of `side` patches has in its middle, and pixels from each to the next."""
        return (self.patch - 1) / 2, float(self.patch)

    def tokens(self, pixels: Tensor, kept: Tensor | None = None) -> Tensor:
        """Tokens (B, 1 + N, dim), the class token first; of the patches `kept` (B, K) alone, (B, 1 + K, dim)."""
        network = self.network
        tokens = network.patch_embed(pixels) + network.pos_embed[:, 1:]
        if kept is not None:
            tokens = tokens.gather(1, kept[..., None].expand(-1, -1, self.dim))
        first = network.cls_token + network.pos_embed[:, :1]
        first = first.expand(tokens.shape[0], -1, -1)  # len() would fix the batch of an exported model
        return network.norm(network.blocks(network.norm_pre(torch.cat([first, tokens], 1))))
