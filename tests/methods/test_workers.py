"""N data-parallel workers with batches of B learn what one with batches of N B learns."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from raylens import config, find
from raylens.cluster.worker import build, work
from raylens.config import Run
from tests.conftest import Tiny

APART = {
    "adabn": "batch norm gathers each worker's own statistics",
    "mae": "masks are drawn by each worker",
    "mcc": "class confusion is no sum over images",
    "wdgrl": "the points between the domains are drawn by each worker",
}
STEPS, BATCH = 3, 32
"""What rounding tells apart grows tenfold a step, so few steps; the batch is that of all workers together."""
CASES = {name: {"name": name} for name in find.names("methods") if name not in APART} | {
    "adda": {"name": "adda", "gate": 0.0},
    "self_ensembling, balanced": {"name": "self_ensembling", "balance": 1.0, "target_prior": 0.1},
    "twin, simsiam": {"name": "twin", "kind": "simsiam"},
}


def settings(name: str, batch: int) -> Run:
    """Plain gradient descent, views that are the images, an encoder without batch norm and dropout."""
    return config.build(
        {"method": CASES[name]},
        {"encoder": {"name": "test_convnext", "features": 16, "dropout": 0.0}},
        {"data": {"batch": batch, "target_batch": batch, "views": "none"}},
        {"optimizer": {"name": "sgd", "lr": 0.05, "betas": (0.0, 0.0), "weight_decay": 0.0}},
        {"fit": {"steps": STEPS, "report_every": STEPS}},
    )


def trained(name: str, batch: int, rank: int = 0, world: int = 1) -> dict[str, torch.Tensor]:
    """All weights and buffers of the method: the result's, and its opponents' and teachers'."""
    tiny = Tiny()
    (report,) = work(settings(name, batch), tiny.facts(), tiny.resident(rows=80), rank=rank, world=world)
    return {key: value.contiguous() for key, value in report.method.state_dict().items()}


def worker(rank: int, world: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    for name in CASES:
        weights = trained(name, BATCH // world, rank, world)
        safetensors.torch.save_file(weights, f"{folder}/{name}-{rank}.safetensors")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=(2, 4))
def together(request, tmp_path_factory) -> tuple[Path, int]:
    """Weights of every method as each of so many workers has them."""
    folder = tmp_path_factory.mktemp("workers")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes.spawn(worker, (request.param, port, str(folder)), nprocs=request.param)
    return folder, request.param


@pytest.mark.parametrize("name", CASES)
def test_workers_learn_what_one_learns_from_their_batches_together(together, one_thread, name):
    folder, world = together
    alone = trained(name, BATCH)
    before = build(settings(name, BATCH), Tiny().facts()).state_dict()
    for rank in range(world):
        found = safetensors.torch.load_file(folder / f"{name}-{rank}.safetensors")
        apart, moved = farthest(alone, found), farthest(alone, before)
        assert apart < 1e-3 * moved, f"{apart:.2g} apart after {moved:.2g}"


def farthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference between two of the same tensors."""
    return max(float((one[key] - other[key]).abs().max()) for key in one)


def test_what_is_left_out_is_there():
    assert set(APART) < set(find.names("methods"))
