"""From a clean sky to what a camera records: seeing, noise, sky, and the accidents of a survey."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from raylens.data.simulate.presets import MARGIN, Preset
from raylens.data.simulate.skies import drawn

TOGETHER = 16
"""Images blurred at a time, so that they stay in the processor's cache."""


def psf(fwhm: Tensor, beta: Tensor | None, size: int, pixel: float) -> Tensor:
    """Point-spread functions (N, size, size) of sum 1, centred on the corner as a Fourier transform wants them.

    Gaussian, or Moffat 1969 with exponent `beta` (N,); `fwhm` (N,) and `pixel` in arcsec.
    """
    axis = torch.fft.fftfreq(size, 1 / size) * pixel
    squared = (axis[:, None] ** 2 + axis[None, :] ** 2)[None]
    if beta is None:
        kernel = torch.exp(-4 * math.log(2) * squared / fwhm[:, None, None] ** 2)
    else:
        alpha = fwhm / (2 * torch.sqrt(2 ** (1 / beta) - 1))
        kernel = (1 + squared / alpha[:, None, None] ** 2) ** -beta[:, None, None]
    return kernel / kernel.sum((-2, -1), keepdim=True)


def blur(images: Tensor, fwhm: Tensor, beta: Tensor | None, pixel: float, margin: int = MARGIN) -> Tensor:
    """Images (N, C, H, W) seen through seeing of `fwhm` (N or 1, C) arcsec; the sky goes on beyond their edges as 0.

    For `margin` pixels on each side, so that light does not come back at the other edge.
    """
    _, bands, height, _ = images.shape
    size = height + 2 * margin
    seen = torch.empty_like(images)
    for begin in range(0, len(images), TOGETHER):
        some = slice(begin, begin + TOGETHER)
        width = fwhm[some] if len(fwhm) > 1 else fwhm
        power = None if beta is None else beta[some].repeat_interleave(bands)
        kernels = torch.fft.rfft2(psf(width.reshape(-1), power, size, pixel)).unflatten(0, width.shape)
        light = torch.fft.rfft2(images[some], s=(size, size)) * kernels
        seen[some] = torch.fft.irfft2(light, s=(size, size))[:, :, :height, :height]
    return seen


def record(
    images: Tensor,
    preset: Preset,
    bands: list[int],
    rng: np.random.Generator,
    fields: np.ndarray | None = None,
) -> Tensor:
    """Add noise, sky and accidents to images (N, C, H, W) in counts; the noise is one of `fields`, if there are any."""
    count, channels, height, width = images.shape
    sky = torch.tensor([preset.noise[band] for band in bands])[None, :, None, None]
    depth = torch.as_tensor(rng.uniform(*preset.depth, (count, 1, 1, 1)).astype(np.float32))
    sigma = torch.sqrt((sky * depth) ** 2 + images.clamp_min(0) / preset.gain)
    if fields is None:
        noise = _noise(images.shape, preset.correlation, rng)
    else:
        noise = torch.as_tensor(drawn(fields, count, rng), device=images.device)
    images = images + sigma * noise
    if preset.gradient:
        slope = torch.as_tensor(rng.normal(0, preset.gradient, (count, channels, 2, 1, 1)).astype(np.float32))
        axis = torch.linspace(-1, 1, height)
        images = images + sky * (slope[:, :, 0] * axis[:, None] + slope[:, :, 1] * axis[None, :])
    for row in np.flatnonzero(rng.random(count) < preset.bad_columns):
        first, wide = rng.integers(0, width - 2), rng.integers(1, 3)
        dead_or_hot = rng.choice([0.0, float(images[row].max())])
        images[row, rng.integers(channels), :, first : first + wide] = float(dead_or_hot)
    return images


def _noise(shape: torch.Size, correlation: float, rng: np.random.Generator) -> Tensor:
    """White noise of unit variance, or with neighbours correlated as a resampled image's are.

    `correlation`, pixels, is the sigma of the Gaussian that it was smoothed with.
    """
    reach = 2 if correlation else 0
    *batch, height, width = shape
    white = torch.as_tensor(
        rng.standard_normal((*batch, height + 2 * reach, width + 2 * reach), dtype=np.float32)
    )
    if not correlation:
        return white
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * correlation**2))
    weights = (weights / np.linalg.norm(weights)).tolist()
    noise = torch.empty(shape)
    for some, into in zip(white.split(TOGETHER), noise.split(TOGETHER), strict=True):
        across = sum(weight * some[..., at : at + height, :] for at, weight in enumerate(weights))
        into.copy_(sum(weight * across[..., at : at + width] for at, weight in enumerate(weights)))
    return noise
