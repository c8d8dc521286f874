"""The transforms in torch agree with those in NumPy, whatever the pixels."""

import numpy as np
import pytest
import torch

from raylens.data.preprocess import TRANSFORMS, preprocess
from raylens.data.preprocess_torch import Preprocess


def images(kind: str, channels: int, size: int) -> np.ndarray:
    """Eight images (8, C, H, W) of noise of 3 counts around 100 under a blob, and what may become of them."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] - size / 2
    blob = 500 * np.exp(-(x**2 + y**2) / (2 * (size / 12) ** 2))
    pixels = (100 + blob + 3 * rng.standard_normal((8, channels, size, size))).astype(np.float32)
    if kind == "units":
        pixels *= np.array([1e-38, 1e-30, 1e-10, 1e-3, 1, 1e10, 1e20, 1e27], np.float32)[:, None, None, None]
    if kind == "flat":
        pixels[:4] = np.array([0, 7, -7, 1e29], np.float32)[:, None, None, None]
        pixels[4:6, 0] = 3
        pixels[6] = 0
        pixels[6, 0, size // 2, size // 2] = 1
        pixels[7] = 0
        pixels[7, 0, 0, 0] = 1e-45
    if kind == "dead":
        pixels[0, 0, :4] = np.nan
        pixels[1, -1, 3, 3] = np.inf
        pixels[2, 0, 3, 3] = -np.inf
        pixels[3] = np.nan
        pixels[4, 0, 5, 5] = 3.4e38
        pixels[5, 0, 0, 1:] = np.nan
        pixels[6, 0, 2, 2] = -1.1e30
        pixels[7].flat[1:] = np.nan
    if kind == "black":  # cut off at 0, as 8-bit skies are
        pixels = np.clip(np.round(pixels - 101), 0, 255)
    return pixels


@pytest.mark.parametrize("kind", ["sky", "units", "flat", "dead", "black"])
@pytest.mark.parametrize(("channels", "size"), [(1, 32), (3, 45), (2, 8)])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_both_agree(transform, channels, size, kind):
    pixels = images(kind, channels, size)
    found = Preprocess(transform, size)(torch.from_numpy(pixels)).numpy()
    expected = preprocess(pixels, transform)
    assert (found.dtype, found.shape) == (np.float32, pixels.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
