"""CSV tables that list files: a path, a target, a fold, and whatever else is known of each."""

import os
from collections.abc import Iterator

import pandas as pd

from raylens.data import formats
from raylens.data.formats import Options, Row, Unit, opened
from raylens.errors import DataError

SUFFIXES = (".csv",)


def units(path: str, options: Options) -> list[Unit]:
    """A unit for each line; paths are relative to the table."""
    with opened(path) as source:
        table = pd.read_csv(source)
    if options.path_column not in table:
        raise DataError(
            f"{path} has no column {options.path_column!r}; set --path-column to one of {list(table)}"
        )
    folder = os.path.dirname(path)
    found = []
    for line in table.to_dict("records"):
        file = str(line.pop(options.path_column))
        label = line.pop(options.target_column, None)
        split = line.pop("split", None)
        whole = file if os.path.isabs(file) or "://" in file or not folder else f"{folder}/{file}"
        found.append(
            Unit(
                files=(whole,),
                id=os.path.splitext(file)[0],
                label=None if pd.isna(label) else label,
                split=None if pd.isna(split) else formats.SPLITS.get(split, split),
                columns={name: None if pd.isna(value) else value for name, value in line.items()},
                missing="" if formats.suffix(file) in formats.formats() else "unknown format",
            )
        )
    return found


def rows(path: str, options: Options) -> Iterator[Row]:
    for unit in units(path, options):
        yield from formats.rows(unit, options)
