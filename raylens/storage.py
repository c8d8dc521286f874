"""Files and folders on a local disk and at s3:// and gs:// addresses, alike."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as arrow_fs

from raylens.errors import DataError, first_line

ATTEMPTS = 14
"""With pauses of 1, 2, 4, ... 20 seconds at most, and half as long on average: about two minutes."""
PASSING = {errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ETIMEDOUT}
"""Faults of this machine or its network, which say nothing of a file."""


def filesystem(path: str | os.PathLike) -> tuple[arrow_fs.FileSystem, str]:
    """The file system that a path or address lies on, and the path there. Raises DataError where there is none."""
    path = os.fspath(path)
    if "://" not in path:
        return arrow_fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(path))
    try:
        return arrow_fs.FileSystem.from_uri(path.rstrip("/"))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"cannot open {path}: {first_line(error)}; give a local path, s3:// or gs://"
        ) from error


class Patient(arrow_fs.S3FileSystem):
    """S3 that is asked again for some minutes when it does not answer; pyarrow's own gives up after six seconds.

    For what a run reads and writes over hours, where a short absence should cost nobody a trial.
    """

    def __reduce__(self) -> tuple:
        """pyarrow's own pickle forgets how often to ask again."""
        return _patient, (_options(self),)


def _patient(options: dict[str, Any]) -> Patient:
    return Patient(**options, retry_strategy=arrow_fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS))


def _options(fs: arrow_fs.S3FileSystem) -> dict[str, Any]:
    return arrow_fs.S3FileSystem.__reduce__(fs)[1][0]


def waiting(fs: arrow_fs.FileSystem) -> arrow_fs.FileSystem:
    """`fs`, patient where it is S3. What lies elsewhere waits by itself, as Google's, or does not go away."""
    return _patient(_options(fs)) if isinstance(fs, arrow_fs.S3FileSystem) else fs


def patient(path: str | os.PathLike) -> tuple[arrow_fs.FileSystem, str]:
    """As `filesystem`, and waits out a short absence."""
    fs, inner = filesystem(path)
    return waiting(fs), inner


def exists(path: str) -> bool:
    """Whether there is a file or a folder at `path`."""
    fs, inner = patient(path)
    return fs.get_file_info(inner).type != arrow_fs.FileType.NotFound


def listed(path: str) -> list[str]:
    """The names of what is in a folder, in order; none where there is no folder."""
    fs, inner = patient(path)
    return sorted(
        info.base_name for info in fs.get_file_info(arrow_fs.FileSelector(inner, allow_not_found=True))
    )


def opened(path: str) -> pa.NativeFile:
    """A file to read from any place in it, and to close."""
    fs, inner = patient(path)
    return fs.open_input_file(inner)


@contextmanager
def parquet(path: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file, to read some of its columns or row groups."""
    with opened(path) as file:
        yield pq.ParquetFile(file)


def read(path: str) -> bytes:
    """What is in a file."""
    with opened(path) as file:
        return file.read()


def write(path: str, content: str | bytes) -> None:
    """Write a file, and the folders above it; it appears whole or not at all."""
    fs, inner = patient(path)
    begun = inner  # an object is there once it is whole
    if isinstance(fs, arrow_fs.LocalFileSystem):
        begun = inner = os.path.realpath(inner)  # a link stays one
        if os.path.isfile(inner) or not os.path.exists(inner):  # no pipe or terminal
            begun = f"{inner}.partial"
    fs.create_dir(inner.rpartition("/")[0], recursive=True)
    with fs.open_output_stream(begun) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
    if begun != inner:
        fs.move(begun, inner)


def delete(path: str) -> None:
    """Delete a file."""
    fs, inner = patient(path)
    fs.delete_file(inner)


def copy(source: str, out: str) -> None:
    """Copy a folder; on a local disk it appears whole or not at all."""
    fs, path = patient(source)
    there, target = patient(out)
    if not isinstance(there, arrow_fs.LocalFileSystem):
        arrow_fs.copy_files(path, target, source_filesystem=fs, destination_filesystem=there)
        return
    partial = f"{target}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    Path(partial).mkdir(parents=True)
    arrow_fs.copy_files(path, partial, source_filesystem=fs, destination_filesystem=there)
    shutil.rmtree(target, ignore_errors=True)
    Path(partial).rename(target)
