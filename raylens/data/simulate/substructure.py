"""Lenses with and without dark matter's substructure: DeepLense's Model I, II and III, and its older `common` set;
and pairs for super-resolution, `sr-pairs`: Model I by a camera of half the resolution, and twice as fine without noise.

Recipes follow DeepLenseSim (mwt5345/DeepLenseSim) and PyLensing (DeepLense-Unsupervised). Substructure is cold dark
matter's subhaloes, point masses (`cdm`, `sphere`), or a vortex of axions, a rod of mass (`axion`, `vort`) whose length
follows from the axion's mass. Where the published code departs from its own physics, so does `as_published` alone:

- Einstein radii from luminosity distances and their difference; here from angular-diameter distances.
- Exactly 25 subhaloes in Models I to III; here a Poisson draw of that mean.
- A vortex of 100 points (25 in `common`); here a rod in closed form, or `discrete` points.
- Model I counts its noise twice and is cut off at 0; Models II and III are twice the noiseless image; here noise comes
  once. What the published Model III was made with is not known.
- `common` shares a hundredth of the halo out by Einstein radii, which makes it a 2500th; here by mass.
- `sr-pairs` are of 0.05 and 0.025 arcsec a pixel, half of Model I's field; here they show all of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from raylens.data.shards import HIGH
from raylens.data.simulate.presets import MARGIN, checked_pixel
from raylens.errors import ConfigError
from raylens.seeds import one_thread
from raylens.seeds import seed as seeded

SUBHALOES = 25
"""Subhaloes of a lens, on average."""
TOGETHER = 32
"""Images drawn at a time."""


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
    theta_e: float | None
    e1: float
    """Ellipticity of the lens along x."""
    shear: tuple[float, float]
    turned: bool
    """Whether the shear's direction is random; along x if not."""
    level: tuple[float, float] | None
    """Source's brightness at its half-light radius, per square arcsec and second; without one `magnitude` is given."""
    magnitude: float | None
    radius: float
    """Half-light radius of the source, circularised: the root of major times minor axis."""
    index: float
    """Sersic index of the source."""
    ellipticity: tuple[float, float] | None
    """e1 and e2 of the source; random axis ratios of 0.7 to 1 without."""
    offset: float
    """The source's largest distance from the middle: along each axis if its ellipticity is given, else in radius."""
    lens_light: float | None
    """Brightness of the lens at its half-light radius, as of the source; dark without one."""
    masses: tuple[float, float]
    """Subhaloes' lowest and highest; both 0: each an equal part of `share`."""
    slope: float
    """Of dN/dm."""
    share: float
    """Mass of the vortex, of that of the main halo; in `common` of the subhaloes together too."""
    ring: tuple[float, float]
    """Where subhaloes lie: uniform in radius."""
    length: float | None
    """Of the vortex; without one it follows from the axion's mass."""
    camera: Camera
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
    turned=False,
    level=(20.0, 20.0),
    magnitude=None,
    radius=0.25,
    index=1.0,
    ellipticity=(-0.1, 0.1),
    offset=0.35,
    lens_light=None,
    masses=(1e6, 1e10),
    slope=-0.9,
    share=0.03,
    ring=(0.25, 2.0),
    length=None,
    camera=Camera(fwhm=0.087, exposure=(1e3, 10**3.5), sky=0.0, rms=0.01),
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
    theta_e=1.2,
    e1=0.0,
    shear=(0.0, 0.3),
    turned=True,
    level=(280.0, 360.0),  # 0.7 to 0.9 a pixel, as published; so are the lens's 1.2 and the sky's 0.1
    magnitude=None,
    radius=0.5,
    index=1.5,
    ellipticity=None,
    offset=1.2,
    lens_light=480.0,
    masses=(0.0, 0.0),
    slope=-0.9,
    share=0.01,
    ring=(0.0, 1.0),
    length=1.0,
    camera=Camera(fwhm=0.1 * 2 * math.sqrt(2 * math.log(2)), exposure=(300.0, 300.0), sky=40.0, rms=0.0),
)
"""150 pixels of 0.05 arcsec with the lens's light."""

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
    as_published: bool = False,
) -> Recipe:
    """The recipe called `name`; at another `size` it shows the same field, if no `pixel` in arcsec is given.

    Raises ConfigError.
    """
    found = RECIPES[name]
    if as_published and name == "sr-pairs":
        found = replace(found, pixel=0.05)
    if slope is not None:
        if found.masses == (0.0, 0.0):
            raise ConfigError(f"--slope is of subhaloes' masses, and those of preset {name} are all alike")
        found = replace(found, slope=slope)
    if size is not None:
        if size < 16:
            raise ConfigError(f"--size {size} is too small for an image; give at least 16")
        found = replace(found, size=size, pixel=found.pixel * found.size / size)
    if pixel is not None:
        found = replace(found, pixel=checked_pixel(pixel))
    if discrete is not None and discrete < 1:
        raise ConfigError(f"--discrete {discrete} makes no vortex; give at least 1 point")
    points = (SUBHALOES if name == "common" else 100) if as_published else 0
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
        ax, ay = rod(x, y, *physics.column(light, "rod_theta_e", "rod_half", "rod_angle"))
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

    wide = made.size + 2 * MARGIN
    with torch.inference_mode(), torch.device(device):
        light = {name: torch.tensor([one[name] for one in lights]) for name in lights[0]}
        lens = {name: light.pop(name) for name in [*light] if name.startswith("own_")}
        light = _levelled(light)
        clean = physics.integrate(arcs, light, wide, made.pixel)
        if lens:
            own = _levelled({name.removeprefix("own_"): values for name, values in lens.items()})
            clean = clean + physics.integrate(physics.sersic, own, wide, made.pixel)
        blurred = camera.blur(clean[:, None], torch.tensor([[made.camera.fwhm]]), None, made.pixel)
        return blurred[:, 0, MARGIN:-MARGIN, MARGIN:-MARGIN].cpu().numpy()


