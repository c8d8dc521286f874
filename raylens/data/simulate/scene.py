"""What lies in the field: lenses with their sources, and all that a lens finder mistakes for them.

A scene is a list of components of a few shapes, each with its row and its flux in every band. Components of one shape
are drawn together, whatever rows they belong to.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raylens.data.simulate import physics
from raylens.data.simulate.presets import ARMS, BANDS, BLUE, RED, YELLOW, ZERO_POINT, Preset

CHUNK = 16
"""Components drawn at a time, so that they stay in the processor's cache."""


class Scene:
    """Components of `rows` images, drawn from a preset's ranges; on real `cutouts`, without what lies there already."""

    def __init__(
        self, preset: Preset, rng: np.random.Generator, bands: list[int], *, cutouts: bool = False
    ) -> None:
        self.preset, self.rng, self.bands, self.cutouts = preset, rng, bands, cutouts
        self.parts: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def uniform(self, span: tuple[float, float], count: int | tuple[int, ...]) -> np.ndarray:
        return self.rng.uniform(*span, count)

    def angle(self, count: int) -> np.ndarray:
        return self.rng.uniform(0, np.pi, count)

    def fluxes(self, magnitude: np.ndarray, colour: tuple[float, float]) -> np.ndarray:
        """Counts in g, r and i (N, 3) of components of i-band `magnitude` and about that colour."""
        scatter = self.rng.normal(1, self.preset.colour_scatter, (len(magnitude), 1))
        if colour in self.preset.colours:
            scatter += self.uniform(self.preset.colours[colour], (len(magnitude), 1)) / colour[0] - 1
        offsets = np.array([colour[0], colour[1], 0.0])[None] * scatter
        return 10 ** (-0.4 * (magnitude[:, None] + offsets - ZERO_POINT))

    def add(self, shape: str, rows: np.ndarray, fluxes: np.ndarray, **values: np.ndarray) -> None:
        count = len(rows)
        if count:
            filled = {
                name: np.broadcast_to(value, count).astype(np.float32) for name, value in values.items()
            }
            self.parts[shape].append({"row": rows, "fluxes": fluxes.astype(np.float32), **filled})

    def galaxy(
        self, rows: np.ndarray, x: np.ndarray, y: np.ndarray, magnitude: np.ndarray, scale: float = 1.0
    ) -> dict:
        """An elliptical: Sersic index about 4, red. Returns its shape."""
        count = len(rows)
        shape = {
            "x": x,
            "y": y,
            "q": self.uniform((0.55, 0.97), count),
            "phi": self.angle(count),
            "n": self.uniform((2.5, 5.0), count),
            "radius": self.uniform(self.preset.lens_radius, count) * scale,
        }
        self.add("sersic", rows, self.fluxes(magnitude, RED), **shape)
        return shape

    def target(
        self, rows: np.ndarray, x: np.ndarray, y: np.ndarray, magnitude: np.ndarray, scale: float = 1.0
    ) -> dict:
        """The galaxy in the middle: an elliptical, or the real one of a cutout. Returns its shape."""
        if not self.cutouts:
            return self.galaxy(rows, x, y, magnitude, scale)
        return {"q": self.uniform((0.55, 0.97), len(rows)), "phi": self.angle(len(rows))}

    def spiral(
        self,
        rows: np.ndarray,
        x: np.ndarray,
        y: np.ndarray,
        magnitude: np.ndarray,
        scale: float = 1.0,
    ) -> None:
        """A red bulge in a bluer exponential disc with arms."""
        count = len(rows)
        share = self.uniform((0.15, 0.6), count)
        phi, q = self.angle(count), self.uniform((0.35, 0.95), count)
        radius = self.uniform((0.7, 1.8), count) * scale
        place = {"x": x, "y": y, "phi": phi}
        bulge = self.fluxes(magnitude - 2.5 * np.log10(share), RED)
        self.add(
            "sersic", rows, bulge, **place, q=np.sqrt(q), n=self.uniform((2, 4), count), radius=radius * 0.3
        )
        disc = self.fluxes(magnitude - 2.5 * np.log10(1 - share), YELLOW)
        self.add(
            "spiral",
            rows,
            disc,
            **place,
            q=q,
            n=np.ones(count),
            radius=radius,
            arms=self.rng.integers(2, 4, count),
            pitch=self.uniform((0.25, 0.6), count) * self.rng.choice([-1, 1], count),
            strength=self.uniform((0.3, 0.95), count),
            turn=self.uniform((0, 2 * np.pi), count),
        )

    def neighbours(self, rows: int, size: int) -> None:
        """Other galaxies, faint ones more often, anywhere but on the target."""
        count = self.rng.poisson(self.preset.neighbours, rows)
        owner = np.repeat(np.arange(rows), count)
        half = size * self.preset.pixel / 2
        angle = self.rng.uniform(0, 2 * np.pi, len(owner))
        away = np.sqrt(self.rng.uniform(1.8**2, max(1.8, 1.25 * half) ** 2, len(owner)))
        magnitude = 25 - 5 * self.rng.random(len(owner)) ** 2.0
        x, y = away * np.cos(angle), away * np.sin(angle)
        blue = self.rng.random(len(owner)) < 0.5
        for some, colour in ((blue, BLUE), (~blue, RED)):
            size_of = np.clip(10 ** (-0.12 * (magnitude[some] - 21)) * 0.5, 0.12, 1.0)
            self.add(
                "sersic",
                owner[some],
                self.fluxes(magnitude[some], colour),
                x=x[some],
                y=y[some],
                q=self.uniform((0.4, 1.0), some.sum()),
                phi=self.angle(some.sum()),
                n=self.uniform((0.8, 3.0), some.sum()),
                radius=size_of * self.uniform((0.7, 1.3), some.sum()),
            )

    def crowd(self, rows: int, size: int) -> None:
        """Red galaxies of a group, and bright ones near the edge, in the preset's share of images."""
        half = size * self.preset.pixel / 2
        for share, mean, magnitude, near, scale in (
            (self.preset.groups, 4.0, (19.0, 22.5), (1.5, max(1.5, half)), 0.5),
            (self.preset.bright, 1.0, (15.5, 18.0), (0.8 * half, 1.4 * half), 2.0),
        ):
            count = self.rng.poisson(mean, rows) * (self.rng.random(rows) < share)
            owner = np.repeat(np.arange(rows), count)
            angle = self.rng.uniform(0, 2 * np.pi, len(owner))
            away = np.sqrt(self.rng.uniform(near[0] ** 2, near[1] ** 2, len(owner)))
            bright = self.uniform(magnitude, len(owner))
            self.galaxy(owner, away * np.cos(angle), away * np.sin(angle), bright, scale)

    def draw(self, rows: int, size: int) -> tuple[Tensor, Tensor]:
        """Counts per pixel (rows, C, size, size) before seeing, and the i-band counts (rows,) of all lensed images."""
        image, lensed = torch.zeros(rows, len(self.bands), size, size), torch.zeros(rows)
        for shape, parts in self.parts.items():
            joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            for begin in range(0, len(joined["row"]), CHUNK):
                some = {
                    name: torch.as_tensor(value[begin : begin + CHUNK], device=image.device)
                    for name, value in joined.items()
                }
                fluxes, row = some.pop("fluxes"), some.pop("row")
                some["flux"] = torch.ones(len(row))
                some = physics.normalised(some) if "n" in some else some
                light = physics.integrate(physics.SHAPES[shape], some, size, self.preset.pixel)
                image.index_add_(0, row, light[:, None] * fluxes[:, self.bands, None, None])
                if shape == "lensed":
                    lensed.index_add_(0, row, light.sum((-2, -1)) * fluxes[:, BANDS.index("i")])
        return image, lensed


