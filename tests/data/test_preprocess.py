"""Transforms keep their promises, whatever the pixels."""

import time

import numpy as np
import pytest

from raylens.data.preprocess import TRANSFORMS, preprocess


def sky(rows=6, channels=2, size=32, seed=0):
    """Noise of 3 counts around 100 with a bright blob in the middle."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size / 2
    blob = 500 * np.exp(-(x**2 + y**2) / (2 * (size / 12) ** 2))
    return (100 + blob + 3 * rng.standard_normal((rows, channels, size, size))).astype(np.float32)


def test_minmax_is_the_formula_of_the_predecessors():
    pixels = sky()
    for image, ours in zip(pixels, preprocess(pixels, "minmax"), strict=True):
        np.testing.assert_allclose(ours, (image - image.min()) / (image.max() - image.min()), atol=1e-6)


def test_log_is_the_formula_in_its_docstring():
    pixels = sky()
    expected = np.log(1 + 999 * preprocess(pixels, "minmax")) / np.log(1000)
    np.testing.assert_allclose(preprocess(pixels, "log"), expected, atol=1e-5)


def test_asinh_measures_in_units_of_the_skys_noise():
    ours = preprocess(sky(), "asinh")
    low, high = np.arcsinh([-5, 1000])
    significance = np.sinh(ours * (high - low) + low)
    assert abs(np.median(significance[:, :, :3])) < 0.15
    assert significance[:, :, :3].std() == pytest.approx(1, rel=0.15)
    assert significance[:, :, 15:17, 15:17].mean() == pytest.approx(500 / 3, rel=0.15)


@pytest.mark.parametrize("transform", ["minmax", "asinh", "log"])
def test_units_and_zero_points_do_not_matter(transform):
    pixels = sky().astype(np.float64)
    np.testing.assert_allclose(
        preprocess(pixels * 7e-3 - 5, transform), preprocess(pixels, transform), atol=2e-3
    )


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_every_dtype_becomes_float32_and_stays_itself(transform, dtype):
    pixels = np.clip(sky(), 0, 255).astype(dtype)
    before = pixels.copy()
    ours = preprocess(pixels, transform)
    assert (ours.dtype, ours.shape) == (np.float32, pixels.shape)
    np.testing.assert_array_equal(pixels, before)
    if transform != "none":
        assert ours.min() >= 0
        assert ours.max() <= 1 + 1e-6


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_nothing_that_is_not_finite_comes_out(transform):
    pixels = np.concatenate([sky(rows=8), np.zeros((3, 2, 32, 32), np.float32)])
    pixels[0, 0, :4] = np.nan
    pixels[1, 1, 3, 3] = np.inf
    pixels[2, 0, 3, 3] = -np.inf
    pixels[3] = np.nan
    pixels[4, 0] = 7
    pixels[5] = 7
    pixels[6] *= 1e-38
    pixels[7] *= 1e27
    pixels[8, 0, 5, 5] = 3.4e38
    pixels[9, 0, 16, 16] = 1e-45
    ours = preprocess(pixels, transform)
    assert np.isfinite(ours).all()
    if transform != "none":
        assert (ours[5] == 0).all()
        assert (ours[3] == 0).all()


def test_a_dead_pixel_takes_the_images_median():
    pixels = sky(rows=2)
    pixels[0, 0, 3, 3] = np.nan
    ours = preprocess(pixels, "none")
    assert ours[0, 0, 3, 3] == np.nanmedian(pixels[0])
    np.testing.assert_array_equal(ours[1], pixels[1])


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_twins_take_the_constants_of_their_images(transform):
    rng = np.random.default_rng(0)
    images = rng.normal(10, 2, (5, 2, 16, 16)).astype(np.float32)
    np.testing.assert_allclose(preprocess(images, transform, like=images), preprocess(images, transform))
    high = images.repeat(2, 2).repeat(2, 3)
    found = preprocess(high, transform, like=images)
    np.testing.assert_allclose(found[:, :, ::2, ::2], preprocess(images, transform), rtol=1e-5, atol=1e-6)
    high[:, :, 0, 0], high[:, :, 0, 1] = 40, -20  # beyond what the image has
    assert np.isfinite(preprocess(high, transform, like=images)).all()


def test_an_image_does_not_depend_on_its_neighbours():
    pixels = sky(rows=600, size=64)
    for transform in TRANSFORMS:
        np.testing.assert_array_equal(preprocess(pixels, transform)[-1:], preprocess(pixels[-1:], transform))


def test_no_images_are_no_trouble():
    assert preprocess(np.zeros((0, 1, 8, 8)), "asinh").shape == (0, 1, 8, 8)


@pytest.mark.parametrize("transform", ["minmax", "asinh"])
def test_a_thousand_images_take_a_moment(transform):
    pixels = sky(rows=1000, channels=1, size=64)
    start = time.thread_time()
    preprocess(pixels, transform)
    assert time.thread_time() - start < 1
