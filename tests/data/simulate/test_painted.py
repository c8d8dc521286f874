"""Arcs on real cutouts; here the cutouts are of the simulator's own survey."""

from __future__ import annotations

import numpy as np
import pytest

from raylens.data.shards import LENS_CLASSES, ShardWriter, made_by, read_manifest, read_split
from raylens.data.simulate import render, simulate
from raylens.data.simulate.painted import WITHIN, Backgrounds, _turned, backgrounds, measured
from raylens.data.simulate.presets import RED, preset
from raylens.errors import ConfigError, DataError

PIXEL = 0.168
GRI = [0, 1, 2]


def galaxies(count: int = 24, key: str = "galaxies") -> np.ndarray:
    kinds = np.array(["elliptical"] * count)
    return render(preset("survey"), kinds, ("test", key), bands=GRI)[0]


def write(out: str, pixels: np.ndarray, labels=None, *, bands="gri", splits=(0.5, 0.25, 0.25)) -> str:
    edges = np.round(np.cumsum([0, *splits]) * len(pixels)).astype(int)
    with ShardWriter(
        out, bands=tuple(bands), arcsec_per_pixel=PIXEL, classes=LENS_CLASSES, made=made_by("tests")
    ) as writer:
        for split, begin, end in zip(("train", "val", "test"), edges, edges[1:], strict=False):
            if end > begin:
                some = None if labels is None else labels[begin:end]
                writer.add(split, pixels[begin:end], some, [f"{split}-{row}" for row in range(begin, end)])
    return out


@pytest.fixture(scope="module")
def cutouts(tmp_path_factory) -> str:
    return write(str(tmp_path_factory.mktemp("cutouts") / "set"), galaxies())


def test_light_is_measured_above_the_sky():
    pixels = np.full((2, 3, 64, 64), 7.0, np.float32)
    pixels[1, :, 31:33, 31:33] += np.array([1.0, 2.0, 4.0])[:, None, None]
    light, noise = measured(pixels, PIXEL)
    np.testing.assert_allclose(light, [[0, 0, 0], [4, 8, 16]])
    np.testing.assert_array_equal(noise, 0)


def test_the_light_within_the_aperture_is_about_the_share_that_is_assumed():
    bright = render(preset("sim"), np.array(["elliptical"] * 64), ("test", "aperture"), bands=[2])
    light, _ = measured(bright[0], PIXEL)
    total = 10 ** (-0.4 * (bright[1]["magnitude"] - 27.0))
    assert np.median(light[:, 0] / total) == pytest.approx(WITHIN, abs=0.15)


def test_an_arc_has_the_light_that_its_galaxy_gives_it():
    """With the unit twice as large in one band, an arc is twice as bright there, and so in proportion to the galaxy."""
    rng = np.random.default_rng(0)
    pixels = np.zeros((1, 3, 64, 64), np.float32)
    pixels[..., 0, 0] = 1e9  # nothing saturates
    light = np.array([[10.0, 20.0, 40.0]])
    arcs = np.zeros((1, 3, 64, 64))
    arcs[..., 32, 10] = 1.0
    images, _ = Backgrounds(pixels, np.array(["a"]), light).paint(arcs, np.array([20.0]), GRI, rng)
    painted = images[0].reshape(3, -1)
    painted[painted > 1e8] = 0
    offsets = np.array([*RED, 0.0])
    whole = light[0] / WITHIN / 10 ** (-0.4 * (20.0 + offsets - 27.0))
    np.testing.assert_allclose(painted.sum(1), whole, rtol=1e-5)


def test_pictures_saturate():
    pixels = np.full((1, 1, 64, 64), 100.0, np.float32)
    pixels[0, 0, 0, 0] = 255.0
    arcs = np.full((4, 1, 64, 64), 1e6)
    held = Backgrounds(pixels, np.array(["a"]), np.ones((1, 1)))
    images, _ = held.paint(arcs, np.full(4, 20.0), [2], np.random.default_rng(0))
    assert images.max() == 255.0


