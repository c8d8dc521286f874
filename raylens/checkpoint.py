"""A checkpoint is a directory that explains itself.

    run.yaml             every setting, resolved
    model.safetensors    the model that the run leaves behind: encoder and head
    state.safetensors    method (with its moving averages), optimizer: what a resumed run needs
    state.json           step, the optimizer's plain numbers; random numbers need no state, see raylens/seeds.py
    metrics.json         the last report
    data.json            classes, channels, size, and the manifests of the data
    version.json         raylens, its git commit if it was imported from a checkout, and what it ran on

Nothing in it is ever unpickled.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.fs
import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError

from raylens import config, find, storage
from raylens.config import Run, TaskConfig
from raylens.errors import ConfigError, RequestError
from raylens.models import Model, Turned
from raylens.tasks.base import Task


@dataclass(frozen=True)
class Facts:
    """What a model must know of its data: classes, channels, size in pixels, and the manifests it came from."""

    classes: tuple[str, ...]
    channels: int
    size: int
    manifests: Mapping[str, Any]
    scale: tuple[float, float] = (0.0, 1.0)
    """Mean and deviation, among training images, of the number that a regression predicts."""
    factor: int = 1
    """How many times finer the images are that super-resolution paints."""

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the channels; none where the first of the data did not say them."""
        return tuple(next(iter(self.manifests.values()))["bands"]) if self.manifests else ()

    def task(self, settings: TaskConfig) -> Task:
        """The task of these settings on this data. Raises ConfigError for one that there is not."""
        return find.task(settings.name)(
            self.classes, self.scale, factor=self.factor, width=settings.width, blocks=settings.blocks
        )


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back: its settings, data facts, last metrics and folder.

    `address` is what it was read by, and `folder` where its files are on this machine.
    """

    folder: Path
    address: str
    run: Run
    facts: Facts
    metrics: Mapping[str, float | str]

    @property
    def versions(self) -> dict[str, str]:
        """What it was trained with, by name; nothing where that was not kept."""
        path = self.folder / "version.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    @cached_property
    def weights(self) -> str:
        """SHA-256 of the file of the weights, which tells one checkpoint from another of the same place."""
        return hashlib.sha256((self.folder / "model.safetensors").read_bytes()).hexdigest()

    def model(self, device: torch.device | str = "cpu", *, dihedral: bool = False) -> Model:
        """The model, in evaluation mode; `dihedral`, averaged over the turns and mirrors of each image.

        Raises ConfigError when its weights cannot be read, fit no such model or are not finite, and for turns of
        painted images.
        """
        if dihedral and self.run.task.name == "super_resolution":
            raise ConfigError(f"{self.address} paints images, which are not averaged; leave --dihedral out")
        model = build_model(self.run, self.facts, weights=False)
        tensors = _tensors(self.folder / "model.safetensors")
        _load(model, tensors, self.folder)
        if not all(value.isfinite().all() for value in tensors.values()):
            raise ConfigError(
                f"the weights in {self.address} are not finite: its training diverged; take another checkpoint"
            )
        model = model.eval().to(device)
        return Turned(model) if dihedral else model

    def method(self, device: torch.device | str = "cpu") -> torch.nn.Module:
        """The method as it was left, with what it learned beside the model. Raises ConfigError if that was not kept."""
        method = find.method(self.run.method.name)(
            self.run.method, self.model(), self.facts.task(self.run.task)
        )
        if not (self.folder / "state.safetensors").exists() and "://" in self.address:
            _fetch(self.address, self.folder, state=True)
        held = _tensors(self.folder / "state.safetensors")
        named = {name.removeprefix("method/"): v for name, v in held.items() if name.startswith("method/")}
        _load(method, named, self.folder)
        return method.eval().to(device)


def build_model(run: Run, facts: Facts, *, weights: bool = True) -> Model:
    """An encoder and a head as the settings say; without `weights`, none are fetched for a pretrained encoder.

    Raises ConfigError for an encoder that there is not, or that cannot take images of this size.
    """
    module, settings = find.encoder(run.encoder.name), run.encoder
    if not weights and getattr(settings, "pretrained", False):
        settings = type(settings)(**{**_fields(settings), "pretrained": False})
    encoder = module.Encoder(settings, facts.channels, facts.size)
    return facts.task(run.task).model(encoder, facts.channels, facts.size)


def comparable(run: Run, facts: Facts) -> bool:
    """Whether the start of `run` says what `run`'s own model will say: of the same task, classes and scale."""
    assert run.start is not None, "there is a start"
    first = read(run.start)
    held = first.facts
    same = (
        held.classes == facts.classes
        if run.task.name == "classification"
        else (held.scale, held.factor) == (facts.scale, facts.factor)
    )
    return first.run.task == run.task and same


