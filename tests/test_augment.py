"""Views: what they may change, what they may not, and that they depend on their seed alone."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import albumentations
import numpy as np
import pytest

from raylens import augment as views
from raylens import pipelines
from raylens.augment import augment, twins
from raylens.errors import ConfigError

D4 = ("e", "r90", "r180", "r270", "v", "hvt", "h", "t")
LINEAR = [views.NONE, views.DIHEDRAL, views.WEAK, views.ROTATION]


def images(rows=20, channels=1, size=32, seed=0):
    return np.random.default_rng(seed).random((rows, channels, size, size), np.float32)


def test_every_name_has_its_pipeline():
    assert views.names() == [*pipelines.PIPELINES]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", views.names())
def test_a_view_has_the_shape_of_its_row(name, channels):
    pixels = images(channels=channels)
    made = augment(pixels, name, 0)
    assert made.shape == pixels.shape
    assert made.dtype == np.float32
    assert np.isfinite(made).all()


@pytest.mark.parametrize("name", [name for name in views.names() if name != views.NONE])
def test_views_depend_on_the_seed_alone(name):
    pixels = images()
    first = augment(pixels, name, (3, 0, 7))
    np.random.seed(1)
    random.seed(1)
    augment(pixels, name, 5)
    state = random.getstate(), np.random.get_state()[1].tolist()
    assert np.array_equal(first, augment(pixels, name, (3, 0, 7)))
    assert not np.array_equal(first, augment(pixels, name, (3, 0, 8)))
    assert state == (random.getstate(), np.random.get_state()[1].tolist())


@pytest.mark.parametrize("name", views.names())
def test_threads_do_not_disturb_each_other(name):
    pixels = images()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: augment(pixels, name, seed), range(16)))
    for seed, made in enumerate(together):
        assert np.array_equal(made, augment(pixels, name, seed))


@pytest.mark.parametrize("name", LINEAR)
def test_pixels_beyond_0_and_1_are_not_clipped(name):
    pixels = images()
    np.testing.assert_allclose(
        augment(10 * pixels - 3, name, 2), 10 * augment(pixels, name, 2) - 3, atol=1e-5
    )


@pytest.mark.parametrize(
    ("name", "noise"), [(views.NOISE, 0.03), (views.STRONG, 0.03), (views.PREDECESSORS, 0.02)]
)
@pytest.mark.parametrize("level", [-7.0, 7.0])
def test_noisy_pixels_beyond_0_and_1_are_not_clipped(name, noise, level):
    made = augment(np.full((20, 1, 32, 32), level, np.float32), name, 2)
    np.testing.assert_allclose(made.mean((1, 2, 3)), level, rtol=0.25)
    assert made.std((1, 2, 3)).max() > noise


@pytest.mark.parametrize(
    "name", [views.DIHEDRAL, views.WEAK, views.STRONG, views.ROTATION, views.PREDECESSORS]
)
def test_rows_given_alone_or_together_are_treated_alike(name):
    """Over many seeds, a row's view has the same average in a stack, where it may share its draws, and alone."""
    pixels = np.repeat(images(rows=1, size=16), 16, axis=0)
    shared = np.mean([augment(pixels, name, seed) for seed in range(300)], axis=(0, 1))
    alone = np.mean([augment(pixels[:1], name, seed) for seed in range(960)], axis=(0, 1))
    assert np.abs(shared - alone).max() < 0.12
    assert abs(shared.mean() - alone.mean()) < 0.01


def symmetries(image):
    turned = [np.rot90(image, turns) for turns in range(4)]
    return [*turned, *(np.fliplr(one) for one in turned)]


def test_dihedral_views_are_the_eight_symmetries_shifted_by_up_to_four_pixels():
    pixels, found, shifts = images(rows=240), set(), set()
    for row, made in zip(pixels, augment(pixels, views.DIHEDRAL, 0), strict=True):
        inner = made[0, 4:-4, 4:-4]
        matches = [
            (index, down, right)
            for index, image in enumerate(symmetries(row[0]))
            for down in range(9)
            for right in range(9)
            if np.array_equal(inner, image[down : down + 24, right : right + 24])
        ]
        assert len(matches) == 1
        found.add(matches[0][0])
        shifts.add(matches[0][1:])
    assert found == set(range(8))
    assert len(shifts) > 30, "each row has its own shift"


def test_flips_are_independent_of_each_other():
    """Seeded as its manual has it, Albumentations flips both ways or neither."""
    pixels = images(rows=400, size=8)
    made = np.concatenate([augment(row[None], views.PREDECESSORS, seed) for seed, row in enumerate(pixels)])
    kinds = {"none": pixels, "across": pixels[..., ::-1], "down": pixels[..., ::-1, :]}
    share = {
        kind: np.mean(np.abs(made - flipped).max((1, 2, 3)) < 0.2)  # but for the noise
        for kind, flipped in kinds.items()
    }
    assert 0.2 < share["none"] < 0.36  # 0.5 * 0.75 * 0.75
    assert 0.05 < share["across"] < 0.14  # 0.5 * 0.25 * 0.75
    assert 0.05 < share["down"] < 0.14