def test_whole_numbers_stay_whole():
    """Else fractions would tell what was painted on, and no real picture has them."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 200, (5, 3, 64, 64)).astype(np.uint8)
    held = Backgrounds(pixels, np.arange(5), np.full((5, 3), 3000.0))
    images, _ = held.paint(rng.random((8, 3, 64, 64)), np.full(8, 20.0), GRI, rng)
    assert images.dtype == np.uint8
    assert (images.max((1, 2, 3)) > 0).all()


def test_eight_orientations_are_all_there_are():
    image = np.arange(9.0).reshape(1, 3, 3)
    seen = {_turned(image, turn).tobytes() for turn in range(8)}
    assert len(seen) == 8


def test_lenses_and_what_has_no_galaxy_are_not_painted_on(tmp_path):
    pixels = galaxies(8)
    pixels[0] = np.random.default_rng(0).normal(size=pixels[0].shape)  # the sky
    pixels[7, 1, 3, 5] = np.nan  # which would be the brightest that any arc may be
    labels = np.array([0, 1, 0, 0, 0, 0, 0, 0])
    found = backgrounds(write(f"{tmp_path}/set", pixels, labels, splits=(1, 0, 0)), PIXEL)
    assert set(found) == {"train"}
    assert set(found["train"].ids) == {f"train-{row}" for row in range(2, 7)}


def test_what_is_painted_is_a_lens_and_the_rest_is_as_it_was(ray_cluster, cutouts, tmp_path, monkeypatch):
    out = simulate("painted", rows=90, seed=1, out=f"{tmp_path}/a", onto=cutouts)
    manifest = read_manifest(out)
    assert (manifest.bands, manifest.size, manifest.arcsec_per_pixel) == (tuple("gri"), 64, PIXEL)
    assert f"--onto {cutouts}" in manifest.made["command"]
    held = {split: read_split(cutouts, split) for split in ("train", "val", "test")}
    for split in held:
        rows = read_split(out, split, ("pixels", "label", "kind", "cutout", "theta_e"))
        by_id = dict(zip(held[split]["id"], held[split]["pixels"], strict=True))
        assert set(rows["cutout"]) <= set(by_id), "splits share no cutout"
        assert ((rows["kind"] == "lens") == (rows["label"] == 1)).all()
        for pixels, kind, name in zip(rows["pixels"], rows["kind"], rows["cutout"], strict=True):
            turned = [_turned(by_id[name], turn) for turn in range(8)]
            added = [pixels - image for image in turned]
            closest = min(added, key=lambda light: np.abs(light).sum())
            if kind == "plain":
                np.testing.assert_array_equal(closest, 0)
            if kind == "lens":
                assert closest.sum() > 0
    monkeypatch.setattr("raylens.data.simulate.BLOCK", 89)  # more rows than a block's are drawn by tasks
    again = simulate("painted", rows=90, seed=1, out=f"{tmp_path}/b", onto=cutouts)
    np.testing.assert_array_equal(read_split(out, "train")["pixels"], read_split(again, "train")["pixels"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "painted", "onto": None}, "paints --onto a set of cutouts"),
        ({"name": "sim"}, "no other preset does"),
        ({"name": "painted", "bands": "i"}, "are those of the cutouts"),
        ({"name": "painted", "size": 32}, "are those of the cutouts"),
        ({"name": "painted", "theta_e": (3.0, 1.0)}, "no range of Einstein radii"),
        ({"name": "sim", "onto": None, "theta_e": (1.0,)}, "no range of Einstein radii"),
    ],
)
def test_what_cannot_be_painted_is_refused(cutouts, tmp_path, given, said):
    with pytest.raises(ConfigError, match=said):
        simulate(**{"rows": 10, "seed": 0, "out": f"{tmp_path}/out", "onto": cutouts, **given})


def test_a_split_without_a_cutout_is_refused(tmp_path):
    onto = write(f"{tmp_path}/set", galaxies(8), splits=(1, 0, 0))
    with pytest.raises(ConfigError, match="no cutout for the split 'val'"):
        simulate("painted", rows=10, seed=0, out=f"{tmp_path}/out", onto=onto)


def test_other_bands_and_empty_skies_are_refused(tmp_path):
    with pytest.raises(DataError, match="has the bands u, arcs have g, r, i"):
        backgrounds(write(f"{tmp_path}/u", galaxies(4)[:, :1], bands="u", splits=(1, 0, 0)), PIXEL)
    with pytest.raises(
        DataError, match=r"has the bands \(not named\), arcs have g, r, i; convert it with --bands or"
    ):
        backgrounds(write(f"{tmp_path}/unnamed", galaxies(4), bands="", splits=(1, 0, 0)), PIXEL)
    empty = np.random.default_rng(0).normal(size=(4, 3, 64, 64)).astype(np.float32)
    with pytest.raises(DataError, match="no cutout with a galaxy in its middle"):
        backgrounds(write(f"{tmp_path}/empty", empty, splits=(1, 0, 0)), PIXEL)
