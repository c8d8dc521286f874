"""Sets larger than memory stream from Parquet through Ray Data's tasks, which also make the views.

A plan says which rows make up which step; Ray Data carries it out, a pool of row groups at a time, and hands over the
batches in order. The plan depends on seed, rank and step alone: a run that resumes at step 500 has its plan made from
there. Every worker has a plan of its own, as long as the run, so unequal shards cannot stall anyone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raylens import find, storage
from raylens.config import Run
from raylens.data.order import Order, Shuffled
from raylens.data.rows import prepared
from raylens.data.shards import split_files
from raylens.data.stream import Split, sizes, views
from raylens.data.tasks import ray_data
from raylens.methods.base import Method
from raylens.records import Images
from raylens.storage import parquet

POOL = 8
"""Row groups that are read and shuffled together, 500 rows each as raylens writes them."""


@dataclass(frozen=True)
class Streaming:
    """Streams of a Train worker whose sets do not fit in memory; validation splits do, up to data.validation_rows."""

    validation: dict[str, Split]

    def batches(
        self, run: Run, method: type[Method], *, rank: int = 0, world: int = 1, start: int = 0
    ) -> Iterator[dict[str, Images]]:
        """Batches by stream from step `start` on, to the end of the run."""
        from ray import train

        streams = {
            name: _images(train.get_dataset_shard(f"{name}-{rank}"), sizes(run)[name], start)
            for name in method.streams
        }
        try:
            with ThreadPoolExecutor(
                len(streams)
            ) as pool:  # tasks take seconds to start: all streams' at once
                yield dict(zip(streams, pool.map(next, streams.values()), strict=True))
            for together in zip(*streams.values(), strict=False):
                yield dict(zip(streams, together, strict=True))
        finally:
            for stream in streams.values():
                stream.close()


def datasets(run: Run, method: type[Method], trained: str) -> dict[str, Any]:
    """What a TorchTrainer is given: by stream and rank, a function that makes the dataset anew for each attempt.

    `trained` is the folder where the trainer keeps its checkpoints; the plan begins at the last of them.
    """

    def maker(stream: str, rank: int) -> Any:
        return lambda: dataset(run, stream, rank, start=steps_done(trained))

    return {
        f"{stream}-{rank}": maker(stream, rank)
        for stream in method.streams
        for rank in range(run.scale.workers)
    }


def dataset(run: Run, stream: str, rank: int, *, start: int = 0) -> Any:
    """A lazy Ray Dataset of one worker's batches from step `start` on: columns step, row, label, and one a view."""
    pools = [pool for pool in plan(run, stream, rank) if pool["last"] >= start]
    if not pools:
        pools = list(plan(run, stream, rank))[-1:]
    rows = ray_data().from_items(
        [{"pool": json.dumps(pool)} for pool in pools], override_num_blocks=len(pools)
    )
    # Ray Data may hand several pools to one task; the batches come out one by one all the same.
    return rows.map_batches(
        Pools(run, stream, rank), batch_size=1, batch_format="numpy", num_cpus=run.data.cpus
    )


