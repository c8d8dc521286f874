"""Two workers killed halfway go on from the checkpoint, and learn bit for bit what they would have learned."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed as dist

from raylens import find
from raylens.cluster.worker import work
from raylens.config import Run
from tests.conftest import Tiny
from tests.methods import groups

CASES = {name: {"name": name} for name in find.names("methods")} | {
    "adda, at once": {"name": "adda", "gate": 0.0},
    "self_ensembling, balanced": {"name": "self_ensembling", "balance": 1.0, "target_prior": 0.1},
    "twin, simsiam": {"name": "twin", "kind": "simsiam"},
}
WAYS = ("straight", "resumed")


def settings(name: str) -> Run:
    """Views, dropout and optimizer as they are by default: each draws from what a killed worker loses."""
    case = dict(CASES[name])
    return Tiny().run(case.pop("name"), method=case)


def worker(rank: int, world: int, folder: str) -> None:
    for name in CASES:
        run, facts = settings(name), Tiny().facts()
        place, kept = {"rank": rank, "world": world}, f"{folder}/{name}"
        *_, whole = work(run, facts, Tiny().resident(rows=80), **place)
        halfway = next(half := work(run, facts, Tiny().resident(rows=80), **place))
        assert halfway.metrics["step"] == run.fit.steps // 2
        if rank == 0:
            halfway.save(kept)
        dist.barrier()
        half.close()
        torch.manual_seed(1234)  # another process
        *_, end = work(run, facts, Tiny().resident(rows=80), **place, resume=kept)
        for way, report in zip(WAYS, (whole, end), strict=True):
            held = {key: value.contiguous() for key, value in report.method.state_dict().items()}
            safetensors.torch.save_file(held, f"{kept}-{way}-{rank}.safetensors")


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """The weights that each of two workers has in the end, of every method."""
    folder = tmp_path_factory.mktemp("killed")
    groups.run(worker, 2, folder)
    return folder


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_a_killed_pair_of_workers_loses_nothing(killed, name, rank):
    straight, resumed = (
        safetensors.torch.load_file(killed / f"{name}-{way}-{rank}.safetensors") for way in WAYS
    )
    assert straight.keys() == resumed.keys()
    for key, value in straight.items():
        if rank == 1 and ("running" in key or "num_batches" in key):
            continue  # statistics of batch norm are the first worker's, which alone is saved
        assert torch.equal(value, resumed[key]), key
