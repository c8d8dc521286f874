"""What a model says of a set, one file at a time in memory; a set may be as large as it likes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from raylens.data.rows import prepared
from raylens.data.shards import HIGH, read_manifest, read_split, split_files
from raylens.errors import ConfigError, DataError
from raylens.find import guess
from raylens.loop import collect
from raylens.models import Model
from raylens.progress import counting
from raylens.records import Outputs
from raylens.storage import parquet

TRUTH = {"true": True, "1": True, "false": False, "0": False}
ENOUGH = 20_000
"""Rows that tell batch norm its statistics."""


def look(
    model: Model,
    data: str,
    split: str,
    transform: str,
    *,
    where: str | None = None,
    target: str | None = None,
    judge: Callable | None = None,
    batch: int = 256,
    device: str = "cpu",
) -> Outputs:
    """What `model` says of a split's labelled rows, all of them or those `where` COLUMN=VALUE[,VALUE...].

    With `target` the labels are the numbers, or images, of that column; images are judged, see collect, and not kept.

    Raises DataError when there are none, and ConfigError when there is no such column.
    """
    parts = []
    with counting(split, _expected(data, split, where)) as count:
        for rows in _rows(data, split, where, transform, target):
            if len(rows["label"]):
                asked = {"judge": judge, "batch": batch, "device": device, "count": count}
                part = collect(model, rows["pixels"], rows["label"], **asked)
                parts.append(part if judge is None else replace(part, labels=part.ids))  # twins are large
    if not parts:
        there = f" where {where}; there {_there(data, split, where)}" if where else ""
        raise DataError(f"no labelled row in split {split!r} of {data}{there}")
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("features", "logits", "labels")
    }
    return Outputs(**joined, ids=np.arange(len(joined["labels"])))


def examples(
    model: Model,
    data: str,
    split: str,
    transform: str,
    rows: int,
    *,
    where: str | None = None,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first `rows` images (N, C, H, W) of a split, what `model` paints of them, and their twins, both finer."""
    first = next(_rows(data, split, where, transform, HIGH))
    pixels, high = first["pixels"][:rows], first["label"][:rows]
    with torch.inference_mode():
        painted = model.eval()(torch.from_numpy(np.array(pixels)).to(device)).float().cpu().numpy()
    return pixels, painted, high


def some(data: str, split: str, transform: str, enough: int = ENOUGH) -> np.ndarray:
    """Preprocessed pixels (N, C, H, W) of a split, of as many of its first files as hold `enough` rows."""
    parts, rows = [], 0
    for file in split_files(data, split):
        with parquet(file) as held:
            parts.append(prepared(held.read(columns=["pixels"]), transform)["pixels"])
        rows += len(parts[-1])
        if rows >= enough:
            break
    return np.concatenate(parts)


def members(data: str, split: str, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Which of a split's labelled rows, in the order of `look`, are `where` COLUMN=VALUE[,VALUE...]; and all labels.

    Raises ConfigError when there is no such column.
    """
    column, values = _condition(data, where)
    masks, labels = [], []
    for file in split_files(data, split):
        with parquet(file) as held:
            table = held.read(columns=["label", column])
        table = table.filter(pc.is_valid(table["label"]))
        masks.append(_meets(table, column, values).to_numpy(zero_copy_only=False))
        labels.append(table["label"].to_numpy())
    return np.concatenate(masks), np.concatenate(labels)


def _expected(data: str, split: str, where: str | None) -> int:
    """Rows that `look` will see, or a few more: those without a label are found out on the way."""
    if where:
        return int(members(data, split, where)[0].sum())
    files = split_files(data, split)
    return read_manifest(data).splits[split].rows if files else 0


def _rows(
    data: str, split: str, where: str | None, transform: str, target: str | None
) -> Iterator[dict[str, np.ndarray]]:
    column, values = _condition(data, where) if where else (None, [])
    if target is not None and target not in read_manifest(data).columns:
        raise DataError(f"{data} has no column {target!r}, which the model predicts")
    columns = list(dict.fromkeys(["pixels", target or "label", *([column] if column else [])]))
    for file in split_files(data, split):
        with parquet(file) as held:
            groups = range(held.num_row_groups)
            for some in [[group] for group in groups] if target == HIGH else [groups]:  # twins are large
                table = held.read_row_groups(some, columns=columns)
                if column:
                    table = table.filter(_meets(table, column, values))
                if len(table):
                    yield prepared(table, transform, target)


def _condition(data: str, where: str) -> tuple[str, list[str]]:
    """The column and the values of COLUMN=VALUE[,VALUE...]."""
    column, _, values = where.partition("=")
    known = read_manifest(data).columns
    if column not in known or not values:
        hint = "" if column in known else guess(column, known)
        raise ConfigError(
            f"--where {where!r} is not COLUMN=VALUE with a column of {data}{hint}: {', '.join(known) or 'none'}"
        )
    return column, values.split(",")


def _there(data: str, split: str, where: str) -> str:
    """Which values the column of a condition has in a split, in words."""
    column, _ = _condition(data, where)
    values = sorted(set(map(str, read_split(data, split, (column,))[column])))
    more = f" and {len(values) - 10} more" if len(values) > 10 else ""
    return f"{'are' if len(values) > 1 else 'is'} {', '.join(values[:10])}{more}"


def _meets(table: pa.Table, column: str, values: list[str]) -> pa.ChunkedArray:
    held = table[column]
    if pa.types.is_boolean(held.type):
        return pc.is_in(
            held, pa.array([TRUTH[value.lower()] for value in values if value.lower() in TRUTH], pa.bool_())
        )
    if pa.types.is_integer(held.type) or pa.types.is_floating(held.type):
        kind = int if pa.types.is_integer(held.type) else float
        with suppress(ValueError):  # as a word it matches none, and what there is is told
            return pc.is_in(held, pa.array([kind(value) for value in values], held.type))
    return pc.is_in(held.cast(pa.string()), pa.array(values))
