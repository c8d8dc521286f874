"""What a masked autoencoder paints is compared with what needs no learning, in the units it is trained in."""

import json

import numpy as np
import pytest
import torch

from raylens import checkpoint
from raylens.data.shards import ShardWriter
from raylens.errors import ConfigError, DataError
from raylens.evaluate import evaluate
from raylens.methods.mae import patches
from raylens.reconstruction import _interpolated, _whole, reconstruction


def paints(method, what):
    """Make the method paint `what(pixels)` of an image, in its own units, instead of what it learned."""

    def reconstruct(pixels, hidden):
        return None, patches(what(pixels), method.model.encoder.patch)

    method.reconstruct = reconstruct
    return method


@pytest.fixture
def slopes():
    """Images (6, 1, 32, 32) that are planes: interpolation tells them exactly."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    slopes = torch.tensor([[1, 2], [0, 1], [-1, 0.5], [3, 0], [0.2, 0.1], [1, 1]])
    return (slopes[:, :1, None] * y + slopes[:, 1:, None] * x)[:, None]


def test_patches_make_the_image_again():
    pixels = torch.rand(3, 2, 16, 16)
    torch.testing.assert_close(_whole(patches(pixels, 4), pixels.shape, 4), pixels)


def test_planes_are_interpolated_exactly_within_what_is_seen(slopes):
    hidden = torch.zeros(6, 16, dtype=torch.bool)
    hidden[:, [5, 6]] = True
    torch.testing.assert_close(_interpolated(slopes, hidden, 8), slopes, rtol=1e-4, atol=1e-3)
    hidden[:, 0] = True  # a corner, beyond what is seen: the nearest pixel
    made = _interpolated(slopes, hidden, 8)
    assert made.isfinite().all()
    assert not torch.allclose(made, slopes)


@pytest.mark.parametrize("normalised", [False, True])
def test_errors_are_of_the_masked_patches(tiny, slopes, normalised):
    method = tiny.method("mae", method={"normalised": normalised})
    found = reconstruction(paints(method, lambda pixels: pixels), slopes.numpy(), shown=2)
    assert len(found.masked) == 6
    assert [one.shape for one in found.images] == [(2, 1, 32, 32)] * 6
    assert np.isnan(found.images[1]).mean() == pytest.approx(0.75)
    if not normalised:
        np.testing.assert_allclose(found.masked, 0, atol=1e-9)
        np.testing.assert_allclose(found.noise, 0, atol=1e-9)  # it sees what is masked
        np.testing.assert_array_equal(found.images[2], found.images[0])
        assert (found.mean_of_visible > found.interpolated).all()


def test_who_paints_the_mean_has_the_error_of_the_mean_and_1_on_noise(tiny, slopes):
    method = paints(tiny.method("mae"), lambda pixels: torch.full_like(pixels, float(pixels.mean())))
    found = reconstruction(method, slopes[:1].repeat(40, 1, 1, 1).numpy())
    assert found.noise.mean() == pytest.approx(1, abs=0.02)
    normal = paints(tiny.method("mae", method={"normalised": True}), torch.zeros_like)
    found = reconstruction(normal, slopes.numpy())
    assert found.noise.mean() == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(found.masked, 1, atol=0.05)


def test_blank_images_have_no_part_in_it(tiny, slopes):
    method = paints(tiny.method("mae"), lambda pixels: pixels)
    found = reconstruction(method, torch.cat([torch.ones(2, 1, 32, 32), slopes]).numpy())
    assert len(found.masked) == len(found.noise) == 6
    assert np.isfinite(found.noise).all()
    with pytest.raises(DataError, match="all of 2 images are blank"):
        reconstruction(method, np.ones((2, 1, 32, 32)))


def test_an_evaluation_of_an_autoencoder_leaves_numbers_and_a_picture(tiny, tmp_path):
    run = tiny.run("mae")
    method = tiny.method(run)
    optimizer = torch.optim.AdamW(method.parameters())
    checkpoint.save(
        tmp_path / "run" / "last", run, tiny.facts(), method.result, {}, method=method, optimizer=optimizer
    )
    pixels, _ = tiny.domain(30, 0.5, 0, shifted=False)
    with ShardWriter(str(tmp_path / "sky")) as writer:
        writer.add("test", pixels, None, [str(row) for row in range(30)])
    words = [str(tmp_path / "run" / "last"), "--data", str(tmp_path / "sky"), "--resamples", "50"]
    out = tmp_path / "run" / "evaluation" / "last-sky-test"
    assert evaluate(words) == str(out)
    assert (out / "reconstruction.png").exists()
    report = json.loads((out / "metrics.json").read_text())
    assert report["rows"] == 30
    assert list(report["metrics"]) == ["masked", "mean_of_visible", "interpolated", "noise"]
    for one in report["metrics"].values():
        assert one["low"] <= one["value"] <= one["high"]
    again = checkpoint.read(tmp_path / "run" / "last").method()
    assert torch.equal(again.narrow.weight, method.narrow.weight)
    with pytest.raises(ConfigError, match="is a masked autoencoder"):
        evaluate([*words, "--where", "split=test"])
