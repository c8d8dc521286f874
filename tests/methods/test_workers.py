"""N data-parallel workers with batches of B learn what one with batches of N B learns."""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
import safetensors.torch
import torch

from raylens import config, find
from raylens.cluster.worker import build, work
from raylens.config import Run
from raylens.methods.base import Pretraining
from raylens.records import Images
from tests.conftest import Tiny
from tests.methods import groups

APART = {"mae": "masks are drawn by each worker"}
STEPS, BATCH = 3, 32
"""What rounding tells apart grows tenfold a step, so few steps; the batch is that of all workers together."""
ROUNDING = 2.4e-7
"""Two steps of float32 at 1."""
OWN = {
    "adabn": {"name": "adabn"},  # batch norm has each worker's own batches
    "wdgrl, steep": {"name": "wdgrl"},  # the points between the domains are drawn by each worker
}
"""What workers learn together, and what one would not."""
CASES = {name: {"name": name} for name in find.names("methods") if name not in APART | OWN} | {
    "adda": {"name": "adda", "gate": 0.0},
    "adda, gated": {"name": "adda", "gate": 0.37},
    "self_ensembling, balanced": {"name": "self_ensembling", "balance": 1.0, "target_prior": 0.1},
    "twin, simsiam": {"name": "twin", "kind": "simsiam"},
    "wdgrl": {"name": "wdgrl", "penalty": 0.0},
}


def settings(name: str, batch: int) -> Run:
    """Plain gradient descent, views that are the images, no dropout, and batch norm only where it is what learns."""
    encoder = {"name": "small", "width": 4} if name == "adabn" else {"name": "test_convnext", "dropout": 0.0}
    return config.build(
        {"method": (CASES | OWN)[name]},
        {"encoder": {**encoder, "features": 16}},
        {"data": {"batch": batch, "target_batch": batch, "views": "none"}},
        {"optimizer": {"name": "sgd", "lr": 0.05, "betas": (0.0, 0.0), "weight_decay": 0.0}},
        {"fit": {"steps": STEPS, "report_every": STEPS}},
    )


def trained(name: str, batch: int, rank: int = 0, world: int = 1) -> dict[str, torch.Tensor]:
    """All weights and buffers of the method: the result's, and its opponents' and teachers'."""
    tiny = Tiny()
    (report,) = work(settings(name, batch), tiny.facts(), tiny.resident(rows=80), rank=rank, world=world)
    return {key: value.contiguous() for key, value in report.method.state_dict().items()}


def worker(rank: int, world: int, folder: str) -> None:
    for name in CASES | OWN:
        weights = trained(name, BATCH // world, rank, world)
        safetensors.torch.save_file(weights, f"{folder}/{name}-{rank}.safetensors")


@pytest.fixture(scope="module", params=(2, 4))
def together(request, tmp_path_factory) -> tuple[Path, int]:
    """Weights of every method as each of so many workers has them."""
    folder = tmp_path_factory.mktemp("workers")
    groups.run(worker, request.param, folder)
    return folder, request.param


def found(folder: Path, name: str, world: int) -> list[dict[str, torch.Tensor]]:
    """What each worker has in the end."""
    return [safetensors.torch.load_file(folder / f"{name}-{rank}.safetensors") for rank in range(world)]


@pytest.mark.parametrize("name", CASES)
def test_workers_learn_what_one_learns_from_their_batches_together(together, name):
    folder, world = together
    alone = trained(name, BATCH)
    before = build(settings(name, BATCH), Tiny().facts()).state_dict()
    size = farthest(alone, {key: torch.zeros_like(value) for key, value in alone.items()})
    moved = farthest(alone, before)
    if issubclass(find.method(CASES[name]["name"]), Pretraining):
        # Its gradients cancel in some tensors but for rounding.
        moved = dict.fromkeys(moved, max(moved.values()))
    for weights in found(folder, name, world):
        for key, apart in farthest(alone, weights).items():
            most = 3e-5 * moved[key] + ROUNDING * size[key]
            assert apart <= most, f"{key} is {apart:.2g} apart after {moved[key]:.2g}"


def farthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, float]:
    """The largest difference within each of the same tensors that have any values."""
    return {key: float((one[key] - other[key]).abs().max()) for key in one if one[key].numel()}


def streams(name: str, rank: int, world: int) -> list[dict[str, Images]]:
    """The batches of one worker."""
    run = settings(name, BATCH // world)
    given = Tiny().resident(rows=80).batches(run, find.method(run.method.name), rank=rank, world=world)
    with closing(given) as batches:
        return [*islice(batches, STEPS)]


@pytest.mark.parametrize("world", [2, 4])
def test_a_gate_that_was_not_shared_would_open_for_some_workers_only(world):
    opens = set()
    for rank in range(world):
        method = build(settings("adda, gated", BATCH // world), Tiny().facts())
        first, *_ = streams("adda, gated", rank, world)
        opens.add(method(first, 0.0).monitors["gate_open"].item())
    assert opens == {0.0, 1.0}


def test_statistics_of_batch_norm_are_averaged_over_the_batches_of_all_workers(together):
    folder, world = together
    method = build(settings("adabn", BATCH // world), Tiny().facts()).train()
    for rank in range(world):
        for batch in streams("adabn", rank, world):
            method(batch, 0.0)  # one after the other, each counting alike
    wanted = {key: value for key, value in method.state_dict().items() if "running" in key}
    assert wanted
    for weights in found(folder, "adabn", world):
        for key, value in wanted.items():
            torch.testing.assert_close(weights[key], value, rtol=1e-5, atol=1e-6)


def test_a_critic_with_a_penalty_learns_the_same_on_all_workers(together):
    folder, world = together
    name = "wdgrl, steep"
    before = build(settings(name, BATCH), Tiny().facts()).state_dict()
    first, *others = found(folder, name, world)
    assert all(value.isfinite().all() for value in first.values())
    moved = farthest(first, before)
    assert moved["critic.0.weight"] > 0
    assert moved["model.encoder.project.1.weight"] > 0
    assert all(torch.equal(first[key], other[key]) for other in others for key in first)


def test_what_is_left_out_is_there():
    assert set(APART) < set(find.names("methods"))
