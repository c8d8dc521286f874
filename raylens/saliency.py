"""Where in an image a model has found what it says.

For networks whose maps are pooled, Grad-CAM: Selvaraju et al. 2017 (arXiv 1610.02391), eqs. 1 and 2. For transformers,
attention rollout: Abnar and Zuidema 2020 (arXiv 2005.00928), section 3, which knows no classes. Whether a map tells of
what was learned at all is asked as by Adebayo et al. 2018 (arXiv 1810.03292).

Differs from Grad-CAM's paper: the slope is that of the log odds of a class, not of its logit, since a number that is
added to all logits changes nothing; and maps are enlarged from where their cells look in the image, which is not
always a tiling: the equivariant encoder's leave the frame out. Differs from Adebayo et al.: the weights of each layer
change places, by which they keep their scale. By hand, since captum and grad-cam hook a layer that returns a tensor,
and the maps here are made by a method (timm's) or wrapped (escnn's).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from timm.layers import Attention
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from raylens.errors import ConfigError
from raylens.loop import collect
from raylens.models import Model, Painter, Turned, turned_back, turns
from raylens.progress import track

ALIKE = 0.8
"""Likeness to maps of shuffled weights above which maps say little about a model."""


def maps(
    model: Model, pixels: np.ndarray, target: int | np.ndarray | None = None, *, batch: int = 64
) -> np.ndarray:
    """How much each place of preprocessed pixels (N, C, H, W) speaks for what `model` says: (N, H, W), 0 to 1.

    By Grad-CAM for the class `target`, one or one an image, or the likeliest; a regression's number alone has none. 0
    everywhere where nothing speaks for it. By attention rollout where there is attention. The finest detail is a cell
    of the encoder's maps: 16 pixels of `small`, a patch of `vit`. Of a model that averages an image's turns, the mean
    of their maps, each turned back. The model is left as it was. Raises ConfigError for a model that says nothing of a
    whole image.
    """
    check(model, target)
    device = next(model.parameters()).device
    wanted = np.full(len(pixels), -1) if target is None else np.broadcast_to(target, len(pixels))
    found = [np.zeros((0, *pixels.shape[2:]), np.float32)]
    with undisturbed(model), torch.inference_mode(False):
        for begin in track(range(0, len(pixels), batch), "maps"):
            here = slice(begin, begin + batch)
            some = torch.from_numpy(np.array(pixels[here], np.float32)).to(device)
            whole = _seen(model, some, torch.from_numpy(np.array(wanted[here], np.int64)).to(device))
            most = whole.amax((1, 2), keepdim=True).clamp_min(torch.finfo(whole.dtype).tiny)
            found.append((whole / most).cpu().numpy())
    return np.concatenate(found)


def _seen(model: Model, pixels: Tensor, target: Tensor) -> Tensor:
    """Of pixels (B, C, H, W) the maps (B, H, W) for the classes `target` (B,), -1 for the likeliest."""
    if isinstance(model, Turned):
        with torch.no_grad():
            likeliest = model(pixels).argmax(1)  # of all turns together, and not of each
        plain, target = Model(model.encoder, model.head), torch.where(target < 0, likeliest, target)
        return turned_back([_seen(plain, turn, target) for turn in turns(pixels)]).mean(0)
    seen = (rollout if attentions(model) else grad_cam)(model, pixels, target)
    return enlarged(seen, model.encoder.cells(seen.shape[-1]), pixels.shape[-1])


def check(model: Model, target: int | np.ndarray | None = None) -> None:
    """Raises ConfigError for a model that no map explains, or a class that it does not know."""
    if isinstance(model, Painter):
        raise ConfigError("the model paints images, and says nothing of one that a map could explain")
    if isinstance(model.head, nn.Identity):
        raise ConfigError(
            "a pretrained encoder says nothing that a map could explain; finetune it first: "
            "python -m raylens.finetune CHECKPOINT classification"
        )
    logits = model.head.out_features
    if target is not None and (np.min(target) < 0 or np.max(target) >= logits):
        raise ConfigError(f"there is no class {target} to explain; give one of 0 to {logits - 1}")


def grad_cam(model: Model, pixels: Tensor, target: Tensor) -> Tensor:
    """Of pixels (B, C, H, W) the maps (B, h, w) for the classes `target` (B,), -1 for the likeliest."""
    with torch.no_grad():
        held = model.encoder.maps(pixels)
    held = held.detach().requires_grad_()
    with torch.enable_grad():
        said = log_odds(model.head(model.encoder.pooled(held)), target)
    (slopes,) = torch.autograd.grad(said.sum(), held)
    weights = slopes.mean((2, 3), keepdim=True)  # eq. 1
    return (weights * held.detach()).sum(1).relu()  # eq. 2


def log_odds(logits: Tensor, target: Tensor) -> Tensor:
    """Of logits (B, K) those (B,) of the classes `target`, -1 for the likeliest, against all others; or the number."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    of = torch.where(target < 0, logits.argmax(1), target)[:, None]
    return logits.gather(1, of)[:, 0] - logits.scatter(1, of, -torch.inf).logsumexp(1)


