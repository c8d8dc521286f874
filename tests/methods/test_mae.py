"""Two data-parallel workers train MAE as one does on their batches together, if all images hide the same patches."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch

from raylens import config
from raylens.cluster.worker import build, work
from raylens.config import Run
from raylens.errors import ConfigError
from raylens.methods.mae import MAE, deviations, patches, seen_mean
from tests.conftest import Tiny
from tests.methods import groups
from tests.methods.test_workers import farthest

WORLD, BATCH = 2, 32
"""Workers, and the batch of all of them together."""


def settings(batch: int) -> Run:
    """Plain gradient descent, views that are the images; no dropout."""
    return config.build(
        {"method": {"name": "mae", "decoder": 16, "depth": 1, "visible": 0.3}},
        {"encoder": {"name": "vit", "features": 16, "depth": 1, "heads": 2}},
        {"data": {"batch": batch, "views": "none"}},
        {"optimizer": {"name": "sgd", "lr": 0.05, "betas": (0.0, 0.0), "weight_decay": 0.0}},
        {"fit": {"steps": 3, "report_every": 3}},
    )


def every_fourth(method: MAE, rows: int, device: torch.device) -> torch.Tensor:
    """All patches but every fourth are hidden, of each image."""
    places = torch.arange(method.model.encoder.patches, device=device)
    return (places % 4 != 0).expand(rows, -1)


def trained(run: Run, rank: int = 0, world: int = 1) -> dict[str, torch.Tensor]:
    """All weights of the method, encoder and decoder."""
    tiny = Tiny()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MAE, "masked", every_fourth)
        (report,) = work(run, tiny.facts(), tiny.resident(rows=80), rank=rank, world=world)
    return {key: value.contiguous() for key, value in report.method.state_dict().items()}


def worker(rank: int, world: int, folder: str) -> None:
    weights = trained(settings(BATCH // world), rank, world)
    safetensors.torch.save_file(weights, f"{folder}/{rank}.safetensors")


def test_two_workers_learn_what_one_learns_from_their_batches_together(tmp_path):
    groups.run(worker, WORLD, tmp_path)
    run = settings(BATCH)
    alone, before = trained(run), build(run, Tiny().facts()).state_dict()
    for rank in range(WORLD):
        found = safetensors.torch.load_file(tmp_path / f"{rank}.safetensors")
        apart, moved = (max(farthest(alone, other).values()) for other in (found, before))
        assert apart < 1e-3 * moved, f"{apart:.2g} apart after {moved:.2g}"


def test_the_mean_of_what_is_seen_is_judged_as_the_paint_is(tiny):
    """Of a decoder that paints it, the loss and `mean_of_visible` are one, in pixels and in deviations of the patch."""
    for normalised in (False, True):
        method = tiny.method("mae", method={"normalised": normalised})
        side = method.model.encoder.patch

        def paints_the_mean(pixels, hidden, normalised=normalised, side=side):
            wanted = patches(pixels, side)
            mean = seen_mean(wanted, hidden, 1).expand_as(wanted)
            tokens = torch.rand(len(pixels), 5, 8)
            return tokens, (mean - wanted.mean(-1, keepdim=True)) / deviations(wanted) if normalised else mean

        method.reconstruct = paints_the_mean
        found = method(tiny.batch(method), 0.0)
        torch.testing.assert_close(found.terms["masked"], found.monitors["mean_of_visible"])


def test_a_decoder_has_a_width_for_each_of_its_heads(tiny):
    with pytest.raises(ConfigError, match=r"method\.decoder.*130"):
        tiny.run("mae", method={"decoder": 130})


def test_the_mean_of_what_is_seen_is_each_bands_own():
    pixels = torch.rand(2, 3, 8, 8)
    hidden = torch.tensor([[True, False, False, True], [False, True, True, False]])
    found = seen_mean(patches(pixels, 4), hidden, 3)
    for image in range(2):
        seen = [pixels[image, :, y : y + 4, x : x + 4] for y in (0, 4) for x in (0, 4)]
        for band in range(3):
            wanted = torch.stack(
                [one[band] for one, away in zip(seen, hidden[image], strict=True) if not away]
            ).mean()
            torch.testing.assert_close(found[image, 0, 16 * band : 16 * (band + 1)], wanted.expand(16))
