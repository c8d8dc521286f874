"""Two endless, independently shuffled, seeded streams for a worker: source with labels, target without.

Resident sets are arrays, read once and shared by all trials through the object store, where a trial maps them without a
copy. The target's labels are never read into them. Views are made ahead of the step, in a thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from raylens import find
from raylens.augment import augment, twins
from raylens.config import Run
from raylens.data.order import Order
from raylens.methods.base import Method
from raylens.records import Images
from raylens.seeds import seed

AHEAD = 3
"""Steps whose views are ready before they are asked for."""


@dataclass(frozen=True)
class Split:
    """A split in memory: preprocessed pixels float32 (N, C, H, W) and labels.

    int64 (N,), or what else is to be predicted: float32 numbers (N,) or images (N, C, f H, f W); or None.
    """

    pixels: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True)
class Resident:
    """Sets that fit in memory, by stream: their training and validation splits."""

    train: Mapping[str, Split]
    validation: Mapping[str, Split]

    def batches(
        self, run: Run, method: type[Method], *, rank: int = 0, world: int = 1, start: int = 0
    ) -> Iterator[dict[str, Images]]:
        """Batches by stream from step `start` on, without end; close it to stop its thread."""
        orders = {
            name: Order(
                rows=len(self.train[name]),
                batch=sizes(run, world)[name],
                key=(run.seed, "order", name),
                rank=rank,
                world=world,
                labels=self.train[name].labels,
                balance=run.data.balance if name == "source" else None,
                among=few(self.train[name], run) if name == "source" else None,
            )
            for name in method.streams
        }

        def make(step: int) -> dict[str, Images]:
            return {
                name: self._images(run, method, name, orders[name].step(step), rank, step) for name in orders
            }

        return ahead(make, start)

    def _images(
        self, run: Run, method: type[Method], name: str, rows: np.ndarray, rank: int, step: int
    ) -> Images:
        split = self.train[name]
        labels = split.labels if name == "source" else None
        if labels is not None and labels.ndim == 4:
            view, high = twins(split.pixels[rows], labels[rows], seed(run.seed, "views", name, rank, step))
            same = dict.fromkeys(method.views, torch.from_numpy(view))
            return Images(same, torch.from_numpy(high), torch.from_numpy(rows))
        return Images(
            views=views(run, method, split.pixels[rows], (name, rank, step)),
            labels=None if labels is None else torch.from_numpy(labels[rows]),
            ids=torch.from_numpy(rows),
        )


def few(split: Split, run: Run) -> np.ndarray | None:
    """Rows of the source that data.labels leaves, a part of those of any larger number; None for all of them.

    Classes keep their shares, and every class at least one row.
    """
    wanted = run.data.labels
    if wanted is None or wanted == 1:
        return None
    share = wanted if wanted < 1 else wanted / len(split)
    labels = split.labels
    classes = np.zeros(len(split), np.int64) if labels is None or labels.dtype.kind == "f" else labels
    kept = []
    for label in np.unique(classes):
        rows = np.random.default_rng(seed(run.seed, "labels", int(label))).permutation(
            np.flatnonzero(classes == label)
        )
        kept.append(rows[: max(1, round(share * len(rows)))])
    return np.sort(np.concatenate(kept))


def sizes(run: Run, world: int | None = None) -> dict[str, int]:
    """Rows per worker and step of each stream.

    Where only `world` of scale.workers are there, each takes more, so that all together see as many as ever, but for
    less than a row a worker; a target batch that is a multiple of the source batch stays one.
    """
    source = run.data.batch
    target = run.data.target_batch or source * find.method(run.method.name).target_times
    more = max(1.0, run.scale.workers / (world or run.scale.workers))
    taken = round(source * more)
    return {
        "source": taken,
        "target": round(target * more) if target % source else taken * (target // source),
    }


def views(run: Run, method: type[Method], pixels: np.ndarray, key: tuple) -> dict[str, torch.Tensor]:
    """A method's views of rows, pixels (B, C, H, W): each from the same row, each drawn anew."""
    return {
        view: torch.from_numpy(
            augment(pixels, run.data.views or pipeline, seed(run.seed, "views", view, *key))
        )
        for view, pipeline in method.views.items()
    }


def ahead(make: Callable[[int], dict[str, Images]], start: int) -> Iterator[dict[str, Images]]:
    """make(start), make(start + 1), ...: made in a thread, up to AHEAD steps before they are asked for."""
    ready: queue.Queue = queue.Queue(maxsize=AHEAD)
    stop = threading.Event()

    def put(item: object) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        step = start
        try:
            while not stop.is_set():
                put(make(step))
                step += 1
        except BaseException as error:  # raised again where the batch is asked for
            put(error)

    thread = threading.Thread(target=work, name="raylens-views", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join(timeout=5)
