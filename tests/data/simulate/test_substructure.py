"""Substructure against lenstronomy, closed forms, and what the published sets are known to be."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel

from raylens.data.__main__ import main
from raylens.data.shards import read_manifest, read_split
from raylens.data.simulate import physics, simulate, simulate_substructure, substructure
from raylens.data.simulate.substructure import RECIPES, einstein_radius, power_law, recipe, render, rod
from raylens.errors import ConfigError


def test_einstein_radii_are_those_that_are_known():
    assert einstein_radius(1e12) == pytest.approx(1.66, abs=0.01)
    assert einstein_radius(1e12, as_published=True) == pytest.approx(1.2815, abs=1e-4)
    assert einstein_radius(4e12) == pytest.approx(2 * einstein_radius(1e12))


@pytest.mark.parametrize("half", [0.03, 0.4, 3.0])
def test_a_rod_is_the_limit_of_many_points(half):
    x, y = (
        torch.tensor(axis, dtype=torch.float64) for axis in np.random.default_rng(0).uniform(-2, 2, (2, 40))
    )
    theta_e, angle = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    found = rod(x, y, theta_e, torch.tensor(half, dtype=torch.float64), angle)
    along = torch.linspace(-half, half, 200_001, dtype=torch.float64)
    dx, dy = x[:, None] - along * torch.cos(angle), y[:, None] - along * torch.sin(angle)
    squared = dx**2 + dy**2
    for ours, offset in zip(found, (dx, dy), strict=True):
        torch.testing.assert_close(ours, (theta_e**2 * offset / squared).mean(1), atol=1e-4, rtol=1e-3)


def lenstronomys(made: substructure.Recipe, light: dict[str, float]) -> tuple[LensModel, list[dict]]:
    models, settings = (
        ["SIE", "SHEAR"],
        [
            {"theta_E": light["lens_theta_e"], "e1": made.e1, "e2": 0.0},
            {"gamma1": light["lens_gamma1"], "gamma2": light["lens_gamma2"]},
        ],
    )
    for index in range(sum(key[0] == "m" and key.endswith("_x") for key in light)):
        models.append("POINT_MASS")
        place = {"center_x": light[f"m{index}_x"], "center_y": light[f"m{index}_y"]}
        settings.append(place | {"theta_E": light[f"m{index}_theta_e"]})
    return LensModel(models), settings


@pytest.mark.parametrize(
    ("name", "kind", "discrete"),
    [
        ("model-ii", "cdm", None),
        ("model-i", "axion", 100),
        ("common", "sphere", None),
        ("common", "vort", 25),
    ],
)
def test_images_before_noise_are_lenstronomys(name, kind, discrete):
    """The surface brightness behind the same masses, at the same points."""
    made = recipe(name, discrete=discrete)
    (light,), _ = substructure.populate(made, np.array([kind]), np.random.default_rng(3))
    model, settings = lenstronomys(made, light)
    x, y = np.random.default_rng(1).uniform(-2.5, 2.5, (2, 400))
    source = [torch.tensor(axis) for axis in model.ray_shooting(x, y, settings)]
    given = {key: torch.tensor([value], dtype=torch.float64) for key, value in light.items()}
    given = physics.normalised(given) if "flux" in given else given | {"k": physics.func.k_sersic(given["n"])}
    expected = physics.sersic(given, *(axis[None, None] for axis in source))
    found = substructure.arcs(given, torch.tensor(x)[None], torch.tensor(y)[None])
    # lenstronomy's isothermal ellipsoid is softened, as its users know: to a thousandth of the peak
    assert (found - expected).abs().max() < 2e-3 * expected.max()
    assert expected.max() > 0


def test_the_source_is_lenstronomys():
    """Of Model I, as DeepLenseSim has it: radii are circularised there, and the half-light constant is another fit."""
    (light,), _ = substructure.populate(recipe("model-i"), np.array(["no_sub"]), np.random.default_rng(0))
    x, y = np.random.default_rng(1).uniform(-0.6, 0.6, (2, 300))
    given = {"amp": 20, "R_sersic": 0.25, "n_sersic": 1, "e1": -0.1, "e2": 0.1}
    given |= {"center_x": light["x"], "center_y": light["y"]}
    expected = LightModel(["SERSIC_ELLIPSE"]).surface_brightness(x, y, [given])
    ours = {key: torch.tensor([value], dtype=torch.float64) for key, value in light.items()}
    ours |= {"k": physics.func.k_sersic(ours["n"])}
    found = physics.sersic(ours, torch.tensor(x)[None, None], torch.tensor(y)[None, None])
    np.testing.assert_allclose(found.numpy().ravel(), expected, atol=5e-3 * expected.max(), rtol=0)


@pytest.mark.parametrize("name", RECIPES)
def test_an_image_follows_from_its_key(name):
    made = recipe(name, size=32)
    kinds = np.repeat(made.classes, 2)
    first, truth = render(made, kinds, ("a",))
    again, _ = render(made, kinds, ("a",))
    other, _ = render(made, kinds, ("b",))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (6, 1, 32, 32)
    assert np.isfinite(first).all()
    assert (first != other).any()
    assert all(len(column) == 6 for column in truth.values())
    assert [len(places) > 0 for places in truth["sub_x"]] == [False, False, True, True, False, False]
    for told in substructure.VORTEX:
        assert np.isfinite(truth[told]).tolist() == [False] * 4 + [True] * 2, told
    known = name != "common"
    assert np.isfinite(truth["log10_mass"]).tolist() == [False] * 4 + [known] * 2
    if known:
        assert (truth["log10_mass"][4:] >= -24).all()
        assert (truth["log10_mass"][4:] <= -22).all()


def test_without_substructure_classes_are_alike():
    """What tells classes apart is their substructure and nothing else."""
    made = replace(recipe("model-ii", size=32), subhaloes=0, share=(1e-12, 1e-12))
    none, subhaloes, vortex = (render(made, np.array([kind] * 4), ("same",))[0] for kind in made.classes)
    assert np.corrcoef(none[0].ravel(), vortex[0].ravel())[0, 1] > 0.98
    assert np.corrcoef(none[0].ravel(), subhaloes[0].ravel())[0, 1] > 0.98


@pytest.mark.parametrize("slope", [-0.9, -1.0, -1.9])
def test_masses_follow_the_slope(slope):
    masses = power_law(np.random.default_rng(0), 200_000, 1e6, 1e10, slope)
    assert masses.min() >= 1e6
    assert masses.max() <= 1e10
    counts, edges = np.histogram(np.log10(masses), bins=8)
    found = np.polyfit((edges[1:] + edges[:-1])[counts > 50] / 2, np.log10(counts[counts > 50]), 1)[0]
    assert found == pytest.approx(slope + 1, abs=0.05)  # dN/dlog m = m dN/dm


def test_the_published_mean_mass_of_subhaloes():
    """3.8 % of the main halo by the code's slope, 0.034 % by that of its comment: reference figures."""
    random = np.random.default_rng(0)
    mean = {slope: 25 * power_law(random, 400_000, 1e6, 1e10, slope).mean() / 1e12 for slope in (-0.9, -1.9)}
    assert mean[-0.9] == pytest.approx(0.038, rel=0.05)
    assert mean[-1.9] == pytest.approx(3.4e-4, rel=0.1)


