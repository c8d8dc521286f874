"""Which rows a step sees: a function of seed, rank and step, so that a resumed run sees what an undisturbed one would.

Streams never end. Rows come in seeded permutations, one after another, so every row is seen equally often whatever the
lengths of the sets; workers take turns in the same permutation, so two of them with a batch of B see in each step what
one with 2B would.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from raylens.seeds import seed


@dataclass(frozen=True)
class Shuffled:
    """All rows, `rows` (N,), in endless seeded permutations."""

    rows: np.ndarray
    key: tuple

    def take(self, begin: int, count: int) -> np.ndarray:
        """Rows at positions begin ... begin + count of the endless order."""
        positions = np.arange(begin, begin + count)
        rounds, places = np.divmod(positions, len(self.rows))
        taken = np.empty(count, dtype=np.int64)
        for turn in np.unique(rounds):
            here = rounds == turn
            taken[here] = self.rows[_permutation(len(self.rows), *self.key, int(turn))[places[here]]]
        return taken


@dataclass(frozen=True)
class Order:
    """Rows of each step for one worker.

    With `balance`, that share of every batch over all workers comes from the last class, rounded so that the running
    total is never off by a row, and the other classes share the rest equally.
    """

    rows: int
    batch: int
    key: tuple
    rank: int = 0
    world: int = 1
    labels: np.ndarray | None = None
    balance: float | None = None

    def step(self, step: int) -> np.ndarray:
        """Rows (batch,) that this worker sees at `step`."""
        together = self.batch * self.world
        mine = slice(self.rank * self.batch, (self.rank + 1) * self.batch)
        if self.balance is None:
            return Shuffled(np.arange(self.rows), self.key).take(step * together, together)[mine]
        known = np.unique(self.labels[self.labels >= 0])
        shares = np.full(len(known), (1 - self.balance) / max(1, len(known) - 1))
        shares[-1] = self.balance
        edges = np.concatenate([[0.0], np.cumsum(shares)])
        ends = np.round(np.outer([step, step + 1], edges[1:] * together) + 1e-9).astype(np.int64)
        ends[:, -1] = np.array([step, step + 1]) * together
        totals = np.diff(np.concatenate([[[0], [0]], ends], axis=1), axis=1)  # (2, K): rows of a class so far
        parts = [
            Shuffled(np.flatnonzero(self.labels == label), (*self.key, int(label))).take(begin, end - begin)
            for label, begin, end in zip(known, *totals, strict=True)
        ]
        mixed = np.random.default_rng(seed(*self.key, "mix", step)).permutation(np.concatenate(parts))
        return mixed[mine]


@lru_cache(maxsize=64)
def _permutation(count: int, *key: object) -> np.ndarray:
    return np.random.default_rng(seed(*key)).permutation(count)