@torch.no_grad()
def rollout(model: Model, pixels: Tensor, target: Tensor) -> Tensor:
    """Of pixels (B, C, H, W) how much of each patch arrives in the features, (B, h, w), beyond the least."""
    encoder = model.encoder
    held = attention(model, pixels)
    arrived = torch.eye(held[0].shape[-1], device=pixels.device)
    for matrix in held:
        arrived = (matrix + torch.eye(len(matrix[0]), device=pixels.device)) / 2 @ arrived
    prefix = encoder.network.num_prefix_tokens
    by_first = encoder.network.global_pool == "token" or getattr(encoder, "pool", "") == "cls"
    first = 2 if isinstance(encoder.network, VisionTransformerDistilled) else 1  # of class and teacher
    seen = (arrived[:, :first] if by_first else arrived[:, prefix:]).mean(1)[:, prefix:]
    side = math.isqrt(seen.shape[1])
    return (seen - seen.amin(1, keepdim=True)).unflatten(1, (side, side))


def attentions(model: Model) -> list[Attention]:
    """The layers in which every token attends to all, of a plain vision transformer; others have none such."""
    plain = isinstance(getattr(model.encoder, "network", None), VisionTransformer)
    return [layer for layer in model.encoder.modules() if isinstance(layer, Attention)] if plain else []


def attention(model: Model, pixels: Tensor) -> list[Tensor]:
    """What tokens attend to in each layer, from first to last, the mean over heads: (B, T, T) each."""
    held: list[Tensor] = []
    layers: list[Any] = attentions(model)
    fused = [layer.fused_attn for layer in layers]
    hooks = [
        layer.attn_drop.register_forward_hook(lambda _, given, made: held.append(made.mean(1)))
        for layer in layers
    ]
    try:
        for layer in layers:
            layer.fused_attn = False  # in one kernel with what follows, they would never be seen
        model.features(pixels)
    finally:
        for layer, was, hook in zip(layers, fused, hooks, strict=True):
            layer.fused_attn = was
            hook.remove()
    return held


def enlarged(seen: Tensor, cells: tuple[float, float], size: int) -> Tensor:
    """Maps (B, h, h) as (B, size, size), linear between the middles of cells, see an encoder's `cells`."""
    side, (first, step) = seen.shape[-1], cells
    along = torch.arange(side, device=seen.device)
    at = ((torch.arange(size, device=seen.device) - first) / step).clamp(0, side - 1)
    weights = (1 - (at[:, None] - along).abs()).clamp_min(0)
    return weights @ seen @ weights.T


def likeness_to_random(
    model: Model,
    pixels: np.ndarray,
    target: int | np.ndarray | None = None,
    *,
    draws: int = 3,
    seed: int = 0,
) -> float:
    """The rank correlation of maps of preprocessed pixels (N, C, H, W) with those of shuffled weights, -1 ... 1.

    Near 1, maps tell of images and of the network's build alone, and nothing of what was learned. The mean over images
    and `draws`; a map that is the same everywhere counts 0. `target` is as in `maps`. Raises ConfigError for a model
    that says nothing of a whole image.
    """
    if target is None and model.head.out_features > 1:
        target = collect(model, pixels, None, device=next(model.parameters()).device).logits.argmax(1)
    learned = maps(model, pixels, target)
    found = []
    for draw in range(draws):
        random = maps(shuffled(model, seed + draw), pixels, target)
        for one, other in zip(learned, random, strict=True):
            varied = np.ptp(one) > 0 and np.ptp(other) > 0
            found.append(spearmanr(one, other, axis=None).statistic if varied else 0.0)
    return float(np.mean(found))


@torch.no_grad()
def shuffled(model: Model, seed: int) -> Model:
    """A copy in which the weights of each tensor have changed places."""
    made, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    for weight in made.parameters():
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        weight.copy_(weight.flatten()[order].view(weight.shape))
    return made


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """The model is in evaluation mode, and afterwards, layer by layer, in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
