"""Seeing keeps light and has the width asked for; noise has the variance and the correlation that it states."""

import dataclasses

import numpy as np
import pytest
import torch

from raylens.data.simulate import camera
from raylens.data.simulate.presets import BANDS, MARGIN, PRESETS, preset

PIXEL = 0.168
FWHM = torch.tensor([0.5, 0.7, 0.9])


def exponent(beta: float | None) -> torch.Tensor | None:
    return None if beta is None else torch.full((len(FWHM),), beta)


def point(size: int = 65) -> torch.Tensor:
    images = torch.zeros(len(FWHM), 2, size, size)
    images[:, :, size // 2, size // 2] = torch.tensor([100.0, 3.0])
    return images


@pytest.mark.parametrize("beta", [None, 2.5, 4.5])
@pytest.mark.parametrize("size", [40, 81])
def test_psf_sums_to_one_and_peaks_in_the_corner(beta, size):
    kernels = camera.psf(FWHM, exponent(beta), size, PIXEL)
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(3))
    assert (kernels >= 0).all()
    assert (kernels.flatten(1).argmax(1) == 0).all()


@pytest.mark.parametrize("beta", [None, 2.5, 4.5])
def test_psf_falls_to_half_at_half_its_width(beta):
    fine = 0.01  # arcsec, so that a pixel is a point
    kernels = camera.psf(FWHM, exponent(beta), 200, fine)
    profile = (kernels[:, 0, :100] / kernels[:, :1, 0]).numpy()
    found = [np.interp(-0.5, -row, np.arange(100) * fine) for row in profile]
    np.testing.assert_allclose(found, FWHM / 2, rtol=1e-3)


