"""NumPy's .npz: named arrays, one of images and others beside it; or an array for each class."""

import zipfile
from collections.abc import Iterator

import numpy as np

from raylens.data.formats import Options, Row, Unreadable, opened, stack_rows

SUFFIXES = (".npz",)
MAGIC = b"PK"
"""What a zip file begins with."""


def rows(path: str, options: Options) -> Iterator[Row]:
    try:
        with opened(path) as source:
            if not MAGIC.startswith(source.read(len(MAGIC))):
                raise Unreadable("no .npz file")
            source.seek(0)
            with np.load(source, allow_pickle=False) as file:
                yield from stack_rows({name: file[name] for name in file.files}, options)
    except zipfile.BadZipFile as error:
        raise Unreadable("truncated") from error
    except ValueError as error:
        raise Unreadable("pickled" if "pickle" in str(error) else "truncated") from error
