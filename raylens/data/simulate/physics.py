"""Light and lensing of whole batches, by caustics' functions of tensors.

Coordinates are arcsec from the image's centre, angles radians from the x axis. Parameters are (N,), grids (H, W) or
(N, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from caustics import func
from torch import Tensor
from torch.nn import functional

Parameters = Mapping[str, Tensor]
"""Name -> (N,) values, one for each component."""
TOLERANCE = 1e-3
"""Error of a pixel's flux, as a share of the brightest one's, above which it is sampled more finely."""
DEPTH = 6
"""How often a pixel is cut into thirds at most."""


def grid(size: int, pixel: float) -> tuple[Tensor, Tensor]:
    """x and y (size, size) of the centres of pixels of `pixel` arcsec."""
    axis = (torch.arange(size, dtype=torch.float32) - (size - 1) / 2) * pixel
    return torch.meshgrid(axis, axis, indexing="xy")


def integrate(
    brightness: Callable[[Parameters, Tensor, Tensor], Tensor],
    light: Parameters,
    size: int,
    pixel: float,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """Flux in each pixel (N, size, size) of components of a surface brightness, by adaptive quadrature.

    A cell's centre speaks for it, with an error of a 24th of how much the brightness bends between its neighbours,
    along each axis. Where both may make more than `tolerance` of the brightest pixel, a cell is cut into 3 x 3, and
    these too; what the last cut changes leaves an eighth of it to be added (Richardson 1911).
    """
    x, y = grid(size, pixel)
    flux = brightness(light, x, y)
    wide = functional.pad(flux, (1, 1, 1, 1), mode="replicate")
    bent = torch.maximum(bend(wide[:, 1:-1], 2), bend(wide[:, :, 1:-1], 1))
    bent = functional.max_pool2d(bent, 3, stride=1, padding=1)
    allowed = 12 * tolerance * (wide[:, 1:-1, 2:] + wide[:, 1:-1, :-2]).amax((1, 2)) / 2
    part, row, col = (bent > allowed[:, None, None]).nonzero(as_tuple=True)
    centre_x, centre_y, held, share = x[row, col], y[row, col], flux[part, row, col], 1.0
    for depth in range(1, DEPTH + 1):
        inner_x, inner_y = (axis.reshape(9, 1) for axis in grid(3, pixel / 3**depth))
        some = {name: values[part][None, None] for name, values in light.items()}  # cells last: long loops
        cut_x, cut_y = centre_x + inner_x, centre_y + inner_y
        cut = brightness(some, cut_x[None], cut_y[None])[0]
        nine = cut.unflatten(0, (3, 3))
        bent = torch.maximum(*(bend(nine, axis).amax((0, 1)) for axis in (0, 1)))
        again = share**0.5 * bent > allowed[part]  # errors of a pixel's cells are as good as independent
        gain = share * (cut.mean(0) - held) * torch.where(again, 1, 9 / 8)
        flux.index_put_((part, row, col), gain, accumulate=True)
        part, row, col = (index[again].repeat(9) for index in (part, row, col))
        centre_x, centre_y, held = (values[:, again].flatten() for values in (cut_x, cut_y, cut))
        share /= 9
    return flux * pixel**2


def bend(values: Tensor, axis: int) -> Tensor:
    """How much a brightness bends along an axis, at all points but the first and the last.

    The second difference; or, where that is more, what the logarithm's makes of the brightest of the three points:
    light narrower than they are apart, such as a small counter-image, bends the logarithm far around it.
    """
    before, here, after = (values.narrow(axis, start, values.shape[axis] - 2) for start in range(3))
    logs = [points.clamp_min(1e-30).log() for points in (before, here, after)]
    fold = (logs[0] + logs[2] - 2 * logs[1]).abs().clamp_max(20)
    most = torch.maximum(torch.maximum(before, after), here)
    return torch.maximum((before + after - 2 * here).abs(), most * torch.expm1(fold))


def column(values: Parameters, *names: str) -> list[Tensor]:
    """Parameters as (N, 1, 1), to broadcast over a grid; those of three axes already are left as they are."""
    return [value if value.ndim == 3 else value[:, None, None] for value in map(values.get, names)]


def deflect(lens: Parameters, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Source-plane position of image-plane points: a singular isothermal ellipsoid and external shear.

    Keeton 2002, eqs. 34 and 35, and Meneghetti's lecture notes, eq. 3.80, as caustics has them. `theta_e` in arcsec.
    """
    x0, y0, q, phi, theta_e, g1, g2 = column(lens, "x", "y", "q", "phi", "theta_e", "gamma1", "gamma2")
    ax, ay = func.reduced_deflection_angle_sie(x0, y0, q, phi, theta_e, x, y, s=1e-6)  # 0 / 0 in the centre
    sx, sy = func.reduced_deflection_angle_external_shear(x0, y0, g1, g2, x, y)
    return x - ax - sx, y - ay - sy


