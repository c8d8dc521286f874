"""Lenses with and without dark matter's substructure: DeepLense's Model I, II and III, and its older `common` set;
and pairs for super-resolution, `sr-pairs`: Model I by a camera of half the resolution, and twice as fine without noise.

Models follow DeepLenseSim (mwt5345/DeepLenseSim). Substructure is cold dark matter's subhaloes, point masses (`cdm`,
`sphere`), or a vortex of axions, a rod of mass (`axion`, `vort`) whose length follows from the axion's mass. Where the
published code departs from its own physics, so does `as_published` alone:

- Einstein radii from luminosity distances and their difference; here from angular-diameter distances.
- Exactly 25 subhaloes in Models I to III; here a Poisson draw of that mean.
- A vortex of 100 points (about 25 in `common`); here a rod in closed form, or `discrete` points.
- Model I counts its noise twice and is cut off at 0; Models II and III are twice the noiseless image; here noise comes
  once. What the published Model III was made with is not known.
- In `common` shear and source lean by at most 6.3 degrees, as 0 to 2 pi taken for degrees do; here by any angle.
- `sr-pairs` are of 0.05 and 0.025 arcsec a pixel, half of Model I's field; here they show all of it.

Masses of subhaloes follow dN/dm ~ m^-0.9 either way, which the published code draws; its comment has m^-1.9, for which
there is `slope`.

No code is known that makes the published `common`: PyLensing's (DeepLense-Unsupervised) draws the lens's light, one
Einstein radius, and a hundredth of the substructure's mass. Ranges here are of fits to 30 published images
(benchmarks/common.py), which describe the ten without substructure to the noise; what they did not tell is said at
COMMON.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from raylens.data.shards import HIGH
from raylens.data.simulate.presets import checked_pixel, margin
from raylens.errors import ConfigError
from raylens.seeds import one_thread
from raylens.seeds import seed as seeded

VORTEX = ("vortex_x", "vortex_y", "vortex_length", "vortex_angle", "vortex_theta_e")
"""What is true of a vortex: middle, length and Einstein radius of the whole in arcsec, angle in radians."""
TOGETHER = 32
"""Images drawn at a time."""
HEAVIEST = 10
"""Factor at which the largest share of mass in substructure, of `common`, is about half."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """What records the image: a Gaussian point-spread function, an exposure, and its noise.

    Light is counted in the unit of the recipe's source; a magnitude is turned into counts a second by `zero_point`.
    """

    fwhm: float
    """Arcsec."""
    exposure: tuple[float, float]
    """Seconds; log-uniform between the two."""
    sky: float
    """Counts a second and square arcsec, of which the shot noise remains."""
    rms: float
    """Deviation of a pixel's further noise: counts a second."""
    zero_point: float | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Lens, source, substructure and camera of a set; lengths in arcsec, masses in those of the sun."""

    name: str
    classes: tuple[str, str, str]
    """Without substructure, with subhaloes, with a vortex."""
    size: int
    pixel: float
    band: str
    halo: float | None
    """Mass of the main halo; without one theta_e is given."""
    theta_e: tuple[float, float] | None
    e1: float
    """Ellipticity of the lens along x."""
    shear: tuple[float, float]
    turned: float
    """The largest angle of the shear from x, and of the source's axis where it is random; radians."""
    level: tuple[float, float] | None
    """Source's brightness at its half-light radius, per square arcsec and second; without one `magnitude` is given."""
    magnitude: float | None
    radius: float
    """Half-light radius of the source, circularised: the root of major times minor axis."""
    index: float
    """Sersic index of the source."""
    ellipticity: tuple[float, float] | None
    """e1 and e2 of the source; random axis ratios of 0.4 to 1 without."""
    offset: float
    """The source's largest distance from the middle: along each axis if its ellipticity is given, else in radius."""
    subhaloes: int
    """How many: the mean of a Poisson draw, or exactly, where they are equal parts of `share`."""
    masses: tuple[float, float]
    """Subhaloes' lowest and highest; both 0: each an equal part of `share`."""
    slope: float
    """Of dN/dm."""
    share: tuple[float, float]
    """Mass of the vortex, of that of the main halo; in `common` of the subhaloes together too."""
    ring: tuple[float, float]
    """Where subhaloes lie: uniform in radius."""
    length: tuple[float, float] | None
    """Of the vortex; without one it follows from the axion's mass."""
    middle: float
    """Standard deviation of the vortex' middle along each axis; without any it is the halo's."""
    camera: Camera
    noisy_twice: bool = False
    """Whether published images count their noise twice."""
    finer: int = 1
    """How many times finer each image's twin is: the same light through the same seeing, without noise."""
    discrete: int = 0
    """Points that the vortex is made of; a rod without any."""
    as_published: bool = False


