"""Processes that learn together, without Ray."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from raylens.cluster.launch import _free_port


def run(worker: Callable[[int, int, str], None], world: int, folder: Path) -> None:
    """Call `worker(rank, world, folder)` in each of the `world` processes of a group.

    They are forked from a process that has imported torch: to import it takes each ten seconds of a CPU.
    """
    multiprocessing.set_forkserver_preload(["raylens.cluster.worker", "torch.distributed"])
    given = (worker, world, _free_port(), str(folder))
    processes.start_processes(_join, given, nprocs=world, start_method="forkserver")


def _join(rank: int, worker: Callable[[int, int, str], None], world: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    worker(rank, world, folder)
    dist.destroy_process_group()
