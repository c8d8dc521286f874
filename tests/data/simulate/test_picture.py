"""Colour pictures: the composite's formula, its levels, and what becomes of colours."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from raylens.data.shards import read_manifest, read_split
from raylens.data.simulate import render, simulate
from raylens.data.simulate.picture import composite
from raylens.data.simulate.presets import RED, preset

GRI = [0, 1, 2]
WARPS = preset("spacewarps")


def test_a_picture_is_lupton_s_composite():
    """Each pixel by itself, with the same generator: light asinh(Q mean) / (Q mean), cut at 0 and at 255."""
    counts = np.random.default_rng(0).uniform(-0.2, 3.0, (5, 3, 4, 4))
    made, rng, picture = (
        composite(counts, WARPS, GRI, np.random.default_rng(1)),
        np.random.default_rng(1),
        WARPS.picture,
    )
    exposure = rng.uniform(*picture.exposure, 5)
    balance = rng.uniform(*picture.balance, (5, 3))
    softening = rng.uniform(*picture.softening, 5)
    for n, c, y, x in np.ndindex(counts.shape):
        bands = [
            counts[n, b, y, x] / WARPS.noise[b] * picture.noise[b] / 255 * exposure[n] * balance[n, b]
            for b in GRI
        ]
        mean = max(sum(bands) / 3, 1e-6)
        level = bands[c] * np.arcsinh(softening[n] * mean) / (softening[n] * mean)
        level = 255 * level + picture.sky * picture.noise[c]
        assert abs(made[n, c, y, x] - np.clip(level, 0, 255)) <= 0.5 + 1e-6


def test_the_sky_is_as_noisy_as_asked_and_half_hidden():
    sky = np.random.default_rng(0).normal(0, 1, (400, 3, 16, 16)) * np.array(WARPS.noise)[:, None, None]
    levels = composite(sky, WARPS, GRI, np.random.default_rng(1)).astype(float)
    for band in GRI:
        noise = WARPS.picture.noise[band]
        assert (levels[:, band] == 0).mean() == pytest.approx(0.31, abs=0.03)  # below -0.5 noises of a normal
        upper = np.quantile(levels[:, band], 0.84)
        assert upper == pytest.approx((WARPS.picture.sky + 1) * noise, rel=0.06)


def test_bright_cores_are_white_and_faint_light_keeps_its_colour():
    red = 10 ** (-0.4 * np.array([*RED, 0.0]))
    for brightness, ratio in ((1e5, 1.0), (3.0, None)):
        counts = brightness * np.broadcast_to(red[None, :, None, None], (64, 3, 2, 2))
        levels = composite(counts, WARPS, GRI, np.random.default_rng(0)).mean((0, 2, 3))
        lift = np.array(WARPS.picture.noise) * WARPS.picture.sky
        unit = np.array(WARPS.picture.noise) / np.array(WARPS.noise)
        expected = ratio or red[0] / red[2] * unit[0] / unit[2]
        assert (levels - lift * (ratio is None))[[0, 2]] @ [1, -expected] == pytest.approx(0, abs=3)


def test_colours_spread_over_the_range_and_stay_in_proportion():
    from raylens.data.simulate.scene import Scene

    scene = Scene(WARPS, np.random.default_rng(0), GRI)
    magnitudes = -2.5 * np.log10(scene.fluxes(np.full(4000, 20.0), RED))
    g_i, r_i = magnitudes[:, 0] - magnitudes[:, 2], magnitudes[:, 1] - magnitudes[:, 2]
    low, high = WARPS.colours[RED]
    assert np.quantile(g_i, [0.05, 0.95]) == pytest.approx(
        [low + 0.05 * (high - low), high - 0.05 * (high - low)], abs=0.1
    )
    np.testing.assert_allclose(r_i / g_i, RED[1] / RED[0], rtol=1e-6)


def test_what_is_faint_is_fainter_than_any_lens():
    _, truth = render(WARPS, np.array(["faint", "lens"] * 32), ("test", "faint"), bands=GRI)
    images, _ = render(WARPS, np.array(["faint"] * 32), ("test", "faint"), bands=GRI)
    brighter, _ = render(WARPS, np.array(["elliptical"] * 32), ("test", "faint"), bands=GRI)
    middle = (slice(None), 2, slice(26, 38), slice(26, 38))
    assert np.median(images[middle].mean((1, 2))) < 0.5 * np.median(brighter[middle].mean((1, 2)))
    assert np.isnan(truth["theta_e"][::2]).all()


def test_the_set_is_of_pictures_in_three_bands(tmp_path):
    simulate("spacewarps", rows=30, seed=0, out=str(tmp_path / "set"))
    manifest = read_manifest(str(tmp_path / "set"))
    assert (manifest.bands, manifest.channels, manifest.arcsec_per_pixel) == (("g", "r", "i"), 3, 0.186)


def test_every_kind_is_drawn_and_lenses_alone_have_their_truth():
    kinds = np.repeat(["lens", *WARPS.kinds], 4)
    images, truth = render(WARPS, kinds, ("test", "kinds"), bands=GRI)
    assert len(np.unique(images.reshape(len(kinds), -1), axis=0)) == len(kinds)
    np.testing.assert_array_equal(np.isfinite(truth["theta_e"]), kinds == "lens")


def test_a_faint_lens_is_a_light_one_and_sources_have_magnitudes_of_their_own():
    """Einstein radii up to 5 arcsec about the brightest lenses, 2.2 about the faintest; a line between them."""
    _, truth = render(WARPS, np.array(["lens"] * 400), ("test", "mass"), bands=GRI)
    bright, faint = WARPS.lens_magnitude
    place = (truth["magnitude"] - bright) / (faint - bright)
    largest = WARPS.theta_e[1] + place * (WARPS.theta_e_faint - WARPS.theta_e[1])
    share = (truth["theta_e"] - WARPS.theta_e[0]) / (largest - WARPS.theta_e[0])
    assert 0 <= share.min() < 0.02
    assert 0.98 < share.max() <= 1
    assert abs(np.corrcoef(share, place)[0, 1]) < 0.15  # within its range it is uniform
    low, high = WARPS.source_magnitude
    low -= 2.5 * np.log10(1 + WARPS.clumps[1] * 10**-0.6)  # with the most clumps, as bright as they come
    assert low <= truth["source_magnitude"].min() < truth["source_magnitude"].max() <= high
    assert abs(np.corrcoef(truth["source_magnitude"], truth["magnitude"])[0, 1]) < 0.15


def test_radii_that_are_given_are_those_of_every_lens(tmp_path):
    out = simulate("spacewarps", rows=60, seed=0, theta_e=(3.0, 4.0), out=str(tmp_path / "set"))
    found = read_split(out, "train", ("theta_e", "label"))
    radii = found["theta_e"][found["label"] == 1]
    assert 3 <= radii.min() < radii.max() <= 4


def test_groups_and_bright_galaxies_are_as_frequent_as_asked():
    from raylens.data.simulate.scene import Scene

    scene = Scene(replace(WARPS, groups=0.3, bright=0.0), np.random.default_rng(0), GRI)
    scene.crowd(2000, 64)
    rows = np.unique(np.concatenate([part["row"] for part in scene.parts["sersic"]]))
    assert len(rows) / 2000 == pytest.approx(0.3 * (1 - np.exp(-4)), abs=0.03)


@pytest.mark.parametrize("kind", ["armed", "ringed"])
def test_knots_lie_where_the_young_stars_are_and_have_their_colour(kind):
    """Where knots are, the young stars of their galaxy are brighter than the mean of its field."""
    from raylens.data.simulate import physics
    from raylens.data.simulate.scene import Scene, populate

    scene = Scene(replace(WARPS, neighbours=0, groups=0, bright=0), np.random.default_rng(0), GRI)
    populate(scene, np.array([kind] * 60), 64)
    [(shape, [young])] = [(shape, parts) for shape, parts in scene.parts.items() if shape != "sersic"]
    bulges, discs, knots = scene.parts["sersic"]
    light = {name: torch.as_tensor(value) for name, value in young.items() if name not in ("row", "fluxes")}
    light |= {"flux": torch.ones(60)}
    light = physics.normalised(light) if "n" in light else light
    at = knots["row"]
    of = {name: value[at] for name, value in light.items()}
    there = physics.SHAPES[shape](of, *(torch.as_tensor(knots[name])[:, None, None] for name in ("x", "y")))
    axis = torch.linspace(-3, 3, 121)
    everywhere = physics.SHAPES[shape](light, *torch.meshgrid(axis, axis, indexing="xy"))
    assert (there[:, 0, 0] > everywhere.mean((1, 2))[at]).float().mean() > 0.9
    assert 0.15 < knots["fluxes"].sum() / young["fluxes"].sum() < 0.45
    ratio = knots["fluxes"] / knots["fluxes"][:, 2:]
    np.testing.assert_allclose(ratio, (young["fluxes"] / young["fluxes"][:, 2:])[at], rtol=1e-4)
    assert (bulges["fluxes"][:, 0] / bulges["fluxes"][:, 2]).mean() < ratio[:, 0].mean()  # redder
    assert len(discs["row"]) == 60
