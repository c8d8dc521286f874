"""Seeds depend on what they are for and on nothing else."""

import os
import subprocess
import sys

import numpy as np
import torch

from raylens.seeds import reseed, seed


def test_a_seed_is_the_same_in_every_process():
    code = "from raylens.seeds import seed; print(seed(0, 'views', 1, 500))"
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert int(there.stdout) == seed(0, "views", 1, 500)


def test_seeds_stay_as_they_are_so_that_old_runs_can_be_repeated():
    assert seed(0, "views", 1, 500) == 8131595864622819132


def test_seeds_differ_by_each_part():
    parts = [(a, b, c) for a in range(10) for b in ("views", "order") for c in range(100)]
    assert len({seed(*part) for part in parts}) == len(parts)
    assert seed(1, 11) != seed(11, 1)


def test_numpys_numbers_count_as_numbers():
    assert seed(np.int64(3), "step") == seed(3, "step")


def test_torch_and_numpy_take_any_seed():
    for part in range(1000):
        assert 0 <= seed(part) < 2**63
    torch.manual_seed(seed("any"))
    np.random.default_rng(seed("any"))


def test_reseeding_a_device_is_seeding_torch():
    torch.manual_seed(7)
    wanted = torch.rand(3)
    reseed("cpu", 7)
    assert torch.equal(torch.rand(3), wanted)