MODEL_I = Recipe(
    name="model-i",
    classes=("no_sub", "cdm", "axion"),
    size=150,
    pixel=0.05,
    band="i",
    halo=1e12,
    theta_e=None,
    e1=0.1,
    shear=(0.05, 0.05),
    turned=0.0,
    level=(20.0, 20.0),
    magnitude=None,
    radius=0.25,
    index=1.0,
    ellipticity=(-0.1, 0.1),
    offset=0.35,
    subhaloes=25,
    masses=(1e6, 1e10),
    slope=-0.9,
    share=(0.03, 0.03),
    ring=(0.25, 2.0),
    length=None,
    middle=0.0,
    camera=Camera(fwhm=0.087, exposure=(1e3, 10**3.5), sky=0.0, rms=0.01),
    noisy_twice=True,
)
"""150 pixels of 0.05 arcsec, signal to noise about 25."""

MODEL_II = replace(
    MODEL_I,
    name="model-ii",
    size=64,
    pixel=0.101,
    band="vis",
    level=None,
    magnitude=20.0,
    # lenstronomy's Euclid: 4 exposures of 566 s, read noise 4.2 each, sky of 22.3 magnitudes a square arcsec
    camera=Camera(
        fwhm=0.16,
        exposure=(2264.0, 2264.0),
        sky=10 ** (-0.4 * (22.3 - 25.72)),
        rms=2 * 4.2 / 2264,
        zero_point=25.72,
    ),
)
"""64 pixels of Euclid's VIS."""

MODEL_III = replace(
    MODEL_II,
    name="model-iii",
    pixel=0.08,
    band="f160w",
    camera=Camera(
        fwhm=0.08,
        exposure=(5400.0, 5400.0),
        sky=10 ** (-0.4 * (22.3 - 25.96)),
        rms=4.0 / 5400,
        zero_point=25.96,
    ),
)
"""64 pixels of Hubble's WFC3 in F160W."""

COMMON = Recipe(
    name="common",
    classes=("no", "sphere", "vort"),
    size=150,
    pixel=0.05,
    band="i",
    halo=None,
    theta_e=(0.95, 1.6),
    e1=0.0,
    shear=(0.0, 0.3),
    turned=2 * math.pi,
    level=(400.0, 400.0),
    magnitude=None,
    radius=0.5,
    index=1.5,
    ellipticity=None,
    offset=0.5,
    subhaloes=10,
    masses=(0.0, 0.0),
    slope=-0.9,
    share=(0.03, 0.055),
    ring=(0.0, 2.0),
    length=(1.4, 3.7),
    middle=0.5,
    camera=Camera(fwhm=0.2, exposure=(100.0, 100.0), sky=40.0, rms=0.0),
)
"""150 pixels of 0.05 arcsec: a round halo, 100 counts a pixel at the source's half-light radius and 10 of sky.

By 30 fits light, noise, shear, radius and index of the source are certain. That Einstein radii, and lengths and places
of the vortex vary is, too, but their distribution is a guess. The share of mass is measured of vortices, and taken over
for subhaloes; their number is not determined: of 5, 10, 15 and 25 ten disturb images most nearly as the published do.
"""

