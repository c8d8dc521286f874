"""lenstronomy is the oracle: deflection, magnification and the final image."""

import numpy as np
import pytest
import torch
from lenstronomy.Data.pixel_grid import PixelGrid
from lenstronomy.Data.psf import PSF
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.ImSim.Numerics.convolution import PixelKernelConvolution
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from lenstronomy.Util.param_util import phi_q2_ellipticity

from raylens.data.simulate import camera, physics, render
from raylens.data.simulate.presets import preset

PIXEL, SIZE = 0.168, 64
LENSES = [
    {"x": x, "y": -x / 2, "q": q, "phi": phi, "theta_e": theta_e, "gamma1": gamma, "gamma2": -gamma / 2}
    for x, q, phi, theta_e, gamma in [
        (0.0, 0.98, 0.0, 1.0, 0.0),
        (0.05, 0.8, 0.4, 0.6, 0.05),
        (-0.1, 0.6, 1.3, 1.7, -0.08),
        (0.03, 0.5, 2.9, 2.4, 0.1),
    ]
]
SOURCES = [
    {"x": x, "y": 0.1, "q": q, "phi": phi, "n": n, "radius": radius, "flux": 30.0}
    for x, q, phi, n, radius in [
        (0.0, 0.9, 0.2, 1.0, 0.3),
        (0.3, 0.6, 1.0, 0.7, 0.2),
        (-0.2, 0.5, 2.2, 1.8, 0.5),
    ]
]
LIGHT = {"x": 0.03, "y": -0.06, "q": 0.7, "phi": 0.8, "n": 4.0, "radius": 0.9, "flux": 300.0}


def batch(*components: dict) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([each[name] for each in components]) for name in components[0]}


def profiles(*components: dict) -> dict[str, torch.Tensor]:
    return physics.normalised(batch(*components))


def theirs(component: dict) -> dict:
    """lenstronomy's settings: radii are circularised there, and the half-light constant is another fit."""
    e1, e2 = phi_q2_ellipticity(component["phi"], component["q"])
    place = {"e1": e1, "e2": e2, "center_x": component["x"], "center_y": component["y"]}
    if "theta_e" in component:
        return place | {"theta_E": component["theta_e"]}
    n, k = component["n"], physics.func.k_sersic(component["n"])
    other = 1.9992 * n - 0.3271
    unit = profiles(component | {"x": 0.0, "y": 0.0})
    centre = physics.sersic(unit, torch.zeros(1, 1), torch.zeros(1, 1)).item()
    radius = component["radius"] * np.sqrt(component["q"]) * (other / k) ** n
    return place | {"amp": centre * np.exp(-other), "R_sersic": radius, "n_sersic": n}


def lens_model(lens: dict) -> tuple[LensModel, list[dict]]:
    shear = {"gamma1": lens["gamma1"], "gamma2": lens["gamma2"], "ra_0": lens["x"], "dec_0": lens["y"]}
    return LensModel(["SIE", "SHEAR"]), [theirs(lens), shear]


def axis_grid() -> tuple[np.ndarray, np.ndarray]:
    x, y = physics.grid(SIZE, PIXEL)
    return x.numpy().astype(float), y.numpy().astype(float)


@pytest.mark.parametrize("lens", LENSES)
def test_rays_are_deflected_as_lenstronomy_deflects_them(lens):
    x, y = axis_grid()
    model, settings = lens_model(lens)
    expected = model.ray_shooting(x.ravel(), y.ravel(), settings)
    found = physics.deflect(batch(lens), torch.tensor(x), torch.tensor(y))
    for ours, their in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours[0].numpy().ravel(), their, atol=1e-3 * lens["theta_e"])


@pytest.mark.parametrize("lens", LENSES)
def test_magnification_is_lenstronomys(lens):
    x, y = axis_grid()
    model, settings = lens_model(lens)
    expected = 1 / model.magnification(x.ravel(), y.ravel(), settings)
    points = [torch.tensor(axis, requires_grad=True) for axis in (x, y)]
    source_x, source_y = physics.deflect(batch(lens), *points)
    (xx, xy), (yx, yy) = (
        torch.autograd.grad(part.sum(), points, retain_graph=True) for part in (source_x, source_y)
    )
    found = (xx * yy - xy * yx).detach().numpy().ravel()
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=2e-3)


