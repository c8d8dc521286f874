"""What a simulated set promises: the same images for the same seed, exact lenses, kinds and their truth."""

import shlex
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from raylens.data.__main__ import main
from raylens.data.shards import read_manifest, read_split
from raylens.data.simulate import BLOCK, camera, plan, render, simulate
from raylens.data.simulate.presets import PRESETS, ZERO_POINT, margin, preset, resampled
from raylens.data.simulate.scene import Scene, populate
from raylens.errors import ConfigError

KINDS = ["lens", "elliptical", "spiral", "merger", "ring", "star", "faint"]


def few(name: str, each: int = 4, bands: tuple[int, ...] = (2,), key: object = 0):
    return render(preset(name), np.repeat(KINDS, each), ("test", name, key), bands=list(bands))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("bands", [(2,), (0, 1, 2)])
def test_images_are_finite_and_no_two_alike(name, bands):
    images, _ = few(name, bands=bands)
    assert images.shape == (28, len(bands), 64, 64)
    assert images.dtype == (np.float32 if preset(name).picture is None else np.uint8)
    assert np.isfinite(images).all()
    assert len(np.unique(images.reshape(28, -1), axis=0)) == 28


def test_images_depend_on_the_key_and_on_nothing_else():
    images, truth = few("survey")
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    again, same = few("survey")
    torch.set_num_threads(threads)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(truth["theta_e"], same["theta_e"])
    assert not np.array_equal(images, few("survey", key=1)[0])


def test_each_row_keeps_its_truth():
    _, truth = few("survey", each=8)
    lens = truth["kind"] == "lens"
    assert set(truth) >= {"kind", "theta_e", "magnitude", "source_magnitude", "shear", "axis_ratio", "fwhm_i"}
    recipe = preset("survey")
    for name in ("theta_e", "source_magnitude", "lensed_magnitude", "shear", "axis_ratio", "source_offset"):
        assert np.isfinite(truth[name][lens]).all(), name
        assert np.isnan(truth[name][~lens]).all(), name
    assert (
        recipe.theta_e[0] <= truth["theta_e"][lens].min() < truth["theta_e"][lens].max() <= recipe.theta_e[1]
    )
    assert np.all((truth["fwhm_i"] >= recipe.fwhm["i"][0]) & (truth["fwhm_i"] <= recipe.fwhm["i"][1]))
    assert np.all(
        (truth["moffat_beta"] >= recipe.moffat[0]) & (truth["moffat_beta"] <= recipe.moffat[1] + 1e-6)
    )


def test_the_magnitude_of_a_source_is_that_of_all_that_is_drawn_of_it():
    scene = Scene(preset("survey"), np.random.default_rng(0), [2])
    truth, light = populate(scene, np.array(["lens"] * 40), 64), np.zeros(40)
    assert len(scene.parts["lensed"][1]["row"]) > 40, "clumps"
    for part in scene.parts["lensed"]:
        np.add.at(light, part["row"], part["fluxes"][:, 2])
    np.testing.assert_allclose(27 - 2.5 * np.log10(light), truth["source_magnitude"], atol=1e-5)


def test_a_source_is_magnified_as_behind_an_isothermal_sphere():
    """Two images and 2 theta_E / offset of the light (Schneider, Ehlers & Falco 1992, section 8.1.3), but for the
    lens's ellipticity and shear and the source's size, which matter near its centre."""
    _, truth = few("sim", each=32)
    off_centre = truth["source_offset"] > 0.2 * truth["theta_e"]
    assert off_centre.sum() > 16
    gained = (truth["source_magnitude"] - truth["lensed_magnitude"])[off_centre]
    expected = 2.5 * np.log10(2 * truth["theta_e"] / truth["source_offset"])[off_centre]
    assert np.median(gained) == pytest.approx(np.median(expected), abs=0.15)
    assert np.mean(np.abs(gained - expected) < 0.5) > 0.9


def test_arcs_of_the_survey_are_fainter_and_smaller():
    sim, survey = (
        {column: values[truth["kind"] == "lens"] for column, values in truth.items()}
        for truth in (few(name, each=64)[1] for name in ("sim", "survey"))
    )
    assert np.median(survey["lensed_magnitude"]) > np.median(sim["lensed_magnitude"]) + 0.2
    assert np.median(survey["theta_e"]) < np.median(sim["theta_e"]) - 0.1


def test_magnitudes_are_of_the_i_band_whatever_is_drawn():
    (_, in_i), (_, in_g) = few("sim"), few("sim", bands=(0,))
    for name in ("magnitude", "source_magnitude", "lensed_magnitude"):
        np.testing.assert_allclose(in_g[name], in_i[name], rtol=1e-5)


@pytest.mark.parametrize("rows", [300, 2 * BLOCK + 77])
def test_lenses_are_exact_and_in_every_split(rows):
    recipe = preset("survey")
    blocks = plan(recipe, rows, 0, recipe.prior, recipe.splits)
    kinds = np.concatenate([kinds for _, kinds in blocks])
    assert len(kinds) == rows
    assert (kinds == "lens").sum() == max(round(rows * recipe.prior), len(recipe.splits))
    assert {split for split, kinds in blocks if (kinds == "lens").any()} == set(recipe.splits)


def test_presets_share_no_stream():
    recipe = preset("sim")
    rows = [few(name, each=1)[1]["magnitude"] for name in PRESETS] + [
        few("sim", each=1, key=1)[1]["magnitude"]
    ]
    assert len(np.unique(np.concatenate(rows))) == (len(PRESETS) + 1) * len(KINDS)
    assert recipe.domain == "source"
    assert preset("survey").domain == "target"


