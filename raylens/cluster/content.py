"""What a run's settings name by a path alone, its sets and checkpoints, by its digest: one made anew is another one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from raylens import checkpoint
from raylens.config import Run
from raylens.data import sets
from raylens.data.shards import read_manifest
from raylens.errors import ConfigError
from raylens.storage import exists, read, write


def of_runs(runs: Iterable[Run]) -> dict[str, str]:
    """Digests, by path, of the sets and starts that these runs were given. Raises DataError where there is none."""
    paths = {(setting == "start", path) for run in runs for setting, path in sets.given(run).items()}
    starts = of_checkpoints(path for start, path in paths if start)
    return starts | {path: _of_set(path) for start, path in paths if not start}


def of_checkpoints(paths: Iterable[str]) -> dict[str, str]:
    """Digests of checkpoints' weights, by path."""
    return {path: checkpoint.read(path).weights for path in paths}


def _of_set(path: str) -> str:
    held = read_manifest(path)
    files = [file["sha256"] for split in held.splits.values() for file in split.files]
    return hashlib.sha256(json.dumps([held.classes, held.bands, files]).encode()).hexdigest()


def check(folder: str, here: Mapping[str, str]) -> None:
    """Raises ConfigError when what is `here` is not what it was when the run in `folder` began."""
    held = _kept(folder)
    for path, digest in here.items():
        if held.get(path, digest) != digest:
            raise ConfigError(f"{path} was made anew since {folder} began; give another --name")


def keep(folder: str, here: Mapping[str, str]) -> None:
    """Note in `folder` what is `here`, for `check`."""
    write(f"{folder}/content.json", json.dumps({**_kept(folder), **here}, indent=1))


def _kept(folder: str) -> dict[str, str]:
    return json.loads(read(f"{folder}/content.json")) if exists(f"{folder}/content.json") else {}
