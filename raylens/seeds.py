"""Random streams that depend on what they are for and on nothing else.

A seed is made from words and numbers, `seed(run.seed, "views", rank, step)`, so a run that resumes at step 500 draws
what it would have drawn, and no generator's state has to be carried along.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed(*parts: object) -> int:
    """A number below 2**63 for these parts, the same in every process and on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def reseed(device: torch.device | str, number: int) -> None:
    """What torch.manual_seed does, for this device and the CPU alone: asking every backend costs a tenth of a ms."""
    torch.default_generator.manual_seed(number)
    if torch.device(device).type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(number)


@contextmanager
def one_thread() -> Iterator[None]:
    """Around work that is to come out the same to the bit: how torch adds up depends on the number of its threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