def test_moffat_is_as_published():
    """Moffat 1969, eq. 7: (1 + (r / alpha)^2)^-beta, alpha = FWHM / (2 sqrt(2^(1 / beta) - 1))."""
    beta, size = 3.0, 64
    axis = (np.arange(size) - size // 2) * PIXEL
    alpha = 0.7 / (2 * np.sqrt(2 ** (1 / beta) - 1))
    expected = (1 + (axis[:, None] ** 2 + axis[None] ** 2) / alpha**2) ** -beta
    found = camera.psf(torch.tensor([0.7]), torch.tensor([beta]), size, PIXEL)[0]
    found = found.roll((size // 2, size // 2), (0, 1)).numpy()
    np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize(("beta", "lost"), [(None, 1e-5), (4.5, 1e-3), (2.5, 2e-2)])
def test_seeing_keeps_light_and_place(beta, lost):
    images = point()
    seen = camera.blur(images, FWHM[:, None].expand(-1, 2), exponent(beta), PIXEL)
    torch.testing.assert_close(seen.sum((2, 3)), images.sum((2, 3)), rtol=lost, atol=0)
    assert (seen.flatten(2).argmax(2) == 32 * 65 + 32).all()
    torch.testing.assert_close(seen, seen.flip(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen, seen.transpose(2, 3), atol=1e-5, rtol=0)


def test_each_band_has_its_own_seeing():
    images = point()
    fwhm = torch.stack([FWHM, FWHM + 0.3], 1)
    both = camera.blur(images, fwhm, exponent(3.0), PIXEL)
    for band in range(2):
        alone = camera.blur(images[:, band : band + 1], fwhm[:, band : band + 1], exponent(3.0), PIXEL)
        torch.testing.assert_close(both[:, band : band + 1], alone)
    peaks = both.amax((2, 3)) / torch.tensor([100.0, 3.0])
    assert (peaks[:, 0] > peaks[:, 1]).all()
    assert (peaks[:-1] > peaks[1:]).all()


def test_light_does_not_come_round_the_edge():
    images = torch.zeros(3, 1, 72, 72)
    images[:, :, 36, 70] = 1.0
    seen = camera.blur(images, FWHM[:, None], None, PIXEL)
    assert seen[:, :, :, MARGIN:36].abs().max() < 1e-7


def test_white_noise_is_white_and_of_unit_variance():
    noise = camera._noise(torch.Size((200, 1, 64, 64)), 0.0, np.random.default_rng(0)).numpy()
    assert abs(noise.mean()) < 0.005
    assert abs(noise.std() - 1) < 0.005
    assert abs((noise[..., 1:] * noise[..., :-1]).mean()) < 0.005


@pytest.mark.parametrize("sigma", [0.5, 0.7])
def test_correlated_noise_has_unit_variance_and_the_correlation_of_its_smoothing(sigma):
    noise = camera._noise(torch.Size((400, 1, 64, 64)), sigma, np.random.default_rng(0)).numpy().astype(float)
    inside = noise[:, :, 2:-2, 2:-2]
    assert abs(inside.var() - 1) < 0.01
    for axis in (2, 3):
        for lag in (1, 2):
            ahead = np.moveaxis(inside, axis, 0)[:-lag]
            behind = np.moveaxis(inside, axis, 0)[lag:]
            kernel = np.exp(-(np.arange(-2, 3) ** 2) / (2 * sigma**2))
            kernel /= np.linalg.norm(kernel)
            expected = (kernel[lag:] * kernel[:-lag]).sum()
            assert abs((ahead * behind).mean() - expected) < 0.01


def test_noise_is_as_strong_at_the_edge_as_inside():
    noise = camera._noise(torch.Size((2000, 1, 16, 16)), 0.7, np.random.default_rng(0)).numpy().astype(float)
    spread = noise.std((0, 1))
    np.testing.assert_allclose(spread, 1, atol=0.07)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("bands", [[2], [0, 1, 2]])
def test_a_recorded_image_is_finite_whatever_the_light(name, bands):
    images = torch.zeros(40, len(bands), 32, 32)
    images[10:20] = 1e5
    images[20:30] = -1e-3  # what a Fourier transform leaves of an empty sky
    recipe = dataclasses.replace(preset(name), bad_columns=0.5)
    recorded = camera.record(images, recipe, bands, np.random.default_rng(0))
    assert recorded.shape == images.shape
    assert torch.isfinite(recorded).all()


def test_noise_is_that_of_the_sky_and_of_the_light():
    recipe = preset("sim")
    images = torch.zeros(50, 3, 64, 64)
    images[25:] = 400.0
    recorded = camera.record(images, recipe, [0, 1, 2], np.random.default_rng(0))
    sky = np.array(recipe.noise)
    for half, light in ((slice(0, 25), 0.0), (slice(25, 50), 400.0)):
        expected = np.sqrt(sky**2 + light / recipe.gain)
        np.testing.assert_allclose((recorded - images)[half].numpy().std((0, 2, 3)), expected, rtol=0.02)


def test_bad_columns_are_as_frequent_as_asked_and_cross_the_image():
    recipe = dataclasses.replace(preset("survey"), bad_columns=0.3)
    recorded = camera.record(torch.zeros(1000, 1, 24, 24), recipe, [2], np.random.default_rng(0)).numpy()
    flat = (np.ptp(recorded, axis=2) == 0).sum((1, 2))  # columns of one value
    assert abs((flat > 0).mean() - 0.3) < 0.05
    assert set(flat) <= {0, 1, 2}
    whole = camera.record(
        torch.zeros(100, 1, 24, 24),
        dataclasses.replace(recipe, bad_columns=0.0),
        [2],
        np.random.default_rng(0),
    ).numpy()
    assert (np.ptp(whole, axis=2) > 0).all()


@pytest.mark.parametrize("name", PRESETS)
def test_a_seed_makes_one_picture(name):
    images = torch.linspace(0, 50, 8 * 3 * 32 * 32).reshape(8, 3, 32, 32)
    bands = list(range(len(BANDS)))
    one, same, other = (
        camera.record(images.clone(), preset(name), bands, np.random.default_rng(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