@pytest.mark.filterwarnings(
    "ignore:`axes` should not be `None`:DeprecationWarning"
)  # SciPy on behalf of lenstronomy
@pytest.mark.parametrize("moffat", [None, 3.0])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("lens", LENSES)
def test_images_are_lenstronomys(lens, source, moffat):
    """As `simulate` makes them, before noise; lenstronomy's are sampled until they change no more."""
    arcs = source | {f"lens_{name}": value for name, value in lens.items()}
    clean = physics.integrate(physics.lensed, profiles(arcs), SIZE, PIXEL)
    clean = clean + physics.integrate(physics.sersic, profiles(LIGHT), SIZE, PIXEL)
    fwhm, beta = torch.tensor([[0.7]]), None if moffat is None else torch.tensor([moffat])
    seen = camera.blur(clean[:, None], fwhm, beta, PIXEL)[0, 0].numpy()

    kernel = camera.psf(fwhm[0], beta, SIZE + 8, PIXEL)[0].roll((36, 36), (0, 1))[1:, 1:].numpy()
    expected = PixelKernelConvolution(kernel.astype(float)).convolution2d(exact(lens, source))
    assert np.abs(seen - expected).max() <= 1e-3 * expected.max()


def exact(lens: dict, source: dict) -> np.ndarray:
    """lenstronomy's image without seeing: 12 x 12 points in every pixel, 300 x 300 about the cusp of the lens."""
    first = -(SIZE - 1) / 2 * PIXEL
    pixels = PixelGrid(SIZE, SIZE, np.eye(2) * PIXEL, first, first)
    model, settings = lens_model(lens)
    light = LightModel(["SERSIC_ELLIPSE"])
    numerics = {"supersampling_factor": 12}
    image = ImageModel(pixels, PSF("NONE"), model, light, light, kwargs_numerics=numerics)
    made = image.image(settings, [theirs(source)], [theirs(LIGHT)])
    coarse = ImageModel(pixels, PSF("NONE"), lens_light_model_class=light, kwargs_numerics=numerics)
    near = slice(SIZE // 2 - 3, SIZE // 2 + 3)
    points = (np.arange(6 * 300) - (6 * 300 - 1) / 2) * PIXEL / 300
    fine = light.surface_brightness(*map(np.ravel, np.meshgrid(points, points)), [theirs(LIGHT)])
    fine = fine.reshape(6, 300, 6, 300).mean((1, 3)) * PIXEL**2
    made[near, near] += fine - coarse.image(kwargs_lens_light=[theirs(LIGHT)])[near, near]
    return made


def test_light_adds_up_to_its_flux():
    light = profiles(LIGHT | {"n": 1.0}, LIGHT | {"n": 2.0, "q": 0.4})
    total = physics.integrate(physics.sersic, light, 128, PIXEL).sum((1, 2))
    torch.testing.assert_close(total, light["flux"], rtol=1e-2, atol=0)


@pytest.mark.parametrize("n", [1.0, 4.0, 5.0])
def test_pixels_are_as_exact_as_was_asked_for_wherever_the_cusp_is(n):
    light = profiles(*[LIGHT | {"x": x, "n": n} for x in (0.0, 0.04, 0.084)])
    exact = physics.integrate(physics.sersic, light, SIZE, PIXEL, 1e-6)
    peak = exact.amax((1, 2), keepdim=True)
    for tolerance in (1e-2, 1e-3, 1e-4):
        found = physics.integrate(physics.sersic, light, SIZE, PIXEL, tolerance)
        assert ((found - exact).abs() / peak).max() < 3 * tolerance


def test_the_finest_pixels_are_those_of_a_plain_sum():
    """One pixel at 300 x 300 points, and the same one by cutting cells."""
    light = profiles(LIGHT)
    x, y = physics.grid(300, PIXEL / 300)
    plain = physics.sersic(light, x + PIXEL / 2, y - PIXEL / 2).mean() * PIXEL**2
    found = physics.integrate(physics.sersic, light, SIZE, PIXEL)[0, SIZE // 2 - 1, SIZE // 2]
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=0)


def test_a_counter_image_smaller_than_a_pixel_is_not_lost():
    lens = {
        "x": -0.095,
        "y": -0.057,
        "theta_e": 0.803,
        "q": 0.615,
        "phi": 2.641,
        "gamma1": 0.076,
        "gamma2": 0.093,
    }
    source = {"x": 0.526, "y": -0.044, "q": 1.0, "phi": 0.0, "n": 1.0, "radius": 0.093, "flux": 1.0}
    light = profiles(source | {f"lens_{name}": value for name, value in lens.items()})
    x, y = physics.grid(SIZE * 27, PIXEL / 27)
    plain = physics.lensed(light, x, y)[0].reshape(SIZE, 27, SIZE, 27).mean((1, 3)) * PIXEL**2
    found = physics.integrate(physics.lensed, light, SIZE, PIXEL)[0]
    assert ((found - plain).abs() / plain.max()).max() < 2e-3


@pytest.mark.parametrize("shape", physics.SHAPES)
def test_components_of_the_survey_are_as_exact_as_a_plain_sum(shape, monkeypatch):
    """Before seeing, which takes most of what is left away; against 27 x 27 points in every pixel."""
    seen = []

    def integrate(brightness, light, size, pixel, **more):
        found = physics_integrate(brightness, light, size, pixel, **more)
        if brightness is physics.SHAPES[shape]:
            for part in range(min(4, len(found))):
                one = {name: values[part : part + 1] for name, values in light.items()}
                x, y = physics.grid(size * 27, pixel / 27)
                plain = brightness(one, x, y)[0].reshape(size, 27, size, 27).mean((1, 3)) * pixel**2
                seen.append(((found[part] - plain).abs() / plain.max()).max().item())
        return found

    physics_integrate = physics.integrate
    monkeypatch.setattr(physics, "integrate", integrate)
    kinds = np.array((["armed"] if shape == "young" else ["lens", "spiral", "merger", "ring"]) * 6)
    render(preset("survey"), kinds, ("exact", shape), bands=[2])
    assert len(seen) >= 4
    # A de Vaucouleurs cusp needs more than 27 points itself; narrow arms are wound more tightly than pixels are wide.
    assert np.median(seen) < (2e-3 if shape == "young" else 1e-3)
    assert max(seen) < (2e-2 if shape == "sersic" else 4e-3)


def test_young_stars_have_a_disc_s_light_on_every_circle_and_most_of_it_on_the_arms():
    """Outside the bulge; an arm is where m (angle + turn) = m ln r / tan pitch, modulo 2 pi."""
    shape = {"arms": 2.0, "pitch": 0.4, "turn": 0.7, "sharp": 6.0}
    disc = LIGHT | {"x": 0.0, "y": 0.0, "q": 1.0, "phi": 0.0, "n": 1.0}
    light = profiles(disc | shape)
    angle = torch.linspace(-np.pi, np.pi, 721)[:-1][None]
    for radius in (0.9, 1.5):
        x, y = radius * torch.cos(angle), radius * torch.sin(angle)
        found, smooth = physics.young(light, x, y)[0, 0], physics.sersic(light, x, y)[0, 0]
        hole = 1 - np.exp(-((2 * radius / disc["radius"]) ** 4))
        assert found.mean() == pytest.approx(hole * smooth.mean().item(), rel=1e-3)
        brightest = angle[0, found.argmax()].item()
        place = brightest + shape["turn"] - np.log(radius) / np.tan(shape["pitch"])
        assert np.cos(shape["arms"] * place) > 0.99
        assert (found > smooth).float().mean() < 0.4
    assert physics.young(light, torch.zeros(1, 1), torch.zeros(1, 1)).item() < 1e-2 * light["level"].item()
