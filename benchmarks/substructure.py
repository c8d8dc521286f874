"""Images per second of the substructure presets against lenstronomy's (numba), one thread, the same lenses.

    python benchmarks/substructure.py

Both draw the same halo, shear, subhaloes or 100 points of a vortex, and source, without noise, through a Gaussian
point-spread function; lenstronomy is compiled before the clock starts. Ours has the rod too, in
closed form, which a vortex is drawn with unless --discrete is given. The error is the median of the largest
difference, as a share of the image's peak, from ours at a hundredth of the tolerance.
"""

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from lenstronomy.Data.pixel_grid import PixelGrid
from lenstronomy.Data.psf import PSF
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel

from raylens.data.simulate import physics, substructure
from raylens.data.simulate.substructure import Recipe


def ours(made: Recipe, lights: list[dict[str, float]]) -> np.ndarray:
    return np.concatenate(
        [substructure.seen(made, lights[begin : begin + 32], "cpu") for begin in range(0, len(lights), 32)]
    )


def theirs(made: Recipe, lights: list[dict[str, float]], across: int) -> np.ndarray:
    first, size = -(made.size - 1) / 2 * made.pixel, made.size
    pixels = PixelGrid(size, size, np.eye(2) * made.pixel, first, first)
    psf = PSF("GAUSSIAN", fwhm=made.camera.fwhm, pixel_size=made.pixel, truncation=3)
    images = []
    for light in lights:
        names = {"theta_E": "theta_e", "center_x": "x", "center_y": "y"}
        count = sum(key[0] == "m" and key.endswith("_x") and light[f"{key[:-1]}theta_e"] > 0 for key in light)
        points = [{name: light[f"m{k}_{own}"] for name, own in names.items()} for k in range(count)]
        model = LensModel(["SIE", "SHEAR", *["POINT_MASS"] * len(points)])
        shear = {"gamma1": light["lens_gamma1"], "gamma2": light["lens_gamma2"]}
        lens = [{"theta_E": light["lens_theta_e"], "e1": made.e1, "e2": 0.0}, shear, *points]
        n, k = made.index, float(physics.func.k_sersic(torch.tensor(made.index)))
        other = (
            1.9992 * n - 0.3271
        )  # radii are circularised there, and the half-light constant is another fit
        radius = light["radius"] * np.sqrt(light["q"]) * (other / k) ** n
        source = {
            "amp": light["level"] * np.exp(k - other),
            "R_sersic": radius,
            "n_sersic": n,
            "e1": -0.1,
            "e2": 0.1,
        }
        source |= {"center_x": light["x"], "center_y": light["y"]}
        image = ImageModel(
            pixels,
            psf,
            model,
            LightModel(["SERSIC_ELLIPSE"]),
            kwargs_numerics={"supersampling_factor": across},
        )
        images.append(image.image(lens, [source]))
    return np.stack(images)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=64)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(
        "model-i, 150 x 150, one thread: images/s and error; lenstronomy at 1, 2 and 6 points across a pixel\n"
    )
    for kind, discrete in (("no_sub", None), ("cdm", None), ("axion", 100), ("axion", None)):
        made = substructure.recipe("model-i", discrete=discrete)
        lights, _ = substructure.populate(made, np.array([kind] * asked.images), np.random.default_rng(0))
        held, few = physics.integrate.__defaults__, lights[: max(4, asked.images // 8)]
        physics.integrate.__defaults__ = (physics.TOLERANCE / 100,)
        exact = ours(made, few)
        physics.integrate.__defaults__ = held
        told = timed(lambda some, made=made: ours(made, some), lights, exact)
        if kind != "axion" or discrete:
            for across in (1, 2, 6):
                told += timed(lambda some, made=made, across=across: theirs(made, some, across), few, exact)
        what = f"{kind} {'rod' if kind == 'axion' and not discrete else f'{discrete} points' if discrete else ''}"
        print(f"{what:<18}{told}", flush=True)


def timed(draw: Callable, lights: list[dict[str, float]], exact: np.ndarray) -> str:
    draw(lights[:2])
    start = time.perf_counter()
    images = draw(lights)
    rate = len(lights) / (time.perf_counter() - start)
    error = np.abs(images[: len(exact)] - exact).max((1, 2)) / exact.max((1, 2))
    return f"{rate:8.1f} ({np.median(error):.0e})"


if __name__ == "__main__":
    main()
