"""What a masked autoencoder paints behind masked patches, beside what needs no learning, and on pure noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import NearestNDInterpolator, griddata
from torch import Tensor

from raylens.errors import DataError
from raylens.methods.mae import EPSILON, MAE, patches, seen_mean
from raylens.seeds import seed as seeded

IMAGES = 256
"""Images that are looked at, at most: an interpolation takes some hundredths of a second."""


@dataclass(frozen=True)
class Reconstruction:
    """Mean squared errors of the masked patches of each image (N,), in the units that the method is trained in."""

    masked: np.ndarray
    """Of what is painted."""
    mean_of_visible: np.ndarray
    """Of the mean of all patches that are seen."""
    interpolated: np.ndarray
    """Of what is interpolated linearly between the pixels that are seen, beyond them the nearest."""
    noise: np.ndarray
    """Of what is painted on images of pure noise, in that noise's variance.

    1 is all that can be known; below it the network sees what is masked, above it paints what it has learned by heart.
    """
    images: tuple[np.ndarray, ...]
    """Of some: true, masked, painted, interpolated; then pure noise, masked and painted. (M, C, H, W) each."""


def reconstruction(
    method: MAE, pixels: np.ndarray, *, seed: int = 0, shown: int = 4, device: torch.device | str = "cpu"
) -> Reconstruction:
    """How `method` paints preprocessed pixels (N, C, H, W), of which the first IMAGES count, under random masks.

    Blank images are left out: there is nothing to be painted. Raises DataError when all are.
    """
    some = np.array(pixels[:IMAGES], np.float32)
    images = torch.from_numpy(some[np.ptp(some, axis=(1, 2, 3)) > 0])
    if not len(images):
        raise DataError(f"all of {len(some)} images are blank, and nothing can be painted behind their masks")
    torch.manual_seed(seeded(seed, "masks"))
    hidden = method.masked(len(images), torch.device("cpu"))
    rng = np.random.default_rng(seeded(seed, "noise"))
    mean, deviation = images.mean((1, 2, 3), keepdim=True), images.std((1, 2, 3), keepdim=True)
    noise = mean + deviation * torch.from_numpy(rng.standard_normal(images.shape, dtype=np.float32))
    side, normalised = method.model.encoder.patch, method.config.normalised
    true, noisy = patches(images, side), patches(noise, side)
    painted = _painted(method, images, hidden, device) * _width(true, normalised) + _level(true, normalised)
    on_noise = _painted(method, noise, hidden, device) * _width(noisy, normalised) + _level(noisy, normalised)
    between = patches(_interpolated(images, hidden, side), side)
    visible = seen_mean(true, hidden, images.shape[1]).expand_as(true)

    def error(guess: Tensor, wanted: Tensor) -> np.ndarray:
        each = ((guess - wanted) / _width(wanted, normalised)).square().mean(-1) * hidden
        return (each.sum(1) / hidden.sum(1)).numpy()

    def shape(values: Tensor) -> np.ndarray:
        return _whole(values[:shown], images[:shown].shape, side).numpy()

    mask = hidden[..., None]
    values = true.shape[-1]  # whose deviation is the unbiased one
    known = torch.tensor((values - 1) / values) if normalised else noise.var((1, 2, 3))
    return Reconstruction(
        masked=error(painted, true),
        mean_of_visible=error(visible, true),
        interpolated=error(between, true),
        noise=error(on_noise, noisy) / known.numpy(),
        images=(
            shape(true),
            shape(true.masked_fill(mask, float("nan"))),
            shape(torch.where(mask, painted, true)),
            shape(torch.where(mask, between, true)),
            shape(noisy.masked_fill(mask, float("nan"))),
            shape(torch.where(mask, on_noise, noisy)),
        ),
    )


def _level(true: Tensor, normalised: bool) -> Tensor | float:
    """What a painted patch is counted from: its true mean, where patches are normalised."""
    return true.mean(-1, keepdim=True) if normalised else 0.0


def _width(true: Tensor, normalised: bool) -> Tensor | float:
    """The unit of a painted patch: its true deviation, where patches are normalised."""
    return (true.var(-1, keepdim=True) + EPSILON).sqrt() if normalised else 1.0


@torch.inference_mode()
def _painted(method: MAE, images: Tensor, hidden: Tensor, device: torch.device | str) -> Tensor:
    method.eval()
    parts = [
        method.reconstruct(some.to(device), mask.to(device))[1].float().cpu()
        for some, mask in zip(images.split(64), hidden.split(64), strict=True)
    ]
    return torch.cat(parts)


def _interpolated(images: Tensor, hidden: Tensor, side: int) -> Tensor:
    """Images (N, C, H, W) with what is masked interpolated from the pixels around it."""
    made, width = images.clone(), images.shape[-1]
    across = width // side
    for image, mask in zip(made.numpy(), hidden.numpy(), strict=True):
        unseen = mask.reshape(across, across).repeat(side, 0).repeat(side, 1)
        known, wanted = np.argwhere(~unseen), np.argwhere(unseen)
        for band in image:
            values = griddata(known, band[~unseen], wanted, method="linear")
            beyond = np.isnan(values)
            values[beyond] = NearestNDInterpolator(known, band[~unseen])(wanted[beyond])
            band[unseen] = values
    return made


def _whole(values: Tensor, shape: torch.Size, side: int) -> Tensor:
    """Patches (B, N, C side^2) as images of `shape`: the inverse of `patches`."""
    rows, bands, height, width = shape
    cut = values.view(rows, height // side, width // side, bands, side, side)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(shape)