SR_PAIRS = replace(MODEL_I, name="sr-pairs", size=75, pixel=0.1, finer=2)
"""75 pixels of 0.1 arcsec with noise, and 150 of 0.05 without; as published of 0.05 and 0.025, half the field."""

RECIPES = {recipe.name: recipe for recipe in (MODEL_I, MODEL_II, MODEL_III, COMMON, SR_PAIRS)}


def recipe(
    name: str,
    *,
    size: int | None = None,
    pixel: float | None = None,
    slope: float | None = None,
    discrete: int | None = None,
    heavier: float | None = None,
    as_published: bool = False,
) -> Recipe:
    """The recipe called `name`; at another `size` it shows the same field, if no `pixel` in arcsec is given.

    Substructure has `heavier` times its mass, which makes classes easier to tell. Raises ConfigError.
    """
    found = RECIPES[name]
    if as_published and name == "sr-pairs":
        found = replace(found, pixel=0.05)
    if slope is not None:
        if found.masses == (0.0, 0.0):
            raise ConfigError(f"--slope is of subhaloes' masses, and those of preset {name} are all alike")
        if not -5 <= slope <= 5:
            raise ConfigError(
                f"--slope {slope:g} is no slope of masses; give one between -5 and 5, such as -1.9"
            )
        found = replace(found, slope=slope)
    if heavier is not None:
        if not 0 < heavier <= HEAVIEST:
            raise ConfigError(
                f"--heavier {heavier:g} is no factor of substructure's mass; give more than 0 and at most {HEAVIEST}"
            )
        (low, high), (least, most) = found.masses, found.share
        found = replace(
            found, masses=(heavier * low, heavier * high), share=(heavier * least, heavier * most)
        )
    if size is not None:
        if size < 16:
            raise ConfigError(f"--size {size} is too small for an image; give at least 16")
        found = replace(found, size=size, pixel=found.pixel * found.size / size)
    if pixel is not None:
        found = replace(found, pixel=checked_pixel(pixel))
    if discrete is not None and discrete < 1:
        raise ConfigError(f"--discrete {discrete} makes no vortex; give at least 1 point")
    points = (25 if name == "common" else 100) if as_published else 0
    if as_published:
        found = replace(found, turned=math.radians(found.turned))
    return replace(found, discrete=discrete or points, as_published=as_published)


@cache
def einstein_radius(
    mass: float, *, as_published: bool = False, z_lens: float = 0.5, z_source: float = 1.0
) -> float:
    """Arcsec, of a point or an isothermal sphere's projected mass: sqrt(4 G M D_ls / (c^2 D_l D_s)).

    Flat LCDM of H0 70 and Om 0.3; angular-diameter distances. As published luminosity distances, and their difference.
    """
    from astropy import constants, units
    from astropy.cosmology import FlatLambdaCDM

    cosmology = FlatLambdaCDM(H0=70, Om0=0.3, Ob0=0.05)
    if as_published:
        near, far = (cosmology.luminosity_distance(z) for z in (z_lens, z_source))
        between = far - near
    else:
        comoving = [cosmology.comoving_distance(z) for z in (z_lens, z_source)]  # space is flat
        near, far = comoving[0] / (1 + z_lens), comoving[1] / (1 + z_source)
        between = (comoving[1] - comoving[0]) / (1 + z_source)
    squared = 4 * constants.G * mass * units.solMass / constants.c**2 * between / (near * far)
    return float((np.sqrt(squared.decompose().value) * units.rad).to_value(units.arcsec))


