"""Folders of runs, on a local disk or at s3://, gs:// addresses."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import IO, Any

import pyarrow.fs

from raylens.data.s3 import waiting
from raylens.data.shards import filesystem
from raylens.errors import ConfigError

_held: dict[str, IO] = {}
"""Locks by the paths of the runs that this process is at work on."""


def patient(path: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system that a path or address lies on, which waits out a short absence, and the path there."""
    fs, inner = filesystem(path)
    return waiting(fs), inner


def kept(storage: str) -> dict[str, Any]:
    """What Ray's run configurations are told of where runs are kept."""
    if not storage.startswith("s3://"):
        return {"storage_path": storage}
    fs, inner = patient(storage)
    return {"storage_path": inner, "storage_filesystem": fs}


def hold(folder: str, setting: str = "--name") -> None:
    """Keep what is in `folder`, named by `setting`, to this process, until its verb ends: see `releases`.

    Raises ConfigError where another process holds it. At an address, and without locks on a disk, nobody can tell.
    """
    fs, path = patient(folder)
    if path in _held or not isinstance(fs, pyarrow.fs.LocalFileSystem):
        return
    Path(path).mkdir(parents=True, exist_ok=True)
    file = open(f"{path}/.lock", "w")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ConfigError(
            f"another process is at work on {folder}; wait for its end, or give another {setting}"
        ) from None
    except OSError:
        pass
    _held[path] = file


def releases(verb: Callable) -> Callable:
    """`verb`, after which the runs that it held are anybody's."""

    @wraps(verb)
    def released(*given: Any) -> Any:
        try:
            return verb(*given)
        finally:
            while _held:
                _held.popitem()[1].close()

    return released


def copy(source: str, out: str) -> None:
    """Copy a folder; on a local disk it appears whole or not at all."""
    fs, path = patient(source)
    there, target = patient(out)
    if not isinstance(there, pyarrow.fs.LocalFileSystem):
        pyarrow.fs.copy_files(path, target, source_filesystem=fs, destination_filesystem=there)
        return
    partial = f"{target}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    Path(partial).mkdir(parents=True)
    pyarrow.fs.copy_files(path, partial, source_filesystem=fs, destination_filesystem=there)
    shutil.rmtree(target, ignore_errors=True)
    Path(partial).rename(target)


def addressed(path: str, storage: str) -> str:
    """`path` as Ray tells it, without the scheme of the `storage` that it lies in, with that scheme again."""
    scheme, there, _ = storage.partition("://")
    return f"{scheme}://{path}" if there and "://" not in path else path


def exists(path: str) -> bool:
    """Whether there is a file or a folder at `path`."""
    fs, inner = patient(path)
    return fs.get_file_info(inner).type != pyarrow.fs.FileType.NotFound


def read(path: str) -> bytes:
    """What is in a file."""
    fs, inner = patient(path)
    with fs.open_input_stream(inner) as stream:
        return stream.read()


def write(path: str, content: str | bytes) -> None:
    """Write a file, and the folders above it; on a local disk it appears whole or not at all."""
    fs, inner = patient(path)
    fs.create_dir(inner.rpartition("/")[0], recursive=True)
    local = isinstance(fs, pyarrow.fs.LocalFileSystem)
    with fs.open_output_stream(f"{inner}.partial" if local else inner) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
    if local:
        fs.move(f"{inner}.partial", inner)
