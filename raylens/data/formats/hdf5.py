"""HDF5: named arrays, as in .npz, in any group."""

from collections.abc import Iterator

import h5py
import numpy as np

from raylens.data.formats import Options, Row, opened, stack_rows

SUFFIXES = (".h5", ".hdf5", ".hdf")


def rows(path: str, options: Options) -> Iterator[Row]:
    with opened(path) as source, h5py.File(source, "r") as file:
        arrays: dict[str, h5py.Dataset] = {}
        file.visititems(
            lambda name, item: arrays.update({name: item}) if isinstance(item, h5py.Dataset) else None
        )
        words = {
            name: array.asstr() for name, array in arrays.items() if h5py.check_string_dtype(array.dtype)
        }
        known = {name: array for name, array in arrays.items() if array.dtype.kind != "O"}
        yield from stack_rows(known | {name: np.asarray(array[()]) for name, array in words.items()}, options)