def populate(scene: Scene, kinds: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Put into each row what its kind says; returns the truth of each row, NaN where a kind has none."""
    preset, rng, count = scene.preset, scene.rng, len(kinds)
    x, y = rng.normal(0, preset.offcentre * preset.pixel, (2, count))
    magnitude = scene.uniform(preset.lens_magnitude, count)
    truth = {name: np.full(count, np.nan) for name in TRUTH} | {"magnitude": magnitude, "kind": kinds}
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        _KINDS[kind](scene, rows, x[rows], y[rows], magnitude[rows], truth)
    if not scene.cutouts:
        scene.neighbours(count, size)
        if preset.groups or preset.bright:
            scene.crowd(count, size)
    return truth


TRUTH = ("theta_e", "axis_ratio", "shear", "source_offset", "source_magnitude", "magnitude")


def _lens(
    scene: Scene, rows: np.ndarray, x: np.ndarray, y: np.ndarray, magnitude: np.ndarray, truth: dict
) -> None:
    preset, count = scene.preset, len(rows)
    smallest, largest = preset.theta_e
    if preset.theta_e_faint is not None:
        bright, faint = preset.lens_magnitude
        largest = np.interp(magnitude, (bright, faint), (largest, preset.theta_e_faint))
    theta_e = scene.rng.uniform(smallest, largest, count)
    light = scene.target(rows, x, y, magnitude)
    shear = scene.rng.normal(0, preset.shear, (2, count))
    mass = {
        "lens_x": x,
        "lens_y": y,
        "lens_q": np.clip(light["q"] + scene.rng.normal(0, 0.08, count), 0.45, 0.98),
        "lens_phi": light["phi"] + scene.rng.normal(0, 0.1, count),
        "lens_theta_e": theta_e,
        "lens_gamma1": shear[0],
        "lens_gamma2": shear[1],
    }
    away = theta_e * preset.offset[1] * np.sqrt(scene.uniform((0, 1), count))
    turn = scene.uniform((0, 2 * np.pi), count)
    sx, sy = x + away * np.cos(turn), y + away * np.sin(turn)
    if preset.source_magnitude:
        source = scene.uniform(preset.source_magnitude, count)
    else:
        source = np.minimum(magnitude + scene.uniform(preset.contrast, count), preset.faintest)
    radius = scene.uniform(preset.source_radius, count)
    disc = {
        "q": scene.uniform((0.4, 1), count),
        "phi": scene.angle(count),
        "n": scene.uniform((0.7, 1.8), count),
    }
    scene.add("lensed", rows, scene.fluxes(source, BLUE), x=sx, y=sy, radius=radius, **disc, **mass)
    clumps = scene.rng.integers(int(preset.clumps[0]), int(preset.clumps[1]) + 1, count)
    which = np.repeat(np.arange(count), clumps)
    spread = scene.rng.normal(0, 0.8, (2, len(which))) * radius[which]
    fainter = scene.uniform((1.5, 3.0), len(which))
    scene.add(
        "lensed",
        rows[which],
        scene.fluxes(source[which] + fainter, BLUE),
        x=sx[which] + spread[0],
        y=sy[which] + spread[1],
        radius=radius[which] * 0.3,
        q=np.ones(len(which)),
        phi=np.zeros(len(which)),
        n=np.ones(len(which)),
        **{name: value[which] for name, value in mass.items()},
    )
    clumped = 1 + np.bincount(which, 10 ** (-0.4 * fainter), count)
    found = {
        "theta_e": theta_e,
        "axis_ratio": mass["lens_q"],
        "shear": np.hypot(*shear),
        "source_offset": away,
        "source_magnitude": source - 2.5 * np.log10(clumped),
    }
    for name, value in found.items():
        truth[name][rows] = value


def _elliptical(
    scene: Scene, rows: np.ndarray, x: np.ndarray, y: np.ndarray, magnitude: np.ndarray, truth: dict
) -> None:
    scene.galaxy(rows, x, y, magnitude)


def _spiral(
    scene: Scene, rows: np.ndarray, x: np.ndarray, y: np.ndarray, magnitude: np.ndarray, truth: dict
) -> None:
    scene.spiral(rows, x, y, magnitude)


def _armed(
    scene: Scene, rows: np.ndarray, x: np.ndarray, y: np.ndarray, magnitude: np.ndarray, truth: dict
) -> None:
    """A spiral with a red bulge and bluer arms, narrow and knotty: each of them looks like an arc."""
    rng, count = scene.rng, len(rows)
    disc, light = _bulge_and_disc(scene, rows, x, y, magnitude)
    arms = rng.integers(1, 4, count)
    pitch = scene.uniform((0.2, 0.6), count) * rng.choice([-1, 1], count)
    turn, sharp = scene.uniform((0, 2 * np.pi), count), scene.uniform((1.0, 8.0), count)
    scene.add("young", rows, light, **disc, n=np.ones(count), arms=arms, pitch=pitch, turn=turn, sharp=sharp)
    at, fluxes = _knots(scene, light)
    away = disc["radius"][at] * scene.uniform((0.5, 1.8), len(at))
    angle = np.log(away) / np.tan(pitch[at]) - turn[at] + rng.normal(0, 0.15, len(at))
    angle += 2 * np.pi * rng.integers(0, arms[at]) / arms[at]
    _put(scene, rows, disc, at, fluxes, away * np.cos(angle), disc["q"][at] * away * np.sin(angle))


def _aligned(
    scene: Scene, rows: np.ndarray, x: np.ndarray, y: np.ndarray, magnitude: np.ndarray, truth: dict
) -> None:
    """A red galaxy with narrow, bluer ones beside it by chance: as an arc, and on one side as well as on all."""
    scene.target(rows, x, y, magnitude)
    near = np.repeat(rows, scene.rng.integers(1, 4, len(rows)))
    at = np.searchsorted(rows, near)
    away, turn = scene.uniform((1.0, 5.0), len(near)), scene.uniform((0, 2 * np.pi), len(near))
    scene.add(
        "sersic",
        near,
        scene.fluxes(magnitude[at] + scene.uniform((1.0, 4.0), len(near)), ARMS),
        x=x[at] + away * np.cos(turn),
        y=y[at] + away * np.sin(turn),
        q=scene.uniform((0.15, 0.5), len(near)),
        phi=scene.angle(len(near)),
        n=scene.uniform((0.7, 1.5), len(near)),
        radius=scene.uniform((0.3, 1.2), len(near)),
    )


def _faint(
    scene: Scene, rows: np.ndarray, x: np.ndarray, y: np.ndarray, magnitude: np.ndarray, truth: dict
) -> None:
    """A galaxy of the field, too faint to be the lens in any system that could be found."""
    fainter, small = magnitude + scene.uniform((2.0, 4.0), len(rows)), 0.4
    truth["magnitude"][rows] = fainter
    red = scene.rng.random(len(rows)) < 0.4
    scene.galaxy(rows[red], x[red], y[red], fainter[red], small)
    scene.spiral(rows[~red], x[~red], y[~red], fainter[~red], small)


def _merger(
    scene: Scene, rows: np.ndarray, x: np.ndarray, y: np.ndarray, magnitude: np.ndarray, truth: dict
) -> None:
    """Two or three galaxies close together, half of them with a tidal tail."""
    scene.target(rows, x, y, magnitude)
    for often in (1.0, 0.4):
        some = scene.rng.random(len(rows)) < often
        away, turn = scene.uniform((0.8, 2.6), some.sum()), scene.uniform((0, 2 * np.pi), some.sum())
        at = x[some] + away * np.cos(turn), y[some] + away * np.sin(turn)
        fainter = magnitude[some] + scene.uniform((0.7, 4.0), some.sum())
        blue = scene.rng.random(some.sum()) < 0.5
        scene.galaxy(rows[some][~blue], at[0][~blue], at[1][~blue], fainter[~blue], 0.4)
        scene.spiral(rows[some][blue], at[0][blue], at[1][blue], fainter[blue], 0.35)
    tail = scene.rng.random(len(rows)) < 0.5
    _arc(scene, rows[tail], x[tail], y[tail], magnitude[tail] + 3.0, extent=(0.3, 0.8), colour=YELLOW)


def _ring(
    scene: Scene, rows: np.ndarray, x: np.ndarray, y: np.ndarray, magnitude: np.ndarray, truth: dict
) -> None:
    """A ring galaxy: blue, round its own centre, without a counter-image."""
    scene.target(rows, x, y, magnitude, 0.6)
    _arc(scene, rows, x, y, magnitude + 2.0, extent=(2.0, 20.0), colour=BLUE)


def _ringed(
    scene: Scene, rows: np.ndarray, x: np.ndarray, y: np.ndarray, magnitude: np.ndarray, truth: dict
) -> None:
    """A disc galaxy with a red bulge and a bluer, knotty ring, most of it or all: as an Einstein ring."""
    count = len(rows)
    disc, light = _bulge_and_disc(scene, rows, x, y, magnitude)
    extent = np.where(scene.rng.random(count) < 0.7, 20.0, scene.uniform((1.0, 3.0), count))
    width = disc["radius"] * scene.uniform((0.1, 0.3), count)
    turn = scene.uniform((-np.pi, np.pi), count)
    scene.add("annulus", rows, light, **disc, width=width, extent=extent, turn=turn)
    at, fluxes = _knots(scene, light)
    away = scene.rng.normal(disc["radius"][at], width[at] / 2)
    angle = scene.uniform((0, 2 * np.pi), len(at))
    wide = np.sqrt(disc["q"][at])
    _put(scene, rows, disc, at, fluxes, away * np.cos(angle) / wide, away * np.sin(angle) * wide)


def _bulge_and_disc(
    scene: Scene, rows: np.ndarray, x: np.ndarray, y: np.ndarray, magnitude: np.ndarray
) -> tuple[dict, np.ndarray]:
    """A red bulge in a yellow disc; returns the disc's shape, and the fluxes (N, 3) of young stars yet to be drawn."""
    count = len(rows)
    bulge, young = scene.uniform((0.25, 0.75), count), scene.uniform((0.2, 0.7), count)
    disc = {"x": x, "y": y, "q": scene.uniform((0.45, 1.0), count), "phi": scene.angle(count)}
    disc["radius"] = scene.uniform((0.8, 2.6), count)
    size = {**disc, "q": np.sqrt(disc["q"]), "radius": scene.uniform((0.25, 0.7), count)}
    light = scene.fluxes(magnitude - 2.5 * np.log10(bulge), RED)
    scene.add("sersic", rows, light, **size, n=scene.uniform((1.5, 4.0), count))
    light = scene.fluxes(magnitude - 2.5 * np.log10((1 - bulge) * (1 - young)), YELLOW)
    scene.add("sersic", rows, light, **disc, n=np.ones(count))
    return disc, scene.fluxes(magnitude - 2.5 * np.log10((1 - bulge) * young), ARMS)


def _knots(scene: Scene, light: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Star-forming knots, together about 0.3 of `light` (N, 3): of which galaxy each is, and its fluxes (M, 3)."""
    count = scene.rng.poisson(5, len(light))
    at = np.repeat(np.arange(len(light)), count)
    return at, light[at] * (scene.rng.exponential(0.3, len(at)) / np.maximum(count[at], 1))[:, None]


def _put(
    scene: Scene,
    rows: np.ndarray,
    disc: dict,
    at: np.ndarray,
    fluxes: np.ndarray,
    across: np.ndarray,
    along: np.ndarray,
) -> None:
    """Add knots at places along the axes of the discs that they belong to."""
    cos, sin = np.cos(disc["phi"][at]), np.sin(disc["phi"][at])
    scene.add(
        "sersic",
        rows[at],
        fluxes,
        x=disc["x"][at] + cos * across - sin * along,
        y=disc["y"][at] + sin * across + cos * along,
        q=np.ones(len(at)),
        phi=np.zeros(len(at)),
        n=np.ones(len(at)),
        radius=scene.uniform((0.05, 0.25), len(at)),
    )


def _arc(
    scene: Scene, rows: np.ndarray, x: np.ndarray, y: np.ndarray, magnitude: np.ndarray, extent, colour
) -> None:
    count = len(rows)
    scene.add(
        "annulus",
        rows,
        scene.fluxes(magnitude + scene.uniform((-0.5, 1.0), count), colour),
        x=x + scene.rng.normal(0, 0.1, count),
        y=y + scene.rng.normal(0, 0.1, count),
        q=scene.uniform((0.6, 1.0), count),
        phi=scene.angle(count),
        radius=scene.uniform((0.9, 2.4), count),
        width=scene.uniform((0.15, 0.4), count),
        extent=scene.uniform(extent, count),
        turn=scene.uniform((-np.pi, np.pi), count),
    )


def _plain(
    scene: Scene, rows: np.ndarray, x: np.ndarray, y: np.ndarray, magnitude: np.ndarray, truth: dict
) -> None:
    """A cutout as it is."""


def _star(
    scene: Scene, rows: np.ndarray, x: np.ndarray, y: np.ndarray, magnitude: np.ndarray, truth: dict
) -> None:
    count, small = len(rows), 0.3 * scene.preset.pixel
    shape = {
        "q": np.ones(count),
        "phi": np.zeros(count),
        "n": np.full(count, 0.5),
        "radius": np.full(count, small),
    }
    scene.add("sersic", rows, scene.fluxes(magnitude, YELLOW), x=x, y=y, **shape)


_KINDS = {
    "lens": _lens,
    "elliptical": _elliptical,
    "spiral": _spiral,
    "armed": _armed,
    "aligned": _aligned,
    "ringed": _ringed,
    "faint": _faint,
    "merger": _merger,
    "ring": _ring,
    "star": _star,
    "plain": _plain,
}
