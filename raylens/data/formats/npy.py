"""NumPy's .npy: one image, a stack, or DeepLense's pickled [image, mass]."""

import io
import os
import pickle
import pickletools
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from raylens.data.formats import Options, Row, Unreadable, channels_first, is_stack, opened, stack_rows
from raylens.errors import DataError, first_line

SUFFIXES = (".npy",)


def rows(path: str, options: Options) -> Iterator[Row]:
    array = load(path)
    if options.labels:
        labels = _labels(options.labels)
        labels = labels.argmax(-1) if labels.ndim == 2 and labels.shape[1] > 1 else labels.reshape(-1)
        if len(labels) != len(array):
            raise DataError(
                f"{options.labels} has {len(labels)} labels for the {len(array)} images of {path}"
            )
        yield from stack_rows({"pixels": array, "label": labels}, options)
    elif isinstance(array, list):
        image, mass = array
        yield Row(channels_first(image), columns={"log10_mass": float(np.log10(mass))})
    elif is_stack(array.shape):
        yield from stack_rows({"pixels": array}, options)
    else:
        yield Row(channels_first(array))


def _labels(path: str) -> np.ndarray:
    try:
        labels = load(path)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}; set --labels to a .npy file") from None
    except (Unreadable, OSError, ValueError) as error:
        raise DataError(f"--labels {path} cannot be read: {first_line(error)}; give a .npy file") from error
    if isinstance(labels, list) or not labels.ndim:
        raise DataError(f"--labels {path} holds no array of labels; give a .npy file with one for each image")
    return labels


def load(path: str) -> Any:
    """An array, mapped rather than read if the file is local; the list [image, mass] for a pickled pair."""
    with opened(path) as file:
        start = file.read(6)
        if start and not np.lib.format.MAGIC_PREFIX.startswith(start):
            raise Unreadable("pickled" if _is_pickle(file) else "no .npy file")
        file.seek(0)
        version = np.lib.format.read_magic(file)
        header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = header(file)
        if dtype.hasobject:
            return _pair(_load(file))
        size = int(np.prod(shape)) * dtype.itemsize
        start, end = file.tell(), file.seek(0, os.SEEK_END)
        if end - start < size:
            raise Unreadable("truncated")
        if size and not isinstance(file, io.BytesIO):
            return np.load(file.name, mmap_mode="r", allow_pickle=False)
        file.seek(start)
        return np.frombuffer(file.read(size), dtype).reshape(shape, order="F" if fortran else "C")


def _is_pickle(file: BinaryIO) -> bool:
    """Whether a file is a pickle of any protocol, by its first byte or its opcodes; nothing is loaded."""
    file.seek(0)
    if file.read(1) == pickle.PROTO:
        return True
    file.seek(0)
    try:
        for _ in pickletools.genops(file):
            pass
    except ValueError:
        return False
    return True


def _pair(value: Any) -> list[Any]:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], np.ndarray):
        return [value[0], float(np.asarray(value[1]).reshape(()))]
    raise Unreadable("pickled, and not [image, mass]")


def _load(file: BinaryIO) -> Any:
    try:
        return _plain(_NumPyOnly(file).load())
    except (EOFError, pickle.UnpicklingError) as error:
        raise Unreadable("truncated") from error


class _NumPyOnly(pickle.Unpickler):
    """Loads arrays and numbers and nothing else: nobody's class or function is looked up, not even NumPy's.

    The four names that a pickled array needs become the three stand-ins below, which only collect bytes.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray"):
            known = {"ndarray": _Array, "dtype": _DType, "_reconstruct": _Array, "scalar": _Scalar}
            if name in known:
                return known[name]
        raise Unreadable(f"pickled {module}.{name}")


class _DType:
    def __init__(self, name: str = "", *_: Any) -> None:
        self.name, self.order = str(name), "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="

    def real(self) -> np.dtype:
        dtype = np.dtype(self.name)
        if dtype.kind not in "fiub":
            raise Unreadable(f"pickled {dtype}")
        return dtype.newbyteorder(self.order)


class _Scalar:
    def __init__(self, dtype: _DType, data: bytes) -> None:
        self.value = np.frombuffer(data, dtype.real(), count=1)[0]


class _Array:
    def __init__(self, *_: Any) -> None:
        self.value: Any = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        if isinstance(data, list):  # an array of objects
            self.value = data
        else:
            self.value = np.frombuffer(data, dtype.real()).reshape(shape, order="F" if fortran else "C")


def _plain(value: Any) -> Any:
    if isinstance(value, _Array | _Scalar):
        value = value.value
    return [_plain(item) for item in value] if isinstance(value, list) else value
