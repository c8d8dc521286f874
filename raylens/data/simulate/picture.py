"""Colour pictures of 8 bits, as surveys show their images to people, and as many of their samples are published.

Lupton et al. 2004 (arXiv astro-ph/0312483): the mean intensity of the bands is softened by an inverse hyperbolic sine,
which leaves colours as they are. Each band is then cut off at black and at full brightness by itself, so that bright
cores turn white, as in Space Warps' pictures (Marshall et al. 2016); `astropy.visualization.make_lupton_rgb` dims them
instead, so that they keep their colour.
"""

from __future__ import annotations

import numpy as np

from raylens.data.simulate.presets import Preset

LEVELS = 255
FAINT = 1e-6
"""Intensity below which nothing is softened: of sky that noise has made darker than it is."""


def composite(images: np.ndarray, preset: Preset, bands: list[int], rng: np.random.Generator) -> np.ndarray:
    """Pictures uint8 (N, C, H, W) of counts above the sky in these bands of g, r and i, (N, C, H, W)."""
    picture, (count, channels) = preset.picture, images.shape[:2]
    noise = np.array(picture.noise)[bands, None, None] / LEVELS
    unit = noise / np.array(preset.noise)[bands, None, None]
    exposure = rng.uniform(*picture.exposure, (count, 1, 1, 1))
    balance = rng.uniform(*picture.balance, (count, channels, 1, 1))
    softening = rng.uniform(*picture.softening, (count, 1, 1, 1))
    light = images * unit * exposure * balance
    intensity = softening * np.maximum(light.mean(1, keepdims=True), FAINT)
    seen = light * np.arcsinh(intensity) / intensity + picture.sky * noise
    return np.rint(LEVELS * np.clip(seen, 0, 1)).astype(np.uint8)
