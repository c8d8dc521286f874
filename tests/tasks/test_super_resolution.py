"""Super-resolution: what it starts as, what it is judged by, and that it learns."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from raylens import find
from raylens.config import TaskConfig
from raylens.errors import ConfigError
from raylens.methods.supervised import Supervised
from raylens.metrics import PAINTING
from raylens.models import Painter
from raylens.records import Images
from raylens.tasks.super_resolution import Task, bicubic
from tests.conftest import toy_domain
from tests.models.test_contract import NAMES, make


def pairs(rows: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 1, 16, 16) and their twins (N, 1, 32, 32), rings and blobs."""
    high = torch.from_numpy(toy_domain(rows, 0.5, 0, shifted=False)[0])
    return F.avg_pool2d(high, 2), high


@pytest.mark.parametrize("name", NAMES)
def test_every_encoder_gives_maps_and_what_is_not_in_them_is_not_trained(name):
    torch.manual_seed(0)
    model = Task(factor=2, width=8, blocks=1).model(make(name), 1, 45)
    assert isinstance(model, Painter)
    pixels = torch.rand(2, 1, 45, 45)
    torch.testing.assert_close(model(pixels), bicubic(pixels, 2), msg="what it starts as")
    torch.nn.init.normal_(model.head.shuffle[0].weight)
    model(pixels).square().sum().backward()
    for path, weight in model.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad, path
    assert any(weight.grad is not None and weight.grad.any() for weight in model.encoder.parameters())


def test_details_of_cells_that_leave_the_frame_out_stay_where_these_look():
    """As of `ecnn`, whose maps have a cell every 4 pixels about the middle."""
    torch.manual_seed(0)
    model = Task(factor=2, width=8, blocks=1).model(make("ecnn", size=64), 1, 64)
    pixels = torch.rand(4, 1, 64, 64, requires_grad=True)
    maps = model.encoder.eval().maps(pixels)
    details = model.head.placed @ model.head.details(maps) @ model.head.placed.T
    for at in (20, 32, 44):
        (slope,) = torch.autograd.grad(details[:, :, at, at].square().sum(), pixels, retain_graph=True)
        weight = slope.square().sum((0, 1, 2))
        assert (weight * torch.arange(64)).sum() / weight.sum() == pytest.approx(at, abs=3), at


def test_an_encoder_without_maps_is_refused():
    encoder = make("test_resnet")
    encoder.network.forward_features = lambda pixels: pixels.mean((2, 3))
    with pytest.raises(ConfigError, match="encoder 'test_resnet' has no maps of an image"):
        Task().model(encoder, 1, 45)


def test_it_is_judged_as_scikit_image_judges():
    pixels, high = pairs(6)
    painted = high + 0.05 * torch.randn(high.shape, generator=torch.Generator().manual_seed(0))
    found = Task(factor=2).judge(painted, high, pixels).numpy()
    enlarged = bicubic(pixels, 2).numpy()
    for row, (true, ours, cubic) in enumerate(zip(high.numpy(), painted.numpy(), enlarged, strict=True)):
        span = float(true.max() - true.min())
        how = {"data_range": span, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        for image, columns in ((ours, (0, 1)), (cubic, (2, 3))):
            psnr = peak_signal_noise_ratio(true[0], image[0], data_range=span)
            assert -10 * np.log10(found[row, columns[0]]) == pytest.approx(psnr, rel=1e-4)
            above = structural_similarity(true[0] - true.min(), image[0] - true.min(), **how)
            assert found[row, columns[1]] == pytest.approx(above, abs=2e-4)
    said = Task(factor=2).metrics(found)
    assert said["psnr"] - said["bicubic_psnr"] == pytest.approx(said["psnr_gain"])
    spans = np.ptp(high.numpy(), axis=(1, 2, 3))
    for name, image in (("mse", painted.numpy()), ("bicubic_mse", enlarged)):
        errors = [mean_squared_error(*pair) for pair in zip(high.numpy(), image, strict=True)]
        assert said[name] == pytest.approx(np.mean(errors / spans**2), rel=1e-4)
    assert {f"bicubic_{name}" for name in ("mse", "psnr", "ssim")} < {
        *Task(factor=2).report(found)["metrics"]
    }


def test_finetuned_models_are_compared_by_what_is_known_of_bicubic_too():
    for name in (Task.measured, *Task.beside):
        assert name == "psnr_gain" or {name, f"bicubic_{name}"} <= {*PAINTING}


def test_units_do_not_matter():
    pixels, high = pairs(4)
    painted = high + 0.1
    one = Task(factor=2).judge(painted, high, pixels)
    other = Task(factor=2).judge(50 * painted + 7, 50 * high + 7, 50 * pixels + 7)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_it_learns_to_be_better_than_bicubic():
    torch.manual_seed(0)
    pixels, high = pairs()
    task = find.task("super-resolution")(factor=2, width=16, blocks=1)
    assert TaskConfig(name="super-resolution").name == "super_resolution"
    method = Supervised(Supervised.Config(), task.model(make("small", size=16), 1, 16), task)
    optimizer = torch.optim.AdamW(method.model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = method.losses(Images({"view": pixels}, high), 0.0).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model = method.model.eval()
    with torch.no_grad():
        assert task.metrics(task.judge(model(pixels), high, pixels).numpy())["psnr_gain"] > 0.5