@pytest.mark.parametrize("name", [views.DIHEDRAL, views.WEAK, views.STRONG, views.NOISE])
def test_rows_of_a_stack_have_draws_of_their_own(name, monkeypatch):
    pixels = np.repeat(images(rows=1), 64, axis=0)
    monkeypatch.setattr(views, "STACK", 40 * pixels[:1].nbytes)
    made = augment(pixels, name, 0)
    assert len(np.unique(made.reshape(64, -1), axis=0)) > 50
    assert not np.array_equal(made[:24], made[40:]), "so has each stack"


def test_the_symmetries_are_those_of_albumentations_and_as_likely():
    image = images(rows=1)[0]
    elements = [albumentations.augmentations.geometric.functional.d4(image[0], name) for name in D4]
    made = pipelines.Symmetry().apply_to_images(
        np.repeat(image.transpose(1, 2, 0)[None], 8, axis=0), symmetries=np.arange(8)
    )
    assert {one.tobytes() for one in made[..., 0]} == {
        np.ascontiguousarray(one).tobytes() for one in elements
    }
    drawn = pipelines.Symmetry().draw(np.random.default_rng(0), (8000, 32, 32, 1))["symmetries"]
    assert np.abs(np.bincount(drawn, minlength=8) / 1000 - 1).max() < 0.12


def test_twins_are_moved_together_by_all_eight_symmetries_alike():
    rng = np.random.default_rng(0)
    high = rng.random((800, 2, 8, 8), dtype=np.float32)
    pixels = high.reshape(800, 2, 4, 2, 4, 2).mean((3, 5))
    views, twins_ = twins(pixels, high, 7)
    np.testing.assert_allclose(twins_.reshape(800, 2, 4, 2, 4, 2).mean((3, 5)), views, rtol=1e-6)
    seen = Counter()
    for view, row in zip(views, pixels, strict=True):
        eight = [np.rot90(side, k, axes=(1, 2)) for side in (row, row[:, ::-1]) for k in range(4)]
        (same,) = [k for k, one in enumerate(eight) if np.array_equal(one, view)]
        seen[same] += 1
    assert len(seen) == 8
    assert min(seen.values()) > 60
    again, _ = twins(pixels, high, 7)
    np.testing.assert_array_equal(views, again)


def test_half_of_the_strong_views_are_blurred_by_about_half_a_pixel_and_more():
    point = np.zeros((400, 33, 33, 1), np.float32)
    point[:, 16, 16] = 1
    (blur,) = [transform for transform in pipelines.strong() if isinstance(transform, pipelines.Blur)]
    sigmas = blur.draw(np.random.default_rng(0), point.shape)["sigmas"]
    assert 0.4 < np.mean(sigmas > 0) < 0.6
    made = blur.apply_to_images(point, sigmas=sigmas)[..., 0]
    np.testing.assert_allclose(made.sum((1, 2)), 1, rtol=1e-4)
    wide = sigmas > 0.7
    second = (made * (np.arange(33) - 16) ** 2).sum((1, 2))
    np.testing.assert_allclose(np.sqrt(second[wide]), sigmas[wide], rtol=0.03)
    assert np.array_equal(made[sigmas == 0], point[sigmas == 0][..., 0])


def test_the_predecessors_views_crop_flip_and_add_noise():
    pixels = np.zeros((400, 1, 16, 16), np.float32)
    noisy = augment(pixels, views.PREDECESSORS, 0).std((1, 2, 3)) > 1e-4
    assert 0.35 < noisy.mean() < 0.65
    pixels[..., 8:] = 1  # a crop of half the width moves the edge
    columns = augment(pixels, views.PREDECESSORS, 0).mean((1, 2))
    moved = np.abs(columns[:, 6] - columns[:, 9]) < 0.5
    assert 0.2 < moved.mean() < 0.6


def test_noise_is_independent_in_every_pixel_of_every_row_and_band():
    noise = augment(np.zeros((16, 3, 32, 32), np.float32), views.NOISE, 0).reshape(48, -1)
    correlation = np.corrcoef(noise)[~np.eye(48, dtype=bool)]
    assert np.abs(correlation).max() < 6 / np.sqrt(32 * 32)
    assert np.abs(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 0.05
    assert noise.std(1).reshape(16, 3).mean(1).std() > 0.005, "each row has its own amount"


def test_bands_move_together():
    pixels = images(rows=20)
    for name, noise in [(views.DIHEDRAL, 1e-5), (views.ROTATION, 1e-5), (views.PREDECESSORS, 0.4)]:
        made = augment(np.concatenate([pixels, 2 * pixels], axis=1), name, 0)
        np.testing.assert_allclose(made[:, 1], 2 * made[:, 0], atol=noise)


def test_the_rows_given_are_left_as_they_are():
    pixels = images()
    before = pixels.copy()
    for name in views.names():
        augment(pixels, name, 0)
    assert np.array_equal(pixels, before)


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="dihedral"):
        augment(images(), "diheral", 0)