def _levelled(light: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sersic parameters with their constant, and their level from a total flux where that is given."""
    from raylens.data.simulate import physics

    return physics.normalised(light) if "flux" in light else light | {"k": physics.func.k_sersic(light["n"])}


def populate(
    made: Recipe, kinds: np.ndarray, rng: np.random.Generator
) -> tuple[list[dict[str, float]], dict]:
    """The parameters of each image's light and lens, and the truth."""
    main = made.theta_e or einstein_radius(made.halo, as_published=made.as_published)
    lights, truth = [], {name: [] for name in ("log10_mass", "theta_e", "source_x", "source_y")}
    truth |= {name: [] for name in ("vortex_angle", "sub_x", "sub_y", "sub_theta_e", "sub_log10_mass")}
    for kind in kinds:
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
        lights.append(light | held | {name: v for name, v in vortex.items() if name.startswith("rod_")})
        mass = made.halo or 1.0
        row = {
            "log10_mass": vortex.get("log10_mass", math.nan),
            "theta_e": main,
            "source_x": light["x"],
            "source_y": light["y"],
            "vortex_angle": vortex.get("angle", math.nan),
            "sub_x": points[:, 0],
            "sub_y": points[:, 1],
            "sub_theta_e": points[:, 2],
            "sub_log10_mass": np.log10(mass * (points[:, 2] / main) ** 2) if made.halo else np.zeros(0),
        }
        for name, value in row.items():
            truth[name].append(value)
    if most := max(sum(key.endswith("_theta_e") and key[0] == "m" for key in light) for light in lights):
        for kind, light in zip(kinds, lights, strict=True):
            if kind == made.classes[1]:  # as many for all of a class; what is added has no mass
                light |= {
                    f"m{k}_{name}": 0.0
                    for k in range(most)
                    for name in ("x", "y", "theta_e")
                    if f"m{k}_x" not in light
                }
    single = ("log10_mass", "theta_e", "source_x", "source_y", "vortex_angle")
    return lights, {name: np.array(values) if name in single else values for name, values in truth.items()}


def _source(made: Recipe, rng: np.random.Generator) -> dict[str, float]:
    if made.ellipticity is None:
        radius, angle = rng.uniform(0, made.offset), rng.uniform(0, 2 * math.pi)
        x, y = radius * math.cos(angle), radius * math.sin(angle)
        q, phi = rng.uniform(0.7, 1), rng.uniform(0, math.pi)
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
    """Isothermal halo and shear, and the lens's light, `own_...`, where it has any."""
    q, phi = axis_ratio(made.e1, 0.0)
    shear = rng.uniform(*made.shear)
    turn = 2 * rng.uniform(0, math.pi) if made.turned else 0.0
    light = {
        "lens_x": 0.0,
        "lens_y": 0.0,
        "lens_q": min(q, 0.9999),  # a sphere is the limit of ellipsoids, and 0 / 0 itself
        "lens_phi": phi,
        "lens_theta_e": main,
        "lens_gamma1": shear * math.cos(turn),
        "lens_gamma2": shear * math.sin(turn),
    }
    if made.lens_light is not None:
        own_q = rng.uniform(0.5, 1)
        light |= {
            "own_x": 0.0,
            "own_y": 0.0,
            "own_q": own_q,
            "own_phi": rng.uniform(0, math.pi),
            "own_n": 2.5,
            "own_radius": 0.5 / math.sqrt(own_q),
            "own_level": made.lens_light,
        }
    return light


def _subhaloes(made: Recipe, main: float, rng: np.random.Generator) -> np.ndarray:
    """Place and Einstein radius (K, 3) of point masses."""
    equal = made.masses == (0.0, 0.0)
    count = SUBHALOES if equal or made.as_published else rng.poisson(SUBHALOES)
    radius, angle = rng.uniform(*made.ring, count), rng.uniform(0, 2 * math.pi, count)
    if equal:
        theta_e = np.full(count, main * _part(made, count))
    else:
        theta_e = main * np.sqrt(power_law(rng, count, *made.masses, made.slope) / made.halo)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), theta_e], axis=1)


