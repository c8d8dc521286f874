"""Folders of runs: who is at work in them, and how Ray is told of them."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import IO, Any

import pyarrow.fs

from raylens.errors import ConfigError
from raylens.storage import patient

_held: dict[str, IO] = {}
"""Locks by the paths of the runs that this process is at work on."""


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


def addressed(path: str, storage: str) -> str:
    """`path` as Ray tells it, without the scheme of the `storage` that it lies in, with that scheme again."""
    scheme, there, _ = storage.partition("://")
    return f"{scheme}://{path}" if there and "://" not in path else path