def rod(x: Tensor, y: Tensor, theta_e: Tensor, half: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Deflection by a thin straight rod through the middle, of total Einstein radius `theta_e` and length 2 `half`.

    The integral of a point's, theta_e^2 r / |r|^2, along it.
    """
    cos, sin = torch.cos(angle), torch.sin(angle)
    along, across = cos * x + sin * y, cos * y - sin * x
    strength = theta_e**2 / (2 * half)
    before, after = along + half, along - half
    logarithm = 0.5 * torch.log((before**2 + across**2 + 1e-12) / (after**2 + across**2 + 1e-12))
    turn = torch.atan2(across, after) - torch.atan2(across, before)
    a, b = strength * logarithm, strength * turn
    return cos * a - sin * b, sin * a + cos * b


def arcs(light: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Surface brightness (N, H, W) of a Sersic source behind halo, shear, points `m<k>_...` and a rod `rod_...`."""
    from raylens.data.simulate import physics

    def of(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): values for key, values in light.items() if key.startswith(prefix)}

    source_x, source_y = physics.deflect(of("lens_"), x, y)
    for index in range(sum(key.startswith("m") and key.endswith("_x") for key in light)):
        at_x, at_y, theta_e = physics.column(light, f"m{index}_x", f"m{index}_y", f"m{index}_theta_e")
        ax, ay = physics.func.reduced_deflection_angle_point(at_x, at_y, theta_e, x, y, s=1e-6)
        source_x, source_y = source_x - ax, source_y - ay
    if "rod_theta_e" in light:
        at_x, at_y, *shape = physics.column(
            light, *(f"rod_{name}" for name in ("x", "y", "theta_e", "half", "angle"))
        )
        ax, ay = rod(x - at_x, y - at_y, *shape)
        source_x, source_y = source_x - ax, source_y - ay
    return physics.sersic(light, source_x, source_y)


@one_thread()
def render(made: Recipe, kinds: np.ndarray, key: tuple, *, device: str = "cpu") -> tuple[np.ndarray, dict]:
    """Images float32 (N, 1, size, size) of those classes, and their truth by column; no Ray is needed.

    Twins, of the column `high`, are in the brightness of the image's own, larger pixels.
    """
    rng = np.random.default_rng(seeded(*key))
    lights, truth = populate(made, kinds, rng)
    fine = replace(made, size=made.size * made.finer, pixel=made.pixel / made.finer)
    rates = np.empty((len(kinds), 1, fine.size, fine.size), np.float32)
    for kind in dict.fromkeys(kinds):  # those of a class have the same parameters
        rows = np.flatnonzero(kinds == kind)
        for begin in range(0, len(rows), TOGETHER):
            some = rows[begin : begin + TOGETHER]
            rates[some, 0] = seen(fine, [lights[row] for row in some], device)
    exposure = np.exp(rng.uniform(*np.log(made.camera.exposure), (len(kinds), 1, 1, 1)))
    if made.finer == 1:
        return record(made, rates, exposure, rng), truth
    high = made.finer**2 * rates * (exposure if _in_counts(made) else 1)
    return record(made, binned(rates, made.finer), exposure, rng), truth | {HIGH: high.astype(np.float32)}


def seen(made: Recipe, lights: list[dict[str, float]], device: str) -> np.ndarray:
    """Counts a second and pixel (N, size, size), after seeing and before noise."""
    from raylens.data.simulate import camera, physics

    edge = margin(RECIPES[made.name].pixel / made.finer, made.pixel)
    wide = made.size + 2 * edge
    with torch.inference_mode(), torch.device(device):
        held = {name: torch.tensor([one[name] for one in lights], dtype=torch.float32) for name in lights[0]}
        clean = physics.integrate(arcs, _levelled(held), wide, made.pixel)
        blurred = camera.blur(clean[:, None], torch.tensor([[made.camera.fwhm]]), None, made.pixel, edge)
        return blurred[:, 0, edge:-edge, edge:-edge].cpu().numpy()


