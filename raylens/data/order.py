"""Which rows a step sees: a function of seed, rank and step, so that a resumed run sees what an undisturbed one would.

Streams never end. Rows come in seeded permutations, one after another, so every row is seen equally often whatever the
lengths of the sets; workers take turns in the same permutation, so two of them with a batch of B see in each step what
one with 2B would.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

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
    among: np.ndarray | None = None
    """Rows to draw from; all without."""

    def step(self, step: int) -> np.ndarray:
        """Rows (batch,) that this worker sees at `step`."""
        together = self.batch * self.world
        mine = slice(self.rank * self.batch, (self.rank + 1) * self.batch)
        if self.balance is None:
            rows = np.arange(self.rows) if self.among is None else self.among
            return Shuffled(rows, self.key).take(step * together, together)[mine]
        classes = self._classes
        parts = [
            Shuffled(rows, (*self.key, label)).take(begin, end - begin)
            for (label, rows), begin, end in zip(
                classes.items(),
                self._counts(step * together),
                self._counts((step + 1) * together),
                strict=True,
            )
        ]
        mixed = np.random.default_rng(seed(*self.key, "mix", step)).permutation(np.concatenate(parts))
        return mixed[mine]

    @cached_property
    def _classes(self) -> dict[int, np.ndarray]:
        """Rows of each class, the last class last."""
        labels = self.labels
        if self.among is not None:
            labels = np.full_like(labels, -1)
            labels[self.among] = self.labels[self.among]
        return {int(label): np.flatnonzero(labels == label) for label in np.unique(labels) if label >= 0}

    def _counts(self, drawn: int) -> list[int]:
        """How many of the first `drawn` rows are of each class: never off by more than one, and never falling."""
        others = len(self._classes) - 1
        last = round(drawn * self.balance + 1e-9) if others else drawn
        return [*((drawn - last + others - 1 - turn) // others for turn in range(others)), last]


@lru_cache(maxsize=64)
def _permutation(count: int, *key: object) -> np.ndarray:
    return np.random.default_rng(seed(*key)).permutation(count)
