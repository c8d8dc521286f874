"""CSV tables that list files: a path, a target, a fold, and whatever else is known of each."""

import io
import os
from collections.abc import Iterator

import pandas as pd

from raylens.data import formats
from raylens.data.formats import Options, Row, Unit, opened, settled
from raylens.errors import DataError, first_line
from raylens.find import guess

SUFFIXES = (".csv",)


def units(path: str, options: Options) -> list[Unit]:
    """A unit for each line; paths are relative to the table. Raises DataError."""
    try:
        with opened(path) as source:
            held = io.BytesIO(source.read())
            # Of whole numbers and an empty cell pandas makes floats otherwise, and other objects' names of ids.
            table = pd.read_csv(held, low_memory=False, dtype_backend="numpy_nullable")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is no table of paths: {first_line(error)}; give a CSV file with column names in its first line"
        ) from error
    if table.empty:
        raise DataError(f"{path} has no line of an image; give a table of some")
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
    lines = [
        {name: None if pd.isna(value) else value for name, value in line.items()}
        for line in table.to_dict("records")
    ]
    if options.target_column in table:
        _check_words(path, held, options.target_column)
    labels = settled(line.get(options.target_column) for line in lines)
    for line, label in zip(lines, labels, strict=True):
        file = str(line.pop(options.path_column))
        line.pop(options.target_column, None)
        split = line.pop("split", None)
        whole = file if os.path.isabs(file) or "://" in file or not folder else f"{folder}/{file}"
        found.append(
            Unit(
                files=(whole,),
                id=formats.stem_of(file),
                label=label,
                split=None if split is None else formats.SPLITS.get(split, str(split)),
                columns=line,
                missing="" if formats.suffix(file) in formats.formats() else "unknown format",
            )
        )
    return found


def _check_words(path: str, held: io.BytesIO, column: str) -> None:
    """Raises DataError for words that pandas takes for an empty cell, and that may well be a class."""
    held.seek(0)
    words = pd.read_csv(held, usecols=[column], dtype=str, keep_default_na=False)[column]
    for word in ("None", "NA", "N/A"):
        if (words.str.strip() == word).any():
            raise DataError(
                f"the column {column!r} of {path} has the word {word!r}, which may be a class or an empty cell; leave "
                "the cell empty, or give the class another name"
            )


def rows(path: str, options: Options) -> Iterator[Row]:
    for unit in units(path, options):
        yield from formats.rows(unit, options)