def _levelled(light: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sersic parameters with their constant, and their level from a total flux where that is given."""
    from raylens.data.simulate import physics

    return physics.normalised(light) if "flux" in light else light | {"k": physics.func.k_sersic(light["n"])}


def populate(
    made: Recipe, kinds: np.ndarray, rng: np.random.Generator
) -> tuple[list[dict[str, float]], dict]:
    """The parameters of each image's light and lens, and the truth."""
    lights, truth = [], {name: [] for name in ("log10_mass", "theta_e", "source_x", "source_y")}
    truth |= {name: [] for name in (*VORTEX, "sub_x", "sub_y", "sub_theta_e", "sub_log10_mass")}
    for kind in kinds:
        if made.theta_e:
            main = rng.uniform(*made.theta_e)
        else:
            main = einstein_radius(made.halo, as_published=made.as_published)
        light = _source(made, rng) | _lens(made, main, rng)
        points, vortex = np.zeros((0, 3)), {}
        if kind == made.classes[1]:
            points = _subhaloes(made, main, rng)
        elif kind == made.classes[2]:
            vortex, points = _vortex(made, main, rng)
        held = {
            f"m{k}_{name}": v
            for k, one in enumerate(points)
            for name, v in zip(("x", "y", "theta_e"), one, strict=True)
        }
        lights.append(light | held)
        if kind == made.classes[2] and not made.discrete:
            rod = {name: vortex[name] for name in ("x", "y", "theta_e", "angle")} | {
                "half": vortex["length"] / 2
            }
            lights[-1] |= {f"rod_{name}": value for name, value in rod.items()}
        mass = made.halo or 1.0
        row = {
            "log10_mass": vortex.get("log10_mass", math.nan),
            "theta_e": main,
            "source_x": light["x"],
            "source_y": light["y"],
            **{name: vortex.get(name.removeprefix("vortex_"), math.nan) for name in VORTEX},
            "sub_x": points[:, 0],
            "sub_y": points[:, 1],
            "sub_theta_e": points[:, 2],
            "sub_log10_mass": np.log10(mass * (points[:, 2] / main) ** 2) if made.halo else np.zeros(0),
        }
        for name, value in row.items():
            truth[name].append(value)
    with_subhaloes = [light for kind, light in zip(kinds, lights, strict=True) if kind == made.classes[1]]
    most = max(map(_points, with_subhaloes), default=0)
    for light in with_subhaloes:  # as many for all of a class; what is added has no mass
        light |= {f"m{k}_{name}": 0.0 for k in range(_points(light), most) for name in ("x", "y", "theta_e")}
    single = ("log10_mass", "theta_e", "source_x", "source_y", *VORTEX)
    return lights, {name: np.array(values) if name in single else values for name, values in truth.items()}


def _points(light: dict[str, float]) -> int:
    """How many points of mass there are behind the parameters of an image."""
    return sum(key.startswith("m") and key.endswith("_theta_e") for key in light)


def _source(made: Recipe, rng: np.random.Generator) -> dict[str, float]:
    if made.ellipticity is None:
        radius, angle = rng.uniform(0, made.offset), rng.uniform(0, 2 * math.pi)
        x, y = radius * math.cos(angle), radius * math.sin(angle)
        q, phi = rng.uniform(0.4, 1), rng.uniform(0, made.turned)
    else:
        x, y = rng.uniform(-made.offset, made.offset, 2)
        q, phi = axis_ratio(*made.ellipticity)
    major = made.radius / math.sqrt(q)
    light = {"x": x, "y": y, "q": q, "phi": phi, "n": made.index, "radius": major}
    if made.level is None:
        return light | {"flux": 10 ** (-0.4 * (made.magnitude - made.camera.zero_point))}
    level = rng.uniform(*made.level)
    return light | {"level": level}


def _lens(made: Recipe, main: float, rng: np.random.Generator) -> dict[str, float]:
    """Isothermal halo and shear."""
    q, phi = axis_ratio(made.e1, 0.0)
    shear = rng.uniform(*made.shear)
    turn = 2 * rng.uniform(0, made.turned) if made.turned else 0.0
    return {
        "lens_x": 0.0,
        "lens_y": 0.0,
        "lens_q": min(q, 0.9999),  # a sphere is the limit of ellipsoids, and 0 / 0 itself
        "lens_phi": phi,
        "lens_theta_e": main,
        "lens_gamma1": shear * math.cos(turn),
        "lens_gamma2": shear * math.sin(turn),
    }


def _subhaloes(made: Recipe, main: float, rng: np.random.Generator) -> np.ndarray:
    """Place and Einstein radius (K, 3) of point masses."""
    equal = made.masses == (0.0, 0.0)
    count = made.subhaloes if equal or made.as_published else rng.poisson(made.subhaloes)
    radius, angle = rng.uniform(*made.ring, count), rng.uniform(0, 2 * math.pi, count)
    if equal:
        theta_e = np.full(count, main * math.sqrt(_share(made, rng) / count))
    else:
        theta_e = main * np.sqrt(power_law(rng, count, *made.masses, made.slope) / made.halo)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), theta_e], axis=1)