def normalised(light: Parameters) -> Parameters:
    """Sersic profiles of total `flux`, with their constant `k` and their `level` at the half-light radius.

    Ciotti & Bertin 1999; `radius` is the half-light radius along the major axis.
    """
    n, k = light["n"], func.k_sersic(light["n"])
    area = (
        2
        * math.pi
        * n
        * light["q"]
        * light["radius"] ** 2
        * torch.exp(k + torch.lgamma(2 * n))
        * k ** (-2 * n)
    )
    return {**light, "k": k, "level": light["flux"] / area}


def sersic(light: Parameters, x: Tensor, y: Tensor) -> Tensor:
    """Surface brightness (N, H, W), flux per square arcsec, of Sersic profiles; `normalised` makes their parameters."""
    x0, y0, q, phi, n, radius, k, level = column(light, "x", "y", "q", "phi", "n", "radius", "k", "level")
    return func.brightness_sersic(x0, y0, q, phi, n, radius, level, x, y, k)


def winding(light: Parameters, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Distance from a disc's middle, in its plane, and the phase of its logarithmic spiral arms, (N, H, W) each.

    m (angle - ln r / tan pitch), which is a multiple of 2 pi along each of m arms.
    """
    x0, y0, q, phi, count, pitch, turn = column(light, "x", "y", "q", "phi", "arms", "pitch", "turn")
    dx, dy = x - x0, y - y0
    across = torch.cos(phi) * dx + torch.sin(phi) * dy
    along = (torch.cos(phi) * dy - torch.sin(phi) * dx) / q
    away = torch.sqrt(across**2 + along**2 + 1e-4)
    angle = torch.atan2(along, across) + turn
    return away, count * (angle - torch.log(away) / torch.tan(pitch))


def spiral(light: Parameters, x: Tensor, y: Tensor) -> Tensor:
    """A disc with arms: its light times 1 + `strength` cos(phase)."""
    (strength,), (_, phase) = column(light, "strength"), winding(light, x, y)
    return sersic(light, x, y) * (1 + strength * torch.cos(phase))


def young(light: Parameters, x: Tensor, y: Tensor) -> Tensor:
    """Young stars of a disc, in narrow arms that begin outside the bulge, at half the disc's radius or so.

    Along a circle they are as bright as a von Mises distribution of concentration `sharp` about each arm. Of the disc's
    flux about a fifth, in the middle, is left away.
    """
    (sharp, radius), (away, phase) = column(light, "sharp", "radius"), winding(light, x, y)
    narrow = torch.exp(sharp * (torch.cos(phase) - 1)) / torch.special.i0e(sharp)
    return sersic(light, x, y) * narrow * (1 - torch.exp(-((2 * away / radius) ** 4)))


def annulus(light: Parameters, x: Tensor, y: Tensor) -> Tensor:
    """A ring, or a part of one, that no lens made: (N, H, W) of total `flux` if it were whole and round.

    Gaussian across, of `width`, and along it around the angle `turn`, of `extent` radians.
    """
    x0, y0, q, phi, radius, width, extent, turn, flux = column(
        light, "x", "y", "q", "phi", "radius", "width", "extent", "turn", "flux"
    )
    dx, dy = x - x0, y - y0
    across = (torch.cos(phi) * dx + torch.sin(phi) * dy) * torch.sqrt(q)
    along = (torch.cos(phi) * dy - torch.sin(phi) * dx) / torch.sqrt(q)
    away = (torch.sqrt(across**2 + along**2) - radius) / width
    off = torch.atan2(along, across) - turn
    off = torch.atan2(torch.sin(off), torch.cos(off)) / extent
    bright = flux / ((2 * math.pi) ** 1.5 * radius * width)
    return bright * torch.exp(-0.5 * (away**2 + off**2))


def lensed(light: Parameters, x: Tensor, y: Tensor) -> Tensor:
    """A Sersic source as seen through the lens whose parameters it carries, under `lens_` names."""
    lens = {name.removeprefix("lens_"): values for name, values in light.items() if name.startswith("lens_")}
    return sersic(light, *deflect(lens, x, y))


SHAPES = {"sersic": sersic, "spiral": spiral, "young": young, "annulus": annulus, "lensed": lensed}
"""Surface brightness by name, of unit or given `flux`."""
