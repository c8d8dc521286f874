"""Recipes: what is drawn, from which ranges, and the camera that sees it.

Lens finding: `sim` is the clean source domain, `survey` looks like Hyper Suprime-Cam's, on a worse night. Pixel scale,
zero point, seeing and the ranges of lenses follow Aihara et al. 2019 (HSC PDR2) and the HOLISMOKES and SuGOHI searches,
and so does the depth of `sim`, 26.5 in i for a point source at five deviations. `survey` is shallower by a magnitude
and a half, for its noise is correlated, and both count photons as a smaller telescope would (`gain`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from raylens.errors import ConfigError
from raylens.find import guess

ZERO_POINT = 27.0
"""Magnitude of one count."""
BANDS = "gri"
MARGIN = 4
"""Pixels drawn beyond each edge, from where light is blurred into the image."""
RED, BLUE, YELLOW, ARMS = (1.9, 0.55), (0.3, 0.1), (1.0, 0.35), (0.9, 0.3)
"""Colours (g - i, r - i) of ellipticals, of star-forming sources, of discs, and of arms of spirals and their like at a
lens's own redshift; where a preset has ranges, their middle."""

Span = tuple[float, float]
"""Ends of a uniform distribution."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """How three bands become a colour picture of 8 bits: see raylens/data/simulate/picture.py."""

    noise: tuple[float, ...]
    """What the sky's noise in g, r and i becomes, of 255."""
    sky: float
    """Level of the sky, in that noise."""
    softening: Span
    """Lupton's Q."""
    exposure: Span
    """Factor on all bands, from image to image."""
    balance: Span
    """Factor on each band by itself."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Ranges of a recipe; angles are uniform, magnitudes are in i."""

    name: str
    domain: str
    pixel: float = 0.168
    """Arcsec; HSC's."""
    prior: float
    """Share of lenses."""
    splits: Mapping[str, float]
    kinds: Mapping[str, float]
    """Non-lenses: kind -> share."""

    theta_e: Span
    """Einstein radius, arcsec."""
    theta_e_faint: float | None = None
    """The largest about the faintest lens, which is the lightest; in between it falls with the magnitude."""
    shear: float
    """Standard deviation of each component of external shear."""
    offset: Span
    """Distance of the source from the lens, in Einstein radii."""
    lens_magnitude: Span
    lens_radius: Span
    """Half-light radius, arcsec."""
    contrast: Span
    """Magnitudes by which the source, before it is lensed, is fainter than the lens."""
    source_magnitude: Span | None = None
    """Of the source before it is lensed, whatever the lens has, in place of `contrast`."""
    faintest: float
    """Magnitude that no source is fainter than: nobody would have found it."""
    source_radius: Span
    clumps: Span
    """Star-forming clumps on a source."""
    neighbours: float
    """Mean number of other galaxies in the field."""
    groups: float = 0.0
    """Share of images with some red galaxies more, as in a group or a cluster."""
    bright: float = 0.0
    """Share of images with a large, bright galaxy or its halo near the edge."""
    offcentre: float
    """Standard deviation of the target's position, pixels."""
    colour_scatter: float
    """Relative to the colour itself."""
    colours: Mapping[tuple[float, float], Span] = field(default_factory=dict)
    """Ranges of g - i for some of the colours above, r - i in proportion; as of galaxies at many redshifts."""

    fwhm: Mapping[str, Span]
    """Seeing in each band, arcsec."""
    moffat: Span | None
    """Exponent of the point-spread function; Gaussian without one."""
    noise: Span | tuple[float, ...]
    """Sky noise per pixel in g, r, i, counts."""
    depth: Span
    """Factor on the sky noise, from image to image."""
    gain: float
    """Electrons per count."""
    correlation: float
    gradient: float
    """Sky gradient, in sky noises from centre to edge."""
    bad_columns: float
    """Share of images that have some."""
    picture: Picture | None = None
    """Images are colour pictures, not counts."""


SIM = Preset(
    name="sim",
    domain="source",
    prior=1 / 3,
    splits={"train": 0.8, "val": 0.1, "test": 0.1},
    kinds={"elliptical": 0.5, "spiral": 0.35, "merger": 0.15},
    theta_e=(0.8, 2.4),
    shear=0.05,
    offset=(0.0, 0.45),
    lens_magnitude=(18.5, 21.0),
    lens_radius=(0.5, 1.2),
    contrast=(2.2, 4.2),
    faintest=24.5,
    source_radius=(0.15, 0.5),
    clumps=(0, 0),
    neighbours=0.4,
    offcentre=0.5,
    colour_scatter=0.1,
    fwhm={"g": (0.7, 0.7), "r": (0.7, 0.7), "i": (0.6, 0.6)},
    moffat=None,
    noise=(0.04, 0.05, 0.06),
    depth=(1.0, 1.0),
    gain=100.0,
    correlation=0.0,
    gradient=0.0,
    bad_columns=0.0,
)

