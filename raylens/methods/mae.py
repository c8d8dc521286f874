"""MAE: what is behind the masked patches is to be guessed from the others.

He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022 (arXiv 2111.06377).

The encoder, `vit`, sees a quarter of the patches and the class token; a small decoder sees its tokens and a mask
token for each of the others, and paints them. The loss is of the masked patches, `visible` of the others added.
`mask: block` hides one square instead, as inpainting does. Differs from the paper: cutouts, hence small patches;
positions of encoder and decoder are learned, in the paper they are fixed sines and cosines; pixels are wanted as they
are unless `normalised`, since the brightness of a patch is signal here.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from raylens.augment import DIHEDRAL
from raylens.config import section
from raylens.losses import uniformity
from raylens.methods.base import Pretraining, group
from raylens.models import Model
from raylens.records import Images, Losses
from raylens.space import Uniform
from raylens.tasks.pretraining import Task

EPSILON = 1e-6
"""Added to a patch's variance before it is divided by."""
HEADS = 4
"""Of the decoder's attention."""


class MAE(Pretraining):
    """Paints the masked patches of an image."""

    encoders = ("vit",)
    views = {"view": DIHEDRAL}

    @section
    class Config:
        name: str = "mae"
        """mae"""
        ratio: Annotated[float, Field(gt=0, lt=1), Uniform(0.5, 0.9)] = 0.75
        """Share of the patches that are masked."""
        mask: Literal["random", "block"] = "random"
        """Which are: any, or a square of them."""
        visible: Annotated[float, Field(ge=0)] = 0.0
        """Weight of the error of the patches that were seen; 0.3 was meant by DeepLense's autoencoder."""
        normalised: bool = False
        """Whether each patch is wanted with its own mean and deviation taken out."""
        decoder: Annotated[int, Field(ge=4, multiple_of=HEADS)] = 128
        """Length of the decoder's tokens, a multiple of its heads."""
        depth: Annotated[int, Field(ge=1)] = 2
        """Blocks of the decoder."""

    def __init__(self, config: Config, model: Model, task: Task) -> None:
        from timm.models.vision_transformer import Block

        super().__init__(config, model, task)
        encoder = model.encoder
        self.narrow = nn.Linear(encoder.dim, config.decoder)
        self.hidden = nn.Parameter(torch.zeros(1, 1, config.decoder))
        self.places = nn.Parameter(0.02 * torch.randn(1, 1 + encoder.patches, config.decoder))
        blocks = [Block(config.decoder, num_heads=HEADS) for _ in range(config.depth)]
        pixels = encoder.channels * encoder.patch**2
        self.paint = nn.Sequential(*blocks, nn.LayerNorm(config.decoder), nn.Linear(config.decoder, pixels))

    def groups(self) -> list[dict]:
        decoder = [self.narrow.weight, self.narrow.bias, self.hidden, self.places, *self.paint.parameters()]
        return [group("model", self.model), {"name": "decoder", "params": decoder}]

    def losses(self, source: Images, progress: float) -> Losses:
        pixels = source.views["view"]
        hidden = self.masked(len(pixels), pixels.device)
        tokens, painted = self.reconstruct(pixels, hidden)
        wanted = patches(pixels, self.model.encoder.patch)
        error = (painted - (standardised(wanted) if self.config.normalised else wanted)).square().mean(-1)
        terms = {"masked": error[hidden].mean()}
        if self.config.visible:
            terms["visible"] = self.config.visible * error[~hidden].mean()
        with torch.no_grad():
            off = wanted - seen_mean(wanted, hidden, pixels.shape[1])
            guess = (off / deviations(wanted) if self.config.normalised else off).square().mean(-1)[hidden]
            features = tokens[:, 1:].mean(1)
            deviation = (
                nn.functional.normalize(features, dim=1).std(0, correction=0).mean()
                * features.shape[1] ** 0.5
            )
        monitors = {"mean_of_visible": guess.mean(), "spread": deviation, "uniformity": uniformity(features)}
        return Losses(terms=terms, monitors={name: value.detach() for name, value in monitors.items()})

    def masked(self, rows: int, device: torch.device) -> Tensor:
        """Which patches are hidden, (B, N), as many of every image."""
        side = self.model.encoder.size // self.model.encoder.patch
        if self.config.mask == "random":
            count = min(max(1, round(self.config.ratio * side**2)), side**2 - 1)
            order = torch.rand(rows, side**2, device=device).argsort(1)
            return torch.zeros(rows, side**2, dtype=torch.bool, device=device).scatter(
                1, order[:, :count], True
            )
        width = min(max(1, round(side * math.sqrt(self.config.ratio))), side - 1)
        corner = torch.randint(side - width + 1, (rows, 2), device=device)
        along = torch.arange(side, device=device)
        down, across = ((along >= first[:, None]) & (along < first[:, None] + width) for first in corner.T)
        return (down[:, :, None] & across[:, None, :]).flatten(1)

    def reconstruct(self, pixels: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's tokens of what is not `hidden` (B, N), and all patches (B, N, values) as they are painted."""
        rows, count = hidden.shape
        kept = (~hidden).nonzero()[:, 1].view(rows, -1)
        tokens = self.model.encoder.tokens(pixels, kept)
        narrow = self.narrow(tokens)
        places = 1 + kept[..., None].expand(-1, -1, narrow.shape[-1])
        spread = self.hidden.expand(rows, 1 + count, -1).to(narrow.dtype).scatter(1, places, narrow[:, 1:])
        spread = torch.cat([narrow[:, :1], spread[:, 1:]], 1)
        return tokens, self.paint(spread + self.places)[:, 1:]


def patches(pixels: Tensor, side: int) -> Tensor:
    """Images (B, C, H, W) as patches (B, N, C side^2), in rows."""
    cut = pixels.unfold(2, side, side).unfold(3, side, side)
    return cut.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def seen_mean(wanted: Tensor, hidden: Tensor, bands: int) -> Tensor:
    """The mean of each band over what is not `hidden` (B, N) of patches (B, N, C side^2): a patch (B, 1, C side^2)."""
    each = wanted.shape[-1] // bands
    seen = wanted[~hidden].view(len(wanted), -1, bands, each).mean((1, 3))
    return seen.repeat_interleave(each, 1)[:, None]


def standardised(values: Tensor) -> Tensor:
    """Patches (B, N, P) of mean 0 and deviation 1: He et al. 2022, section 4.1."""
    return (values - values.mean(-1, keepdim=True)) / deviations(values)


def deviations(values: Tensor) -> Tensor:
    """The deviation (B, N, 1) of each patch (B, N, P), above 0."""
    return (values.var(-1, keepdim=True) + EPSILON).sqrt()