def _part(made: Recipe, count: int) -> float:
    """Einstein radius, in that of the main halo, of each of `count` equal parts of `share` of its mass."""
    if made.as_published and made.masses == (0.0, 0.0):
        return math.sqrt(made.share) / count
    return math.sqrt(made.share / count)


def _vortex(made: Recipe, main: float, rng: np.random.Generator) -> tuple[dict[str, float], np.ndarray]:
    """A rod, or points evenly along it, and what is true of it."""
    vortex = {"angle": rng.uniform(0, math.pi)}
    if made.length is None:
        vortex["log10_mass"] = rng.uniform(-24, -22)
        half = 0.03 / 10 ** (vortex["log10_mass"] + 22)
    else:
        half = made.length / 2
    if not made.discrete:
        held = {"rod_theta_e": main * math.sqrt(made.share), "rod_half": half, "rod_angle": vortex["angle"]}
        return vortex | held, np.zeros((0, 3))
    along = np.linspace(-half, half, made.discrete)
    theta_e = np.full(made.discrete, main * _part(made, made.discrete))
    return vortex, np.stack(
        [along * math.cos(vortex["angle"]), along * math.sin(vortex["angle"]), theta_e], axis=1
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

    Model I's counts, the others' counts a second.
    """
    camera = made.camera
    rates = np.clip(rates.astype(np.float64), 0, None)
    if made.as_published and camera.zero_point:
        return (2 * rates).astype(np.float32)
    sky = camera.sky * made.pixel**2
    counts = rng.poisson((rates + sky) * exposure) - sky * exposure
    counts = counts + camera.rms * exposure * rng.standard_normal(rates.shape)
    if _in_counts(made):
        if made.as_published:
            counts = rng.poisson(np.clip(counts, 0, None))
        return counts.astype(np.float32)
    return (counts / exposure).astype(np.float32)


def _in_counts(made: Recipe) -> bool:
    """Whether images are kept in counts, as those of Model I are."""
    return made.level is not None and not made.lens_light
