"""How the preset `common` was measured: fits to the published images that it stands for.

    python benchmarks/common.py FOLDER [--class vort --images 10]

FOLDER has the classes no/, sphere/ and vort/ of .npy files (1, 150, 150), DeepLense's common test: whole counts scaled
to 0 ... 1, so that they are found again, and deviances are Poisson's. A round halo with shear and one source are
fitted, seven parameters, all else as the preset has it; for vort a rod, too. Told are parameters, and the deviance
beyond what noise makes, in standard deviations of that: within some 3 a model describes an image, and what is far
beyond in sphere and vort is their substructure.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import least_squares
from scipy.special import xlogy

from raylens.data.simulate.substructure import COMMON, seen

MIDDLE = slice(15, 135)
SKY = COMMON.camera.sky * COMMON.pixel**2 * COMMON.camera.exposure[0]
NAMES = ("theta_e", "gamma1", "gamma2", "x", "y", "e1", "e2")
ROD = ("rod_share", "rod_half", "rod_angle", "rod_x", "rod_y")
LOW = (0.5, -0.5, -0.5, -1, -1, -0.7, -0.7, 1e-4, 0.05, -9, -3, -3)
HIGH = (2.2, 0.5, 0.5, 1, 1, 0.7, 0.7, 0.2, 4, 9, 3, 3)


def counts(file: Path) -> np.ndarray:
    """Photons of each pixel of the middle: the image in units of its smallest step, the sky's mean its variance."""
    scaled = np.load(file)[0]
    whole = np.rint(scaled / np.diff(np.unique(scaled)).min())
    sky = np.concatenate([whole[:15], whole[-15:]])
    return (whole + round(sky.var() - sky.mean()))[MIDDLE, MIDDLE]


def expected(values: np.ndarray) -> np.ndarray:
    """Counts of the middle by parameters of NAMES, and of ROD if there are more."""
    held = dict(zip((*NAMES, *ROD), values, strict=False))
    modulus = min(math.hypot(held["e1"], held["e2"]), 0.8)
    q = (1 - modulus) / (1 + modulus)
    light = {
        "x": held["x"],
        "y": held["y"],
        "q": q,
        "phi": 0.5 * math.atan2(held["e2"], held["e1"]),
        "n": COMMON.index,
        "radius": COMMON.radius / math.sqrt(q),
        "level": COMMON.level[0],
        "lens_x": 0.0,
        "lens_y": 0.0,
        "lens_q": 0.9999,
        "lens_phi": 0.0,
        "lens_theta_e": held["theta_e"],
        "lens_gamma1": held["gamma1"],
        "lens_gamma2": held["gamma2"],
    }
    if "rod_share" in held:
        light |= {name: held[name] for name in ROD[1:]}
        light["rod_theta_e"] = held["theta_e"] * math.sqrt(held["rod_share"])
    rates = seen(COMMON, [light], "cpu")[0, MIDDLE, MIDDLE]
    return np.maximum(rates.astype(float) * COMMON.camera.exposure[0] + SKY, 1e-3)


def residuals(values: np.ndarray, photons: np.ndarray) -> np.ndarray:
    mean = expected(values)
    deviance = 2 * (mean - photons + xlogy(photons, photons / mean))
    return (np.sign(photons - mean) * np.sqrt(np.maximum(deviance, 0))).ravel()


def fit(photons: np.ndarray, starts: list[list[float]]) -> tuple[np.ndarray, float]:
    """The best parameters from several starts, and the deviance beyond noise in standard deviations of it."""
    found = []
    for steps, some in ((8, starts), (60, None)):
        if some is None:
            some = [min(found, key=lambda one: one.cost).x]
        found = [
            least_squares(
                residuals,
                np.clip(start, np.array(LOW[: len(start)]) + 1e-6, np.array(HIGH[: len(start)]) - 1e-6),
                args=(photons,),
                bounds=(LOW[: len(start)], HIGH[: len(start)]),
                diff_step=1e-4,
                max_nfev=steps,
            )
            for start in some
        ]
    best = min(found, key=lambda one: one.cost)
    mean = expected(best.x)
    drawn = np.random.default_rng(0).poisson(mean, (60, *mean.shape))
    noise = 2 * (mean - drawn + xlogy(drawn, drawn / mean)).sum((1, 2))
    return best.x, (2 * best.cost - noise.mean()) / noise.std()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--class", dest="kind", choices=COMMON.classes, action="append")
    parser.add_argument("--images", type=int, default=10)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for kind in asked.kind or COMMON.classes:
        for file in sorted((asked.folder / kind).glob("*.npy"))[: asked.images]:
            photons = counts(file)
            places = ((0.02, 0.02), (0.25, 0), (-0.25, 0), (0, 0.25), (0, -0.25))
            values, beyond = fit(photons, [[1.2, 0.12, 0.01, x, y, 0.05, 0.02] for x, y in places])
            told = ", ".join(f"{name} {value:.3f}" for name, value in zip(NAMES, values, strict=True))
            print(f"{kind} {file.name}: {told}; {beyond:+.1f} sigma", flush=True)
            if kind == COMMON.classes[2]:
                rods = [[0.04, 1.2, angle, 0.0, 0.0] for angle in (0.2, 1.2, 2.2)]
                values, beyond = fit(photons, [[*values, *rod] for rod in rods])
                told = ", ".join(f"{name} {value:.3f}" for name, value in zip(ROD, values[7:], strict=True))
                print(f"    with {told}; {beyond:+.1f} sigma", flush=True)


if __name__ == "__main__":
    main()
