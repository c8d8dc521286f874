"""The folder of a search, a training, a finetuning or a benchmark, read back; a run need not have ended."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pyarrow.fs

from raylens import checkpoint, config, storage
from raylens.checkpoint import Checkpoint
from raylens.cluster.worker import WORST
from raylens.config import Run
from raylens.errors import ConfigError


@dataclass(frozen=True)
class Trial:
    """A training as it went: what was searched, and a row for each report, by step."""

    name: str
    settings: Mapping[str, Any]
    reports: pd.DataFrame
    steps: int
    """That it was to take."""
    error: str | None = None
    over: bool = False
    """Whether it goes on no more: its search has ended, or has stopped it."""

    @property
    def diverged(self) -> str:
        """Why it diverged, if it did: what its last report warned of."""
        last = self.reports.iloc[-1]
        return str(last.get("warnings", "")) if last.get("objective", 0.0) <= WORST else ""

    @property
    def state(self) -> str:
        """`ended`, `stopped early`, `failed` or, of one that runs still or can be resumed, `unfinished`."""
        if self.error or self.diverged:
            return "failed"
        if self.reports["step"].max() >= self.steps:
            return "ended"
        return "stopped early" if self.over else "unfinished"


@dataclass(frozen=True)
class Folder:
    """What is in the folder of a run."""

    path: str
    kind: str
    """search, training, finetuning or benchmark."""
    run: Run | None
    """None of a benchmark, which has many."""
    text: str
    """The file of its settings."""
    trials: tuple[Trial, ...]
    table: pd.DataFrame | None
    """Leaderboard, or what was finetuned, once it is there."""
    tests: Mapping[str, Any]
    """Reports of metrics on the test split, by name."""
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """A benchmark's, by what follows `table` in their files' names: nothing, or -PART of the test split."""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def checkpoint(self, *names: str) -> Checkpoint | None:
        """The first of the folders `names` that holds one."""
        for name in names:
            if storage.exists(f"{self.path}/{name}/model.safetensors"):
                return checkpoint.read(f"{self.path}/{name}")
        return None

    def text_of(self, name: str) -> str | None:
        """The content of a file in the folder, if it is there."""
        return _text(f"{self.path}/{name}")

    def table_of(self, name: str) -> pd.DataFrame | None:
        """The table in a file in the folder, if it is there."""
        return _table(f"{self.path}/{name}")

    def bytes_of(self, name: str) -> bytes | None:
        """The same, as bytes."""
        return _bytes(f"{self.path}/{name}")


def read(path: str) -> Folder:
    """The run in the folder or at the address `path`. Raises ConfigError when it is none."""
    path = path.rstrip("/")
    if grid := _text(f"{path}/grid.yaml"):
        return Folder(path, "benchmark", None, grid, (), None, {}, _tables(path))
    text = _text(f"{path}/run.yaml")
    if text is None:
        raise ConfigError(f"{path} is no run: it has no run.yaml; give a folder such as runs/<name>")
    if storage.exists(f"{path}/model.safetensors"):
        raise ConfigError(
            f"{path} is a checkpoint; give the folder of its run, {path.rpartition('/')[0] or '.'}, or measure it by "
            "raylens.evaluate"
        )
    run = config.build((config.read(f"{path}/run.yaml"), f"{path}/run.yaml"))
    tests = json.loads(_text(f"{path}/test.json") or "{}")
    if storage.exists(f"{path}/plan.json"):
        table = _table(f"{path}/finetuned.csv")
        trials = _trials(f"{path}/trials", run, over=table is not None)
        return Folder(path, "finetuning", run, text, trials, table, tests)
    # Its start was trained, either way.
    trained = storage.exists(f"{path}/workers") or not storage.exists(f"{path}/start-workers")
    if storage.exists(f"{path}/trials") or storage.exists(f"{path}/start-trial") or not trained:
        table = _table(f"{path}/leaderboard.csv")
        trials = _trials(f"{path}/trials", run, over=table is not None)
        return Folder(path, "search", run, text, trials, table, tests)
    trials = _training(path, run)
    return Folder(path, "training", run, text, trials, None, tests)


def _training(path: str, run: Run) -> tuple[Trial, ...]:
    reports = _reports(f"{path}/workers/reports.jsonl")
    return () if reports.empty else (Trial(path.rpartition("/")[2], {}, reports, run.fit.steps),)


def _trials(path: str, run: Run, *, over: bool) -> tuple[Trial, ...]:
    """Of Ray Tune's folders those in which something was reported, by name."""
    fs, inner = storage.filesystem(path)
    found = []
    for info in sorted(
        fs.get_file_info(pyarrow.fs.FileSelector(inner, allow_not_found=True)), key=lambda info: info.path
    ):
        folder = f"{path}/{info.base_name}"
        if info.type != pyarrow.fs.FileType.Directory or (reports := _reports(f"{folder}/result.json")).empty:
            continue
        settings = json.loads(_text(f"{folder}/params.json") or "{}")
        settings.pop("job", None)
        error = (_text(f"{folder}/error.txt") or "").strip().splitlines()
        back = reports["step"].max() >= run.fit.steps or _newer(reports, f"{folder}/error.txt")
        why = error[-1] if error and not back else None  # of an error that it came back from nothing is told
        stopped = reports.iloc[-1].get("done") in (True, 1.0)  # so Tune says that it has stopped it
        found.append(Trial(info.base_name, settings, reports, run.fit.steps, why, over or stopped))
    return tuple(found)


def _newer(reports: pd.DataFrame, path: str) -> bool:
    """Whether something was reported after the file was written."""
    fs, inner = storage.filesystem(path)
    written = fs.get_file_info(inner).mtime_ns
    return "timestamp" in reports and bool(written) and reports["timestamp"].max() > written / 1e9


def _reports(path: str) -> pd.DataFrame:
    """A row for each step, the last report of it; a line that was cut off is left out."""
    rows = []
    for line in (_text(path) or "").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    table = pd.DataFrame(rows)
    if "step" not in table:
        return pd.DataFrame()
    return table.drop_duplicates("step", keep="last").sort_values("step", ignore_index=True)


def _tables(path: str) -> dict[str, pd.DataFrame]:
    ends = [match[1] for name in storage.listed(path) if (match := re.fullmatch(r"table(.*)\.csv", name))]
    return {end: _table(f"{path}/table{end}.csv") for end in ends}


def _table(path: str) -> pd.DataFrame | None:
    """A table below lines that begin with "#"."""
    text = _text(path)
    return None if text is None else pd.read_csv(io.StringIO(re.sub(r"\A(#.*\n)*", "", text)))


def _text(path: str) -> str | None:
    content = _bytes(path)
    return None if content is None else content.decode(errors="replace")


def _bytes(path: str) -> bytes | None:
    return storage.read(path) if storage.exists(path) else None