SURVEY = Preset(
    name="survey",
    domain="target",
    prior=1 / 101,
    splits={"train": 0.5, "val": 0.1, "test": 0.4},
    kinds={"elliptical": 0.42, "spiral": 0.3, "merger": 0.15, "ring": 0.08, "star": 0.05},
    theta_e=(0.7, 2.0),
    shear=0.06,
    offset=(0.0, 0.5),
    lens_magnitude=(18.5, 20.5),
    lens_radius=(0.6, 1.8),
    contrast=(3.3, 5.1),
    faintest=25.0,
    source_radius=(0.1, 0.35),
    clumps=(0, 4),
    neighbours=2.5,
    offcentre=1.0,
    colour_scatter=0.25,
    fwhm={"g": (0.65, 0.8), "r": (0.62, 0.8), "i": (0.6, 0.8)},
    moffat=(2.5, 4.5),
    noise=(0.06, 0.08, 0.10),
    depth=(0.8, 1.3),
    gain=30.0,
    correlation=0.7,
    gradient=0.4,
    bad_columns=0.02,
)

PAINTED = replace(
    SURVEY,
    name="painted",
    domain="source",
    prior=1 / 3,
    splits={"train": 0.8, "val": 0.1, "test": 0.1},
    kinds={"plain": 0.6, "merger": 0.2, "ring": 0.2},
    theta_e=(0.7, 3.0),
    contrast=(2.5, 5.0),
    faintest=99.0,
    offcentre=0.3,
)
"""Arcs alone, to be painted on real cutouts: see raylens/data/simulate/painted.py."""

SPACEWARPS = replace(
    SURVEY,
    name="spacewarps",
    domain="source",
    pixel=0.186,
    prior=1 / 3,
    splits={"train": 0.8, "val": 0.1, "test": 0.1},
    kinds={
        "elliptical": 0.14,
        "spiral": 0.12,
        "armed": 0.24,
        "merger": 0.16,
        "ring": 0.05,
        "ringed": 0.16,
        "aligned": 0.1,
        "star": 0.02,
        "faint": 0.01,
    },
    theta_e=(1.1, 5.0),
    theta_e_faint=2.2,
    offset=(0.0, 0.6),
    lens_magnitude=(17.0, 20.5),
    lens_radius=(0.4, 1.6),
    source_magnitude=(21.3, 24.2),
    source_radius=(0.08, 0.35),
    neighbours=3.5,
    groups=0.2,
    bright=0.12,
    offcentre=0.8,
    colours={RED: (1.2, 2.7), BLUE: (0.0, 0.9), YELLOW: (0.3, 1.6), ARMS: (0.4, 1.4)},
    colour_scatter=0.05,
    fwhm={"g": (0.7, 1.0), "r": (0.65, 0.95), "i": (0.55, 0.85)},
    noise=(0.075, 0.135, 0.16),
    depth=(0.7, 1.5),
    gain=60.0,
    correlation=0.6,
    gradient=0.2,
    bad_columns=0.0,
    picture=Picture(
        noise=(15.0, 10.0, 10.0), sky=0.5, softening=(1.0, 6.0), exposure=(0.75, 1.35), balance=(0.85, 1.15)
    ),
)
"""Colour pictures of the CFHT Legacy Survey's Wide layer (MegaCam), as Space Warps showed them to volunteers.

Depth and seeing are the survey's; the composite follows Marshall et al. 2016 (arXiv 1504.06148) with levels read off
unlabelled pictures, and ranges are wide on purpose: what differs between the simulation and the sky should differ
between images of the simulation, too.
"""

PRESETS = {preset.name: preset for preset in (SIM, SURVEY, PAINTED, SPACEWARPS)}


def preset(name: str) -> Preset:
    """The preset called `name`. Raises ConfigError."""
    if name not in PRESETS:
        known = (*PRESETS, "model-i", "model-ii", "model-iii", "common", "sr-pairs")
        raise ConfigError(f"unknown preset {name!r}{guess(name, known)}; known here: {', '.join(known)}")
    return PRESETS[name]


def resampled(made: Preset, pixel: float) -> Preset:
    """The same sky in pixels of so many arcsec: the noise of one goes with its side, as that of the sky's photons."""
    return replace(made, pixel=pixel, noise=tuple(noise * pixel / made.pixel for noise in made.noise))


def margin(native: float, pixel: float) -> int:
    """Pixels drawn beyond each edge, from where seeing spreads light into the image: a frame as wide as at `native`."""
    return max(MARGIN, math.ceil(MARGIN * native / pixel - 1e-6))


def checked_pixel(pixel: float) -> float:
    """Arcsec of a pixel, as given. Raises ConfigError for what is no scale."""
    if not 0.01 <= pixel <= 2:
        raise ConfigError(f"--arcsec-per-pixel {pixel:g} is no scale; give one between 0.01 and 2")
    return pixel