def start_model(run: Run, facts: Facts) -> Model:
    """The model of `run.start`; where that has another task or other classes, its encoder under a new head.

    A head of the same numbers with another mean and deviation goes on saying them. Raises ConfigError when it is no
    checkpoint or a broken one.
    """
    assert run.start is not None, "there is a start"
    first = read(run.start)
    start = first.model()
    if comparable(run, facts):
        return start
    model = build_model(run, facts, weights=False)
    model.encoder.load_state_dict(start.encoder.state_dict())
    if run.task.name == "regression" and first.run.task == run.task:
        (mean, deviation), (other, unit) = first.facts.scale, facts.scale
        with torch.no_grad():
            model.head.weight.copy_(start.head.weight * deviation / unit)
            model.head.bias.copy_((start.head.bias * deviation + mean - other) / unit)
    return model


def save(
    folder: str | Path,
    run: Run,
    facts: Facts,
    model: Model,
    metrics: Mapping[str, float | str],
    *,
    method: torch.nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    scaler: torch.amp.GradScaler | None = None,
    step: int = 0,
) -> None:
    """Write a checkpoint into `folder`; with method and optimizer it can be resumed from."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(config.dump(run))
    _write(folder / "metrics.json", {**metrics, "step": step})
    _write(folder / "data.json", vars(facts) | {"manifests": dict(facts.manifests)})
    _write(folder / "version.json", versions())
    safetensors.torch.save_file(_contiguous(model.state_dict()), folder / "model.safetensors")
    if method is not None and optimizer is not None:
        tensors = {f"method/{name}": value for name, value in method.state_dict().items()}
        numbers: dict[str, Any] = {"step": step, "optimizer": {}}
        numbers["scaler"] = scaler.state_dict() if scaler else {}
        for index, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer/{index}/{name}"] = value
                else:
                    numbers["optimizer"][f"{index}/{name}"] = value
        safetensors.torch.save_file(_contiguous(tensors), folder / "state.safetensors")
        _write(folder / "state.json", numbers)


def whole(path: str) -> bool:
    """Whether all that a training resumes from is at `path`, each file to its end."""
    try:
        for name in ("metrics.json", "state.json", "data.json"):
            json.loads(storage.read(f"{path}/{name}"))
        tensors = all(_ended(f"{path}/{name}.safetensors") for name in ("model", "state"))
        return tensors and storage.exists(f"{path}/run.yaml")
    except (OSError, ValueError):
        return False


def _ended(path: str) -> bool:
    """Whether a file of tensors is as long as its header says."""
    with storage.opened(path) as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        ends = [about["data_offsets"][1] for name, about in header.items() if name != "__metadata__"]
        return file.size() == 8 + length + max(ends, default=0)


def together(paths: Sequence[str]) -> list[Checkpoint]:
    """The checkpoints of an ensemble, of one or more. Raises ConfigError when they do not say the same of the same."""
    first, *others = found = [read(path) for path in paths]
    for index, other in enumerate(others, 1):
        if twin := next((one for one in found[:index] if one.weights == other.weights), None):
            raise ConfigError(f"{other.address} has the weights of {twin.address}; give each model once")
        for what in ("classes", "channels", "size", "bands"):
            if getattr(other.facts, what) != getattr(first.facts, what):
                raise ConfigError(
                    f"{other.address} has the {what} {getattr(other.facts, what)}, {first.address} "
                    f"{getattr(first.facts, what)}; an ensemble predicts the same of the same images"
                )
        if (other.run.task.name, other.run.data.transform) != (first.run.task.name, first.run.data.transform):
            raise ConfigError(
                f"{other.address} is of {other.run.task.name} on images by {other.run.data.transform}, {first.address} "
                f"of {first.run.task.name} by {first.run.data.transform}; an ensemble predicts the same of the same "
                "images"
            )
        if first.run.task.name == "regression" and other.run.task.target != first.run.task.target:
            raise ConfigError(
                f"{other.address} predicts {other.run.task.target}, {first.address} {first.run.task.target}; an "
                "ensemble predicts the same of the same images"
            )
    return found


def read(path: str | PathLike[str]) -> Checkpoint:
    """A checkpoint's settings and facts, from a folder or an address.

    Raises ConfigError when it is none or broken, DataError for an address of no known kind.
    """
    folder = _fetched(str(path)) if "://" in str(path) else Path(path).expanduser()
    if not (folder / "run.yaml").is_file() or not (folder / "model.safetensors").is_file():
        inner = [folder / name for name in ("best", "last") if (folder / name / "run.yaml").is_file()]
        hint = f"; did you mean {inner[0]}?" if inner else ""
        raise ConfigError(f"{path} is no checkpoint: it has no run.yaml and model.safetensors{hint}")
    try:
        given = config.read(folder / "run.yaml")
        _check_method(path, folder, given)
        run = config.build((given, str(folder / "run.yaml")))
        data = json.loads((folder / "data.json").read_text())
        metrics = json.loads((folder / "metrics.json").read_text())
        mean, deviation = map(float, data.get("scale", (0.0, 1.0)))
        size, factor = int(data["size"]), int(data.get("factor", 1))
        classes, channels = tuple(data["classes"]), int(data["channels"])
        facts = Facts(classes, channels, size, data["manifests"], (mean, deviation), factor)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(f"the checkpoint {path} is broken: {error}; take another one of its run") from None
    found = Checkpoint(folder, str(path), run, facts, metrics)
    if "://" in str(path):
        weakref.finalize(found, shutil.rmtree, folder, ignore_errors=True)
    return found


def _check_method(path: str | PathLike[str], folder: Path, given: Mapping[str, Any]) -> None:
    """Raises ConfigError where reading would import a module that came with the checkpoint: a download runs no code."""
    name = str(given.get("method.name"))
    module, colon, _ = name.partition(":")
    if not colon or module in sys.modules:
        return
    for entry in sys.path:
        package = (Path(entry or ".").absolute() / module.split(".")[0]).resolve()
        if folder.resolve().is_relative_to(package):
            raise ConfigError(
                f"the checkpoint {path} names a method of its own, {name}, in a folder that it lies in itself; if you "
                "know that code, import it first, or put it elsewhere"
            )


def versions() -> dict[str, str]:
    """Of raylens and of what it runs on and is installed: a loop may run without Ray."""
    found = {}
    for name in ("raylens", "ray", "torch", "timm", "numpy"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
        if name == "raylens" and (of := commit()):
            found["commit"] = of
    return found | {"python": platform.python_version()}


@cache
def commit(package: Path = Path(__file__).parent) -> str | None:
    """The git commit of the checkout that `package` lies in, `+changes` if the package differs from it.

    A copy without its .git is told by RAYLENS_COMMIT; without either, or without git, there is none.
    """
    if not (package.parent / ".git").exists():  # and not that of a project which it is installed for
        return os.environ.get("RAYLENS_COMMIT") or None
    asked = ("git", "--no-optional-locks", "status", "--porcelain=v2", "--branch", "--", package.name)
    elsewhere = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        said = subprocess.run(
            asked, cwd=package.parent, env=elsewhere, capture_output=True, text=True, timeout=5, check=True
        ).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    hashes = [line.split()[2] for line in said if line.startswith("# branch.oid")]
    changed = any(not line.startswith("#") for line in said)
    return f"{hashes[0][:8]}{'+changes' if changed else ''}" if hashes else None


def resume(
    folder: str | Path,
    method: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> int:
    """Put method and optimizer where the checkpoint left them; returns the steps done.

    Raises ConfigError when the checkpoint keeps no state, a broken one, or one of another method.
    """
    folder = Path(folder)
    tensors = _tensors(folder / "state.safetensors")
    try:
        numbers = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} cannot be resumed from: {error}") from None
    named = {
        name.removeprefix("method/"): value for name, value in tensors.items() if name.startswith("method/")
    }
    _load(method, named, folder)
    state: dict[int, dict[str, Any]] = {}
    for name, value in [*tensors.items(), *((f"optimizer/{k}", v) for k, v in numbers["optimizer"].items())]:
        kind, _, rest = name.partition("/")
        if kind == "optimizer":
            index, _, key = rest.partition("/")
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape:  # fused steps go along memory: it has to be laid out alike
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    if numbers["scaler"]:
        scaler.load_state_dict(numbers["scaler"])
    return numbers["step"]


def _load(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"the weights in {folder} do not fit its run.yaml: {reason}") from None


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"the weights {path} cannot be read: {error}; take another checkpoint of its run"
        ) from None


def _fetched(address: str) -> Path:
    """The checkpoint in a folder of this machine, without what only a resumed training needs."""
    folder = Path(tempfile.mkdtemp(prefix="raylens-"))
    try:
        _fetch(address, folder, state=False)
    except RequestError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _fetch(address: str, folder: Path, *, state: bool) -> None:
    """Copy the files of the checkpoint at `address` into `folder`: those of a training's state, or all others."""
    try:
        fs, path = storage.filesystem(address)
        for info in fs.get_file_info(pyarrow.fs.FileSelector(path)):
            if info.is_file and info.base_name.startswith("state.") == state:
                target = folder / info.base_name
                pyarrow.fs.copy_files(info.path, str(target), source_filesystem=fs)
    except (OSError, pyarrow.ArrowException) as error:
        why = " ".join(str(error).split())[:200]
        raise ConfigError(f"the checkpoint {address} cannot be fetched: {why}") from None


def _contiguous(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, default=float))


def _fields(settings: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(settings).items() if not name.startswith("_")}
