"""What a model says of a split, one file at a time in memory, labelled or not; and its images, by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from raylens.checkpoint import Checkpoint
from raylens.data.rows import prepared
from raylens.data.shards import read_manifest, read_split, split_files
from raylens.loop import collect
from raylens.metrics import softmax64
from raylens.progress import counting
from raylens.storage import parquet

UNKNOWN = -1


@dataclass(frozen=True)
class Seen:
    """A split as a model sees it: features (N, D), logits (N, K), labels (N,), -1 where unknown, and names (N,)."""

    domain: str
    """What it is called beside others; empty if it stands alone."""
    data: str
    split: str
    transform: str
    features: np.ndarray
    logits: np.ndarray
    labels: np.ndarray
    ids: np.ndarray

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Of each class, (N, K)."""
        return softmax64(self.logits)

    def pixels(self, rows: Sequence[int]) -> np.ndarray:
        """The images (M, C, H, W) of `rows` (M,), preprocessed as the model takes them."""
        wanted = np.asarray(rows, dtype=int)
        found: dict[int, np.ndarray] = {}
        begin = 0
        for file in split_files(self.data, self.split):
            with parquet(file) as held:
                here = wanted[(wanted >= begin) & (wanted < begin + held.metadata.num_rows)]
                if len(here):
                    table = held.read(columns=["pixels"]).take(here - begin)
                    found |= dict(zip(here.tolist(), prepared(table, self.transform)["pixels"], strict=True))
                begin += held.metadata.num_rows
        return np.stack([found[row] for row in wanted.tolist()])


def see(found: Checkpoint, domain: str, data: str, split: str, *, device: str = "cpu") -> Seen:
    """What the checkpoint's model says of all rows of a split."""
    model, transform = found.model(device), found.run.data.transform
    features, logits = [], []
    files = split_files(data, split)
    with counting(split, read_manifest(data).splits[split].rows) as count:
        for file in files:
            with parquet(file) as held:
                pixels = prepared(held.read(columns=["pixels"]), transform)["pixels"]
            said = collect(model, pixels, None, device=device, count=count)
            features.append(said.features)
            logits.append(said.logits)
    about = read_split(data, split, ("label", "id"))
    joined = np.concatenate(features), np.concatenate(logits)
    return Seen(domain, data, split, transform, *joined, about["label"], about["id"])