def plan(run: Run, stream: str, rank: int) -> Iterator[dict[str, Any]]:
    """Pools of row groups with the steps that they serve, until the run's last step is served.

    Row groups come in endless seeded permutations; workers take turns at the pools. A pool has rows for a batch at
    least, and gives as many whole batches as it has rows for; rows and groups left over get their turn when a later
    permutation pools them otherwise. One that has all groups gives as many as there are rows with and without a label,
    so that it is not read for each step anew. Where batches are balanced, a pool without the last class, or with
    nothing else, is given one more group that has it.
    """
    path, batch = getattr(run.data, stream), sizes(run)[stream]
    labelled = stream == "source" and find.method(run.method.name).labelled
    groups, held = [], 0
    for file in split_files(path, "train"):
        with parquet(file) as opened:
            footer = opened.metadata
        held += footer.num_rows
        groups += [group for group in _groups(file, footer, labelled) if group.rows]
    order = Shuffled(np.arange(len(groups)), (run.seed, "groups", stream))
    needed = []
    if stream == "source" and run.data.balance is not None:
        last = max(group.high for group in groups)
        sides = ([group.high == last for group in groups], [0 <= group.low < last for group in groups])
        needed = [np.flatnonzero(side) for side in sides if any(side)]
    each = sum(group.rows for group in groups) / len(groups)
    size = min(max(POOL, math.ceil(batch / each) + 1), len(groups))  # + 1: some groups have fewer
    pools = len(groups) // size  # of a permutation: of two, a pool may have a group twice
    step, turn = 0, rank
    while step < run.fit.steps:
        chosen = order.take(turn // pools * len(groups) + turn % pools * size, size)
        for key, side in enumerate(needed):
            if not np.isin(chosen, side).any():
                chosen = np.append(chosen, Shuffled(side, (run.seed, "groups", stream, key)).take(turn, 1))
        pool = [groups[index] for index in chosen]
        rows = held if size == len(groups) else sum(group.rows for group in pool)
        count = max(1, rows // batch)
        yield {
            "groups": [(group.file, group.index) for group in pool],
            "turn": turn,
            "first": step,
            "last": min(step + count, run.fit.steps) - 1,
        }
        step, turn = step + count, turn + run.scale.workers


@dataclass(frozen=True)
class _Group:
    """A row group of a file: its rows, those with a label where others are left out, and their lowest and highest."""

    file: str
    index: int
    rows: int
    low: int
    high: int


def _groups(file: str, footer: pq.FileMetaData, labelled: bool) -> Iterator[_Group]:
    column = footer.schema.names.index("label") if "label" in footer.schema.names else None
    for index in range(footer.num_row_groups):
        held = footer.row_group(index)
        labels = None if column is None else held.column(column).statistics
        low, high = (labels.min, labels.max) if labels is not None and labels.has_min_max else (-1, -1)
        without = labels.null_count if labelled and labels is not None and labels.has_null_count else 0
        yield _Group(file, index, held.num_rows - without, low, high)


class Pools:
    """Ray Data's task: a pool of the plan -> its batches, views and all."""

    def __init__(self, run: Run, stream: str, rank: int) -> None:
        self.run, self.stream, self.rank = run, stream, rank

    def __call__(self, rows: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        for written in rows["pool"]:
            yield from self.batches(json.loads(written))

    def batches(self, pool: dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
        run, source = self.run, self.stream == "source"
        method = find.method(run.method.name)
        labelled = source and method.labelled
        target = find.task(run.task.name).column(run.task)
        columns = ["pixels", target or "label"] if labelled else ["pixels"]
        table = pa.concat_tables(_group(file, index, columns) for file, index in pool["groups"])
        held = prepared(table, run.data.transform, target if labelled else None)
        order = Order(
            rows=len(held["pixels"]),
            batch=sizes(run)[self.stream],
            key=(run.seed, "pool", self.stream, pool["turn"]),
            labels=held.get("label"),
            balance=run.data.balance if source else None,
        )
        for step in range(pool["first"], pool["last"] + 1):
            rows = order.step(step - pool["first"])
            made = views(run, method, held["pixels"][rows], (self.stream, self.rank, step))
            batch = {f"view/{name}": view.numpy() for name, view in made.items()}
            if labelled:
                batch["label"] = held["label"][rows]
            yield batch | {"step": np.full(len(rows), step), "row": rows}


def _group(file: str, index: int, columns: list[str]) -> pa.Table:
    with parquet(file) as held:
        return held.read_row_group(index, columns=columns)


def _images(shard: Any, batch: int, start: int) -> Iterator[Images]:
    batches = iter(shard.iter_torch_batches(batch_size=batch, prefetch_batches=2))
    for held in batches:
        step = int(held["step"][0])
        if step < start:
            continue
        assert step == start, f"the plan gave step {step} for {start}"
        start += 1
        found = {name.removeprefix("view/"): view for name, view in held.items() if name.startswith("view/")}
        yield Images(found, held.get("label"), held["row"])


def steps_done(trained: str) -> int:
    """Steps of the checkpoint that a trainer would resume from in the folder `trained`; 0 when there is none."""
    latest = _last_report(trained)
    return int(latest[0]["step"]) if latest else 0


def ended(trained: str, steps: int) -> tuple[dict[str, Any], str] | None:
    """Metrics and checkpoint of a trainer's last report in the folder `trained`, if that is of all `steps`."""
    latest = _last_report(trained)
    return latest if latest and latest[0]["step"] >= steps else None


def _last_report(trained: str) -> tuple[dict[str, Any], str] | None:
    """Metrics and checkpoint of the last report that a trainer has written down in the folder `trained`."""
    told = f"{trained}/checkpoint_manager_snapshot.json"
    if not storage.exists(told):
        return None
    latest = json.loads(storage.read(told)).get("latest_checkpoint_result")
    return (latest["metrics"], f"{trained}/{latest['checkpoint_dir_name']}") if latest else None