@pytest.mark.parametrize("name", ["model-i", "common"])
def test_heavier_substructure_is_all_that_differs(name):
    """Four times the mass is twice the Einstein radius, of subhaloes and vortices; all else is as it was."""
    kinds = np.array([*recipe(name).classes] * 4)
    (light, _), (heavy, _) = (
        substructure.populate(recipe(name, heavier=factor), kinds, np.random.default_rng(0))
        for factor in (None, 4.0)
    )
    for one, other in zip(light, heavy, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            massive = key.endswith("theta_e") and not key.startswith("lens_")
            assert other[key] == pytest.approx(2 * value if massive else value)
    assert any("m0_theta_e" in one for one in light)
    assert any("rod_theta_e" in one for one in light)


def test_a_split_without_a_share_has_no_rows(tmp_path):
    shares = {"train": 0.5, "val": 0.5, "test": 0.0}
    out = simulate_substructure(
        "model-ii", rows=12, seed=0, out=str(tmp_path / "set"), size=16, splits=shares
    )
    assert set(read_manifest(out).splits) == {"train", "val"}


def test_the_longest_and_the_shortest_vortex():
    made = recipe("model-i")
    kinds = np.array(["axion"] * 400)
    lights, truth = substructure.populate(made, kinds, np.random.default_rng(0))
    half = np.array([light["rod_half"] for light in lights])
    np.testing.assert_allclose(np.log10(half / 0.03), -22 - truth["log10_mass"])
    assert half.max() == pytest.approx(3, rel=0.05)
    assert half.min() == pytest.approx(0.03, rel=0.05)
    # 3e10 of 1e12 suns
    assert lights[0]["rod_theta_e"] == pytest.approx(math.sqrt(0.03) * einstein_radius(1e12))


def test_published_faults_come_only_when_asked_for():
    counts, _ = render(recipe("model-i", as_published=True), np.array(["cdm"]), ("k",))
    assert (counts == np.rint(counts)).all()
    assert counts.min() == 0
    clean, truth = render(recipe("model-ii", as_published=True), np.array(["cdm"]), ("k",))
    assert clean.min() >= 0
    assert len(truth["sub_x"][0]) == 25
    assert truth["theta_e"][0] == pytest.approx(1.2815, abs=1e-4)
    noisy, _ = render(recipe("model-ii"), np.array(["cdm"]), ("k",))
    assert noisy.min() < 0


def test_the_masses_of_common_are_those_measured_of_published_images():
    """3 to 5.5 % of each halo, in ten equal subhaloes, in a rod, or in 25 points of one."""
    kinds = np.array(["sphere", "vort"] * 200)
    lights, truth = substructure.populate(recipe("common"), kinds, np.random.default_rng(0))
    halo = truth["theta_e"] ** 2
    assert [len(places) for places in truth["sub_x"][:2]] == [10, 0]
    shares = {
        "sphere": [(truth["sub_theta_e"][row] ** 2).sum() / halo[row] for row in range(0, 400, 2)],
        "vort": [lights[row]["rod_theta_e"] ** 2 / halo[row] for row in range(1, 400, 2)],
    }
    _, drawn = substructure.populate(recipe("common", discrete=25), kinds, np.random.default_rng(0))
    shares["points"] = [(drawn["sub_theta_e"][row] ** 2).sum() / drawn["theta_e"][row] ** 2 for row in (1, 3)]
    for found in shares.values():
        assert 0.03 <= min(found) < max(found) <= 0.055
    assert np.ptp(shares["sphere"]) > 0.02
    assert len(np.unique([len(places) for places in drawn["sub_x"][1::2]])) == 1
    assert truth["theta_e"].min() == pytest.approx(0.95, abs=0.02)
    assert truth["theta_e"].max() == pytest.approx(1.6, abs=0.02)
    assert np.std([light["rod_x"] for light in lights[1::2]]) == pytest.approx(0.5, rel=0.15)


def test_a_vortex_of_one_point_lies_in_its_middle():
    _, truth = substructure.populate(
        recipe("model-i", discrete=1), np.array(["axion"]), np.random.default_rng(0)
    )
    assert (truth["sub_x"][0], truth["sub_y"][0]) == ([truth["vortex_x"][0]], [truth["vortex_y"][0]])


def test_a_rod_acts_from_where_it_lies():
    """The same light seen from the rod's own middle, halo and source moved the other way."""
    (light,), _ = substructure.populate(recipe("common"), np.array(["vort"]), np.random.default_rng(2))
    given = {key: torch.tensor([value], dtype=torch.float64) for key, value in light.items()}
    given["k"] = physics.func.k_sersic(given["n"])
    moved = dict(given)
    for axis in "xy":
        for name in (axis, f"lens_{axis}", f"rod_{axis}"):
            moved[name] = given[name] - given[f"rod_{axis}"]
    x, y = torch.tensor(np.random.default_rng(1).uniform(-2, 2, (2, 1, 20, 20)))
    # shear acts about the coordinates' middle: without it
    given, moved = (
        one | dict.fromkeys(("lens_gamma1", "lens_gamma2"), 0 * given["x"]) for one in (given, moved)
    )
    there = substructure.arcs(moved, x - given["rod_x"], y - given["rod_y"])
    torch.testing.assert_close(substructure.arcs(given, x, y), there)
    assert given["rod_x"].abs() > 0.05


@pytest.mark.parametrize("name", ["common", "model-ii"])
def test_the_truth_of_a_vortex_is_what_is_drawn(name):
    """As a rod, and as the points of one drawn by the same numbers."""
    lights, truth = substructure.populate(recipe(name), np.array(["vort", "axion"]), np.random.default_rng(2))
    row = 0 if name == "common" else 1
    for told, drawn in (("x", "x"), ("y", "y"), ("angle", "angle"), ("theta_e", "theta_e")):
        assert truth[f"vortex_{told}"][row] == lights[row][f"rod_{drawn}"], told
    assert truth["vortex_length"][row] == 2 * lights[row]["rod_half"]
    points = replace(recipe(name), discrete=100)
    _, other = substructure.populate(points, np.array(["vort", "axion"]), np.random.default_rng(2))
    x, y = other["sub_x"][row], other["sub_y"][row]
    assert (x.mean(), y.mean()) == pytest.approx((other["vortex_x"][row], other["vortex_y"][row]), abs=1e-9)
    assert np.hypot(x[-1] - x[0], y[-1] - y[0]) == pytest.approx(other["vortex_length"][row])
    assert (other["sub_theta_e"][row] ** 2).sum() == pytest.approx(other["vortex_theta_e"][row] ** 2)


@pytest.mark.parametrize("published", [False, True])
def test_common_leans_by_degrees_as_published_and_by_any_angle_else(published):
    made = recipe("common", as_published=published)
    lights, _ = substructure.populate(made, np.array(["no"] * 200), np.random.default_rng(0))
    shear = [math.degrees(math.atan2(one["lens_gamma2"], one["lens_gamma1"])) / 2 for one in lights]
    source = [math.degrees(one["phi"]) for one in lights]
    if published:
        assert 0 <= min(shear + source) < 0.5
        assert 5.8 < max(shear + source) < 6.4
    else:
        assert max(shear) > 85
        assert max(source) > 340


def test_common_is_counted_once_as_published_too():
    """100 counts a pixel at the source's half-light radius, 10 of sky, and the noise of both."""
    for published in (False, True):
        made = recipe("common", as_published=published)
        dark = np.zeros((50, 1, 30, 30), np.float32)
        counts = substructure.record(made, dark, np.full((50, 1, 1, 1), 100.0), np.random.default_rng(0))
        np.testing.assert_allclose(counts, np.rint(counts), atol=1e-4)
        assert counts.mean() == pytest.approx(0, abs=0.1)
        assert counts.var() == pytest.approx(10, rel=0.03)
    assert made.level[0] * made.pixel**2 * made.camera.exposure[0] == pytest.approx(100)


def test_published_pairs_have_half_the_field():
    for published, pixel in ((False, 0.1), (True, 0.05)):
        made = recipe("sr-pairs", as_published=published)
        assert (made.size, made.finer, made.pixel) == (75, 2, pixel)
        assert recipe("sr-pairs", as_published=published, size=25).pixel == pytest.approx(3 * pixel)
        assert recipe("sr-pairs", as_published=published, pixel=0.2).pixel == 0.2
    assert recipe("model-i", as_published=True).pixel == 0.05


@pytest.mark.parametrize("name", sorted(substructure.RECIPES))
def test_other_pixels_see_the_same_light(name):
    """Photons of arcs, lens and sky are as many, in whatever pixels of the same field."""
    lights, skies = [], []
    for size in (60, 120):
        made = recipe(name, size=size)
        kinds = np.array([made.classes[0]])
        light, _ = substructure.populate(made, kinds, np.random.default_rng(0))
        lights.append(substructure.seen(made, light, "cpu").sum())
        dark = np.zeros((100, 1, size, size), np.float32)
        made = substructure.replace(made, camera=substructure.replace(made.camera, rms=0.0))
        counts = substructure.record(made, dark, np.full((100, 1, 1, 1), 300.0), np.random.default_rng(0))
        skies.append(counts.sum((1, 2, 3)).var())
    assert lights[0] == pytest.approx(lights[1], rel=0.03)
    assert skies[0] == pytest.approx(skies[1], rel=0.6)


def test_noise_comes_once():
    """Of Model I: shot noise of the light, and the background's rms of 0.01 a second."""
    made, rates = recipe("model-i"), np.full((200, 1, 20, 20), 0.2)
    seconds = np.exp(np.random.default_rng(1).uniform(*np.log(made.camera.exposure), (200, 1, 1, 1)))
    counts = substructure.record(made, rates, seconds, np.random.default_rng(0))
    exposure = counts.mean((1, 2, 3)) / 0.2
    expected = 0.2 * exposure + (0.01 * exposure) ** 2
    assert (counts.var((1, 2, 3)) / expected).mean() == pytest.approx(1, abs=0.02)


def test_pairs_are_of_the_same_light_and_only_the_coarse_one_is_noisy():
    made = recipe("sr-pairs", size=30)
    images, truth = render(made, np.array(["no_sub", "cdm", "axion"]), ("pairs",))
    high = truth["high"]
    assert (images.shape, high.shape) == ((3, 1, 30, 30), (3, 1, 60, 60))
    assert high.dtype == np.float32
    mean = substructure.binned(high, 2) / 4
    exposed = 1e3, 10**3.5
    noise = images - mean
    deviation = noise.std((1, 2, 3))
    for low, top, one in zip(
        *(np.sqrt(mean.mean((1, 2, 3)) + (0.01 * time) ** 2) for time in exposed), deviation, strict=True
    ):
        assert 0.8 * low < one < 1.2 * top
    assert np.abs(noise.mean((1, 2, 3))).max() < 0.2 * deviation.max()
    alone, _ = render(recipe("sr-pairs", size=30), np.array(["no_sub", "cdm", "axion"]), ("pairs",))
    np.testing.assert_array_equal(images, alone)
    assert high.min() >= -1e-3 * high.max(), "without noise"


def test_pairs_are_written(tmp_path):
    out = simulate_substructure("sr-pairs", rows=60, seed=1, out=str(tmp_path / "set"), size=20)
    held = read_manifest(out)
    assert (held.size, held.high, held.arcsec_per_pixel) == (20, 40, pytest.approx(0.375))
    rows = read_split(out, "train", ("pixels", "high", "log10_mass"))
    assert rows["high"].shape == (48, 1, 40, 40)


def test_a_set_is_written(tmp_path):
    out = simulate_substructure("model-ii", rows=60, seed=1, out=str(tmp_path / "set"), size=32)
    held = read_manifest(out)
    assert held.classes == ("no_sub", "cdm", "axion")
    assert held.arcsec_per_pixel == pytest.approx(0.202)
    assert held.splits["train"].labels == {"no_sub": 16, "cdm": 16, "axion": 16}
    rows = read_split(out, "train", ("label", "log10_mass", "sub_x", "sub_log10_mass"))
    assert (np.isfinite(rows["log10_mass"]) == (rows["label"] == 2)).all()
    assert all(
        (len(places) > 0) == (label == 1) for places, label in zip(rows["sub_x"], rows["label"], strict=True)
    )
    twice = simulate_substructure("model-ii", rows=60, seed=1, out=str(tmp_path / "twice"), size=32)
    np.testing.assert_array_equal(read_split(out, "val")["pixels"], read_split(twice, "val")["pixels"])


def test_the_pixels_of_another_camera_show_another_field(tmp_path):
    made = recipe("model-ii", pixel=0.08)
    assert (made.size, made.pixel, made.camera) == (64, 0.08, recipe("model-ii").camera)
    assert recipe("model-i", size=75, pixel=0.05) == replace(recipe("model-i"), size=75)
    out = simulate_substructure(
        "model-ii", rows=30, seed=1, out=str(tmp_path / "set"), size=16, arcsec_per_pixel=0.08
    )
    held = read_manifest(out)
    assert (held.size, held.arcsec_per_pixel) == (16, 0.08)
    assert "--arcsec-per-pixel 0.08" in held.made["command"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("model-i --arcsec-per-pixel 5", "between 0.01 and 2"),
        ("model-i --prior 0.1", "has no --prior"),
        ("sim --as-published", "has no --as-published"),
        ("common --slope -1.9", "all alike"),
        ("model-i --slope nan", "between -5 and 5"),
        ("model-i --heavier 0", "more than 0 and at most 10"),
        ("model-i --heavier nan", "more than 0 and at most 10"),
        ("sim --heavier 2", "has no --heavier"),
        ("model-i --discrete 0", "at least 1 point"),
        ("model-i --size 8", "at least 16"),
        ("model-i --rows 5", "too few"),
        ("model-iv", "model-iii"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path, capsys, words, said):
    assert main(["simulate", *words.split(), "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("draw", [partial(simulate, "sim"), partial(simulate_substructure, "common")])
def test_splits_that_would_lose_rows_are_refused(tmp_path, draw):
    with pytest.raises(ConfigError, match="must be shares that sum to 1"):
        draw(rows=90, seed=0, out=str(tmp_path / "out"), splits={"train": 0.5, "test": 0.3})


def test_subhaloes_are_as_many_beside_a_vortex_of_points_as_without_one():
    made = recipe("model-i", as_published=True)
    lights, _ = substructure.populate(made, np.array(["cdm", "axion", "cdm"]), np.random.default_rng(0))
    counts = [sum(key[0] == "m" and key.endswith("_x") for key in light) for light in lights]
    assert counts == [25, 100, 25]