def test_noise_of_the_survey_is_correlated_and_of_sim_white():
    corner = {
        name: render(preset(name), np.array(["star"] * 64), ("noise", name), bands=[2])[0]
        for name in ("sim", "survey")
    }
    for name, (low, high) in {"sim": (-0.1, 0.2), "survey": (0.3, 0.9)}.items():
        sky = corner[name][:, 0, :16, :16].astype(float)
        sky -= np.median(sky, (1, 2), keepdims=True)
        calm = sky[np.abs(sky).max((1, 2)) < 6 * np.median(np.abs(sky))]
        assert low < (calm[:, :, 1:] * calm[:, :, :-1]).mean() / (calm**2).mean() < high, name


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="unknown preset 'hubble'; known here: sim, survey"):
        simulate("hubble", rows=10, seed=0, out="nowhere")
    with pytest.raises(ConfigError, match="bands 'u'"):
        simulate("sim", rows=10, seed=0, out="nowhere", bands="u")
    with pytest.raises(ConfigError, match="prior 2"):
        simulate("sim", rows=10, seed=0, out="nowhere", prior=2)


def test_a_set_is_the_same_however_it_was_spread(ray_cluster, tmp_path, monkeypatch):
    """By tasks or, of a block at most, here; few at a time or many."""

    def written(name: str, block: int) -> dict[str, np.ndarray]:
        monkeypatch.setattr("raylens.data.simulate.BLOCK", block)
        out = simulate("survey", rows=60, seed=3, out=f"{tmp_path}/{name}", prior=0.2)
        return {split: read_split(out, split)["pixels"] for split in ("train", "val", "test")}

    def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
        for split, pixels in first.items():
            np.testing.assert_array_equal(pixels, second[split])

    monkeypatch.setattr(ray_cluster, "cluster_resources", Mock(side_effect=AssertionError("drawn by tasks")))
    here = written("here", 60)
    monkeypatch.setattr(ray_cluster, "cluster_resources", lambda: {"CPU": 2.0})
    same(here, written("by-tasks", 59))
    many = written("many", 16)
    monkeypatch.setattr(ray_cluster, "cluster_resources", lambda: {"CPU": 1.0})
    same(many, written("few", 16))
    manifest = read_manifest(f"{tmp_path}/few")
    assert manifest.bands == ("i",)
    assert sum(split.rows for split in manifest.splits.values()) == 60


def test_the_command_writes_a_set_with_its_truth(tmp_path, capsys):
    out = str(tmp_path / "set")
    flags = ["--rows", "40", "--seed", "5", "--prior", "0.25", "--bands", "gri", "--out", out]
    thirds = "train=0.3333333,val=0.3333333,test=0.3333334"
    assert main(["simulate", "survey", *flags, "--splits", thirds]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == out
    manifest = read_manifest(out)
    assert (manifest.domain, manifest.size, manifest.bands) == ("target", 64, tuple("gri"))
    assert (manifest.rows, manifest.made["seed"]) == (40, 5)
    truth = {"kind", "theta_e", "magnitude", "source_magnitude", "lensed_magnitude", "fwhm_i", "prior"}
    assert truth <= set(manifest.columns)
    rows = read_split(out, "train", ("label", "kind", "theta_e", "prior"))
    assert ((rows["kind"] == "lens") == (rows["label"] == 1)).all()
    assert (np.isfinite(rows["theta_e"]) == (rows["label"] == 1)).all()
    assert set(rows["prior"]) == {0.25}
    assert f"--splits {thirds} " in manifest.made["command"]
    assert shlex.split(manifest.made["command"])[:4] == ["python", "-m", "raylens.data", "simulate"]


def test_another_pixel_has_the_same_sky():
    """The noise of a pixel goes with its side, as that of the sky's photons does."""
    half = resampled(preset("sim"), 0.084)
    assert half.pixel == 0.084
    assert half.noise == pytest.approx([noise / 2 for noise in preset("sim").noise])


@pytest.mark.parametrize(
    ("size", "pixel", "theta_e"), [(64, 0.02, None), (16, None, None), (64, None, (6.0, 8.0))]
)
def test_a_field_that_holds_no_ring_is_refused(tmp_path, size, pixel, theta_e):
    with pytest.raises(
        ConfigError, match=r"Einstein radii up to .*; set --size or --arcsec-per-pixel to more"
    ):
        simulate(
            "sim", rows=8, seed=0, out=str(tmp_path / "a"), size=size, arcsec_per_pixel=pixel, theta_e=theta_e
        )


def test_a_small_field_without_neighbours_in_it_is_drawn():
    made = replace(preset("survey"), theta_e=(0.3, 0.5), pixel=0.07)
    images, _ = render(made, np.array(["lens"] * 3 + ["spiral"] * 3), ("a",), bands=[2], size=32)
    assert np.isfinite(images).all()


def test_a_true_magnitude_is_that_of_what_is_drawn():
    made = replace(
        preset("spacewarps"), neighbours=0, groups=0, bright=0, picture=None, depth=(1e-6, 1e-6), gain=1e12
    )
    kinds = np.array(["faint"] * 8 + ["elliptical"] * 8)
    images, truth = render(made, kinds, ("a",), bands=[2], size=64)
    drawn = ZERO_POINT - 2.5 * np.log10(images.sum((1, 2, 3)))
    assert np.abs(drawn - truth["magnitude"]).max() < 0.3


def test_light_does_not_come_back_at_the_other_edge():
    clean = torch.zeros(1, 1, 32, 32)
    edge = margin(0.168, 0.05)
    wide = torch.nn.functional.pad(clean, (edge,) * 4)
    wide[..., 0] = 1.0
    seen = camera.blur(wide, torch.tensor([[0.7]]), None, 0.05, edge)[0, 0, edge:-edge, edge:-edge]
    assert seen[:, -1].max() < 1e-3 * seen[:, 0].max()