def _share(made: Recipe, rng: np.random.Generator) -> float:
    low, high = made.share
    return rng.uniform(low, high) if high > low else low


def _vortex(made: Recipe, main: float, rng: np.random.Generator) -> tuple[dict[str, float], np.ndarray]:
    """What is true of a vortex, and where it is not a rod the points evenly along it."""
    vortex = {"angle": rng.uniform(0, math.pi)}
    if made.length is None:
        vortex["log10_mass"] = rng.uniform(-24, -22)
        half = 0.03 / 10 ** (vortex["log10_mass"] + 22)
    else:
        half = rng.uniform(*made.length) / 2
    x, y = rng.normal(0, made.middle, 2) if made.middle else (0.0, 0.0)
    theta_e = main * math.sqrt(_share(made, rng))
    vortex |= {"x": x, "y": y, "theta_e": theta_e, "length": 2 * half}
    if not made.discrete:
        return vortex, np.zeros((0, 3))
    along = np.linspace(-half, half, made.discrete) if made.discrete > 1 else np.zeros(1)
    each = np.full(made.discrete, theta_e / math.sqrt(made.discrete))
    return vortex, np.stack(
        [x + along * math.cos(vortex["angle"]), y + along * math.sin(vortex["angle"]), each], axis=1
    )


def power_law(rng: np.random.Generator, count: int, low: float, high: float, slope: float) -> np.ndarray:
    """Draws (count,) between `low` and `high` with density m^slope."""
    u = rng.random(count)
    if abs(slope + 1) < 1e-9:
        return low * (high / low) ** u
    power = slope + 1
    return (low**power + u * (high**power - low**power)) ** (1 / power)


def axis_ratio(e1: float, e2: float) -> tuple[float, float]:
    """Axis ratio and angle of an ellipticity of modulus (1 - q) / (1 + q)."""
    modulus = math.hypot(e1, e2)
    return (1 - modulus) / (1 + modulus), 0.5 * math.atan2(e2, e1)


def binned(images: np.ndarray, factor: int) -> np.ndarray:
    """Images (N, C, H, W) with the sums of factor x factor pixels as their pixels."""
    rows, bands, height, width = images.shape
    return images.reshape(rows, bands, height // factor, factor, width // factor, factor).sum((3, 5))


def record(made: Recipe, rates: np.ndarray, exposure: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What the camera makes of counts a second (N, 1, H, W) in `exposure` (N, 1, 1, 1) seconds.

    Model I's and `common`'s are counts, the others counts a second.
    """
    camera = made.camera
    rates = np.clip(rates.astype(np.float64), 0, None)
    if made.as_published and camera.zero_point:
        return (2 * rates).astype(np.float32)
    sky = camera.sky * made.pixel**2
    counts = rng.poisson((rates + sky) * exposure) - sky * exposure
    counts = counts + camera.rms * exposure * rng.standard_normal(rates.shape)
    if _in_counts(made):
        if made.as_published and made.noisy_twice:
            counts = rng.poisson(np.clip(counts, 0, None))
        return counts.astype(np.float32)
    return (counts / exposure).astype(np.float32)


def _in_counts(made: Recipe) -> bool:
    """Whether images are kept in counts, as those of Model I and `common` are."""
    return made.level is not None
