"""Images per second of the simulator against lenstronomy's (numba), one thread, the same lenses, seeing and camera.

    python benchmarks/simulator.py

Both draw an isothermal ellipsoid with shear, a Sersic source and a Sersic lens seen through a Moffat point-spread
function. lenstronomy is compiled and set up before the clock starts. The error is the largest difference, as a share of
the image's peak, from ours at a hundredth of the tolerance: the median and the worst of all images.
"""

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import argparse
import time
import warnings

import numpy as np
import torch
from lenstronomy.Data.pixel_grid import PixelGrid
from lenstronomy.Data.psf import PSF
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from lenstronomy.Util.image_util import add_background
from lenstronomy.Util.param_util import phi_q2_ellipticity

from raylens.data.simulate import camera, physics

PIXEL, SIZE, FWHM, BETA, NOISE = 0.168, 64, 0.7, 3.0, 0.08
SERSIC = ("x", "y", "q", "phi", "n", "radius", "flux")
CHUNK = 16
POINTS = (1, 2, 4, 6, 16)


def draw(images: int, rng: np.random.Generator) -> tuple[dict, dict]:
    """Lens light, and sources with their lenses."""

    def spans(**spans: tuple[float, float]) -> dict[str, np.ndarray]:
        return {name: rng.uniform(*span, images) for name, span in spans.items()}

    near, ellipse = {"x": (-0.1, 0.1), "y": (-0.1, 0.1)}, {"q": (0.5, 0.97), "phi": (0, np.pi)}
    light = spans(**near, **ellipse, n=(2.5, 5), radius=(0.6, 1.5), flux=(100, 1000))
    lens = spans(**near, **ellipse, theta_e=(0.8, 2.2), gamma1=(-0.08, 0.08), gamma2=(-0.08, 0.08))
    source = spans(x=(-0.4, 0.4), y=(-0.4, 0.4), **ellipse, n=(0.7, 1.8), radius=(0.15, 0.5), flux=(5, 50))
    return light, source | {f"lens_{name}": value for name, value in lens.items()}


def ours(
    light: dict, arcs: dict, rng: np.random.Generator | None, tolerance: float = physics.TOLERANCE
) -> np.ndarray:
    made = []
    fwhm, beta = torch.tensor([[FWHM]]), torch.tensor([BETA])
    for begin in range(0, len(light["x"]), CHUNK):
        clean = 0
        for brightness, part in ((physics.sersic, light), (physics.lensed, arcs)):
            some = {
                name: torch.from_numpy(value[begin : begin + CHUNK]).float() for name, value in part.items()
            }
            clean = clean + physics.integrate(brightness, physics.normalised(some), SIZE, PIXEL, tolerance)
        seen = camera.blur(clean[:, None], fwhm, beta, PIXEL)[:, 0].numpy()
        made.append(seen if rng is None else seen + NOISE * rng.standard_normal(seen.shape, dtype=np.float32))
    return np.concatenate(made)


def lenstronomy(light: dict, arcs: dict, oversample: int, noisy: bool) -> tuple[np.ndarray, float]:
    """Images, and the seconds it took to draw them."""
    psf = camera.psf(torch.tensor([FWHM]), torch.tensor([BETA]), SIZE + 8, PIXEL)[0]
    kernel = psf.roll(((SIZE + 8) // 2,) * 2, (0, 1))[1:, 1:].numpy().astype(float)
    corner = -(SIZE - 1) / 2 * PIXEL
    model = ImageModel(
        PixelGrid(SIZE, SIZE, np.eye(2) * PIXEL, corner, corner),
        PSF("PIXEL", kernel_point_source=kernel),
        LensModel(["SIE", "SHEAR"]),
        LightModel(["SERSIC_ELLIPSE"]),
        LightModel(["SERSIC_ELLIPSE"]),
        kwargs_numerics={"supersampling_factor": oversample, "supersampling_convolution": False},
    )
    settings = [
        _settings({name: value[row] for name, value in (arcs | _prefixed(light)).items()})
        for row in range(len(light["x"]))
    ]
    model.image(*settings[0])
    made, began = [], time.process_time()
    for lens, source, galaxy in settings:
        image = model.image(lens, source, galaxy)
        made.append(image + add_background(image, NOISE) if noisy else image)
    return np.stack(made), time.process_time() - began


def _prefixed(light: dict) -> dict:
    return {f"light_{name}": value for name, value in light.items()}


def _settings(values: dict[str, float]) -> tuple[list[dict], list[dict], list[dict]]:
    """What lenstronomy calls them; its radii are circularised, and it has another fit to the half-light constant."""

    def place(prefix: str) -> dict[str, float]:
        e1, e2 = phi_q2_ellipticity(values[f"{prefix}phi"], values[f"{prefix}q"])
        return {"e1": e1, "e2": e2, "center_x": values[f"{prefix}x"], "center_y": values[f"{prefix}y"]}

    def sersic(prefix: str) -> dict[str, float]:
        n, radius, q = (values[f"{prefix}{name}"] for name in ("n", "radius", "q"))
        one = {name: torch.tensor([float(values[f"{prefix}{name}"])]) for name in SERSIC}
        there = physics.normalised(one | {"x": torch.zeros(1), "y": torch.zeros(1)})
        centre = physics.sersic(there, *torch.zeros(2, 1, 1)).item()
        other, k = 1.9992 * n - 0.3271, physics.func.k_sersic(n)
        amp, radius = centre * np.exp(-other), radius * np.sqrt(q) * (other / k) ** n
        return place(prefix) | {"amp": amp, "R_sersic": radius, "n_sersic": n}

    shear = {"gamma1": values["lens_gamma1"], "gamma2": values["lens_gamma2"]}
    shear |= {"ra_0": values["lens_x"], "dec_0": values["lens_y"]}
    lens = [place("lens_") | {"theta_E": values["lens_theta_e"]}, shear]
    return lens, [sersic("")], [sersic("light_")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # SciPy's, on behalf of lenstronomy
    rng = np.random.default_rng(0)
    light, arcs = draw(args.images, rng)
    with torch.inference_mode():
        exact = ours(light, arcs, None, 1e-5)
        for noisy in (False, True):
            compare(light, arcs, exact, rng if noisy else None, args.rounds)


def compare(light: dict, arcs: dict, exact: np.ndarray, rng: np.random.Generator | None, rounds: int) -> None:
    """Print milliseconds, ratios and errors; the best of several rounds in turn counts."""

    def timed() -> tuple[np.ndarray, float]:
        began = time.process_time()
        images = ours(light, arcs, rng)
        return images, time.process_time() - began

    timed()
    made = [[timed(), *(lenstronomy(light, arcs, s, rng is not None) for s in POINTS)] for _ in range(rounds)]
    best = [min(each[1] for each in column) / len(exact) * 1e3 for column in zip(*made, strict=True)]
    errors = [np.abs(images - exact).max((1, 2)) / exact.max((1, 2)) for images, _ in made[0]]
    names = ["raylens, adaptive quadrature", *(f"lenstronomy, {s} x {s} points a pixel" for s in POINTS)]
    print(f"\n{len(exact)} images {SIZE} x {SIZE}, {'without' if rng is None else 'with'} noise, of one core")
    for name, ms, error in zip(names, best, errors, strict=True):
        accuracy = f"   error {np.median(error):.1e}, worst {error.max():.1e}" if rng is None else ""
        print(f"  {name:36} {ms:7.3f} ms   ratio {ms / best[0]:5.1f}{accuracy}")


if __name__ == "__main__":
    main()
