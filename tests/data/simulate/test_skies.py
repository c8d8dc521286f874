"""Noise of real skies; here of skies that are simulated."""

from __future__ import annotations

import numpy as np
import pytest

from raylens.data.shards import read_split
from raylens.data.simulate import render, simulate
from raylens.data.simulate.presets import preset
from raylens.data.simulate.skies import drawn, fields, skies
from raylens.errors import ConfigError, DataError
from tests.data.simulate.test_painted import write

GRI = [0, 1, 2]


def galaxies(count: int = 24) -> np.ndarray:
    return render(preset("survey"), np.array(["elliptical"] * count), ("test", "skies"), bands=GRI)[0]


def correlated(count: int = 30, size: int = 48) -> np.ndarray:
    """Noise whose neighbours along a row correlate by 0.5."""
    white = np.random.default_rng(0).standard_normal((count, 1, size, size + 1)).astype(np.float32)
    return white[..., 1:] + white[..., :-1]


def neighbours(images: np.ndarray) -> float:
    return float((images[..., 1:] * images[..., :-1]).mean() / images.var())


def test_a_sky_without_galaxies_stays_what_it_is():
    sky = 7 + 3 * correlated()
    found = fields(sky, 48)
    assert found.shape == sky.shape
    assert found.std() == pytest.approx(1, abs=0.02)
    assert found.mean() == pytest.approx(0, abs=0.02)
    assert neighbours(found) == pytest.approx(0.5, abs=0.06)


def test_galaxies_are_cut_out():
    sky = correlated()
    axis = np.arange(48) - 23.5
    galaxy = 40 * np.exp(-np.hypot(axis[:, None], axis) / 3)
    found = fields(sky + galaxy.astype(np.float32), 48)
    centre = found[..., 18:30, 18:30]
    assert abs(centre.mean()) < 0.15
    assert centre.std() == pytest.approx(1, abs=0.15)
    # Light that is too faint for the cut is left: the noise is that of the sky to a tenth.
    assert neighbours(found) == pytest.approx(0.5, abs=0.1)


def test_a_frame_full_of_light_is_not_taken():
    axis = np.arange(48) - 23.5
    full = 40 * (np.hypot(axis[:, None], axis) < 22)
    assert fields((correlated(2) + full).astype(np.float32), 48).shape == (0, 1, 48, 48)


def test_each_image_has_its_own_field_turned_and_rolled():
    held = correlated(2)
    some = drawn(held, 50, np.random.default_rng(1))
    assert len({image.tobytes() for image in some}) == 50
    values = {tuple(np.sort(field.ravel())) for field in held}
    assert {tuple(np.sort(image.ravel())) for image in some} == values


def test_the_simulated_noise_is_that_of_the_set(tmp_path):
    pixels = np.repeat(correlated(24, 64), 3, axis=1)
    held = write(str(tmp_path / "cutouts"), pixels)
    made = {}
    for name, given in (("white", {}), ("real", {"noise_from": held})):
        out = simulate("sim", rows=30, seed=3, out=str(tmp_path / name), bands="gri", **given)
        made[name] = read_split(out, "train")["pixels"]
    white, real = made["white"][..., :8, :8], made["real"][..., :8, :8]  # a corner, hardly a galaxy in it
    assert real.std() == pytest.approx(white.std(), rel=0.3)
    rolled = np.median([neighbours(image) for image in real.reshape(-1, 8, 8)])
    assert rolled > np.median([neighbours(image) for image in white.reshape(-1, 8, 8)]) + 0.15


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bands": "i"}, "asked for are i"),
        ({"bands": "gri", "size": 96}, "64 pixels, asked for are gri and 96"),
    ],
)
def test_other_bands_and_sizes_are_refused(tmp_path, given, said):
    held = write(str(tmp_path / "cutouts"), galaxies())
    with pytest.raises(DataError, match=said):
        simulate("sim", rows=30, seed=3, out=str(tmp_path / "out"), noise_from=held, **given)


def test_cutouts_have_their_own_noise(tmp_path):
    held = write(str(tmp_path / "cutouts"), galaxies())
    with pytest.raises(ConfigError, match="has their noise"):
        simulate("painted", rows=30, seed=3, out=str(tmp_path / "out"), onto=held, noise_from=held)


def test_skies_are_by_split(tmp_path):
    held = write(str(tmp_path / "cutouts"), galaxies(), splits=(0.5, 0.5))
    found = skies(held, "gri", 64)
    assert list(found) == ["train", "val"]
    with pytest.raises(ConfigError, match="no cutout for the split 'test'"):
        simulate("sim", rows=30, seed=3, out=str(tmp_path / "out"), bands="gri", noise_from=held)
