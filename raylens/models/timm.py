"""Any encoder that timm knows: `efficientnet_b2`, `resnet34`, `densenet121`, and a thousand more.

As in the published lens finder: timm's network up to its global average pool, dropout, a linear layer,
PReLU. Networks that are made for one image size, as vision transformers are, are made for the data's.
"""

from __future__ import annotations

import math
from difflib import get_close_matches
from typing import Annotated

import timm
import torch
from pydantic import Field
from torch import Tensor, nn

from raylens.config import section
from raylens.errors import ConfigError


@section
class Config:
    name: str = "efficientnet_b2"
    """An encoder of raylens, or any name that timm knows."""
    features: Annotated[int, Field(ge=1)] = 256
    """Length of the feature vector."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the pooled channels that are dropped while training. In pretraining none unless it is given, and in a
    finetuning what it was in the pretraining."""
    pretrained: bool = False
    """Start from weights learned on ImageNet; they are fetched once, over the network."""


class Encoder(nn.Module):
    """Pixels (B, C, H, W) -> features (B, dim)."""

    def __init__(self, config: Config, channels: int, size: int) -> None:
        super().__init__()
        self.dim, self.name = config.features, config.name
        self.channels, self.size = channels, size
        self.network = network(config.name, channels, size, config.pretrained)
        for module in self.network.modules():
            if hasattr(module, "attention_bias_cache"):
                module.register_forward_pre_hook(_without_cache)
        pooled = width(self.network, config.name, channels, size)
        self.project = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(pooled, self.dim), nn.PReLU())
        self.to(memory_format=torch.channels_last)  # most of them are faster so, on CPUs too

    def maps(self, pixels: Tensor) -> Tensor:
        """What is pooled: (B, channels, h, w); of a transformer the patches' tokens. Raises ConfigError if none."""
        found = self.network.forward_features(pixels.contiguous(memory_format=torch.channels_last))
        if found.ndim == 3:
            found = found[:, getattr(self.network, "num_prefix_tokens", 0) :]
            side = math.isqrt(found.shape[1])
            if side**2 == found.shape[1]:
                return found.mT.unflatten(2, (side, side))
        elif found.ndim == 4:
            return found.permute(0, 3, 1, 2) if self.channels_last else found
        raise ConfigError(f"encoder '{self.name}' has no maps of an image; set another encoder.name")

    @property
    def channels_last(self) -> bool:
        """Whether the network's own maps are (B, h, w, channels)."""
        return getattr(self.network, "output_fmt", "NCHW") == "NHWC"

    def cells(self, side: int) -> tuple[float, float]:
        """Pixel that the first of `side` cells of the maps looks at, and pixels from each to the next.

        Taken to be tiles, as they are of patches; where convolutions pad, they may lie up to half a tile elsewhere.
        """
        return (self.size / side - 1) / 2, self.size / side

    def pooled(self, maps: Tensor) -> Tensor:
        """Features (B, dim) of maps. Raises ConfigError where they are made of tokens, some of which maps leave out."""
        if self.network.forward_features(maps.new_zeros(1, self.channels, self.size, self.size)).ndim != 4:
            raise ConfigError(f"encoder '{self.name}' pools tokens, not maps; set another encoder.name")
        return self.project(
            self.network.forward_head(maps.permute(0, 2, 3, 1) if self.channels_last else maps)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.project(self.network(pixels.contiguous(memory_format=torch.channels_last)))


def _without_cache(module: nn.Module, _: tuple) -> None:
    """Some of timm's attention keeps what it made of its weights in evaluation mode, where methods here still learn."""
    module.attention_bias_cache = {}


def network(name: str, channels: int, size: int, pretrained: bool) -> nn.Module:
    """timm's network without its classifier."""
    if not timm.is_model(name):
        close = get_close_matches(name, ["small", "ecnn", *timm.list_models()])
        hint = f"; close to it: {', '.join(close)}" if close else ""
        raise ConfigError(f"unknown encoder '{name}'{hint}; python -m raylens.models lists what there is")
    known = timm.get_pretrained_cfg(name)
    if pretrained and not (known and known.has_weights):
        raise ConfigError(f"timm has no weights of '{name}'; set encoder.pretrained to false")
    fixed = {"img_size": size} if known and known.fixed_input_size else {}
    try:
        return timm.create_model(name, pretrained=pretrained, in_chans=channels, num_classes=0, **fixed)
    except (OSError, RuntimeError, ValueError) as error:
        if not pretrained:
            raise refusal(name, channels, size, error) from error
        raise ConfigError(
            f"the weights of '{name}' cannot be fetched ({reason(error)}); set encoder.pretrained to false, "
            "or run once where there is a network and take its cache (HF_HOME) along"
        ) from error


@torch.no_grad()
def width(network: nn.Module, name: str, channels: int, size: int) -> int:
    """Channels after the pool, from an empty image, which also shows that the network can take this size."""
    try:
        return network.eval()(torch.zeros(1, channels, size, size)).shape[1]
    except (AssertionError, RuntimeError) as error:
        raise refusal(name, channels, size, error) from error
    finally:
        network.train()


def refusal(name: str, channels: int, size: int, error: Exception) -> ConfigError:
    why = f"{channels} x {size} x {size} pixels ({reason(error)})"
    return ConfigError(
        f"encoder '{name}' cannot take {why}; set another encoder.name, or --size of the images"
    )


def reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
