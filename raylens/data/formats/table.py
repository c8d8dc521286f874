"""CSV tables that list files: a path, a target, a fold, and whatever else is known of each."""

import os
from collections.abc import Iterator

import pandas as pd

from raylens.data import formats
from raylens.data.formats import Options, Row, Unit, opened, settled
from raylens.data.shards import first_line
from raylens.errors import DataError
from raylens.find import guess

SUFFIXES = (".csv",)


def units(path: str, options: Options) -> list[Unit]:
    """A unit for each line; paths are relative to the table. Raises DataError."""
    try:
        with opened(path) as source:
            table = pd.read_csv(source, low_memory=False)  # or a column's types change on the way
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is no table of paths: {first_line(error)}; give a CSV file with column names in its first line"
        ) from error
    if options.path_column not in table:
        raise DataError(
            f"{path} has no column {options.path_column!r}; set --path-column to one of {list(table)}"
        )
    for flag, column in options.required.items():
        if column not in table:
            hint, known = guess(column, list(table)), ", ".join(table)
            raise DataError(f"{path} has no column {column!r}{hint} for {flag}; there are {known}")
    folder = os.path.dirname(path)
    found = []
    labels = table[options.target_column] if options.target_column in table else [None] * len(table)
    for line, label in zip(table.to_dict("records"), settled(labels), strict=True):
        file = str(line.pop(options.path_column))
        line.pop(options.target_column, None)
        split = line.pop("split", None)
        whole = file if os.path.isabs(file) or "://" in file or not folder else f"{folder}/{file}"
        found.append(
            Unit(
                files=(whole,),
                id=os.path.splitext(file)[0],
                label=label,
                split=None if pd.isna(split) else formats.SPLITS.get(split, split),
                columns={name: None if pd.isna(value) else value for name, value in line.items()},
                missing="" if formats.suffix(file) in formats.formats() else "unknown format",
            )
        )
    return found


def rows(path: str, options: Options) -> Iterator[Row]:
    for unit in units(path, options):
        yield from formats.rows(unit, options)
