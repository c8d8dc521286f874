"""What was run: the command that repeats it, its settings, its data with their hashes, and what it ran on."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

import pandas as pd
import yaml

from raylens import checkpoint, config
from raylens.checkpoint import Checkpoint
from raylens.config import Run
from raylens.data.shards import read_manifest
from raylens.errors import RequestError
from raylens.pages.blocks import Block, Code, Facts, Words, worded
from raylens.pages.runs import Folder

VERBS = {"search": "tune", "training": "train"}
STREAMS = ("source", "target", "test")


def told(folder: Folder, found: Checkpoint | None) -> list[Block]:
    """The command that repeats a run, its settings that differ from the defaults, its data and versions."""
    run = folder.run
    known = config.settings(run.method.name, run.encoder.name)
    rows = [
        (path, worded(value), worded(config.plain(known[path].default)))
        for path, value in changed(run).items()
    ]
    asked = folder.text_of("plan.json")
    blocks: list[Block] = [
        Code(of_finetuning(run, json.loads(asked)) if asked else command(run, folder.kind))
    ]
    if rows:
        table = pd.DataFrame(rows, columns=["setting", "value", "default"])
        blocks.append(Facts(table, "All other settings are the defaults."))
    held = dict(found.facts.manifests) if found else {}
    return [*blocks, *_data(held | _manifests(run, held)), *_versions(found)]


def of_benchmark(folder: Folder) -> list[Block]:
    """The command that repeats a benchmark, its file, the data of its cells and what they ran on."""
    table = folder.table_of("trials.csv")
    blocks: list[Block] = [
        Code(f"python -m raylens.benchmark --from {shlex.quote(f'{folder.path}/grid.yaml')} --name again"),
        Code(folder.text),
    ]
    paths = [] if table is None else table.dropna(subset=["checkpoint"]).groupby("seed")["checkpoint"].first()
    cells = [one for path in paths if (one := _checkpoint(path))]
    held = {}
    for one in cells:
        here = dict(one.facts.manifests)
        for stream, manifest in (here | _manifests(one.run, here)).items():
            held.setdefault(f"{stream}, seed {one.run.seed}", manifest)
    return [*blocks, *_data(_once(held)), *_versions(cells[0] if cells else None)]


def changed(run: Run) -> dict[str, Any]:
    """Settings that are not the defaults, by path; but for where the run lies."""
    known = config.settings(run.method.name, run.encoder.name)
    return {
        path: value
        for path, value in config.flat(run).items()
        if path in known and value != config.plain(known[path].default) and path not in ("name", "storage")
    }


def command(run: Run, kind: str) -> str:
    """What repeats a search or a training: its verb and method, and the settings that are not the defaults."""
    verb = "pretrain" if (kind, run.task.name) == ("training", "pretraining") else VERBS[kind]
    words = ["python", "-m", f"raylens.{verb}", run.method.name, "--encoder", run.encoder.name]
    return shlex.join([*words, *_flags(changed(run))])


def of_finetuning(run: Run, asked: Mapping[str, Any]) -> str:
    """What repeats a finetuning: its start and task, what plan.json says was `asked`, and its settings."""
    amounts = [
        "100%" if one is None else f"{100 * one:g}%" if one < 1 else f"{one:g}" for one in asked["labels"]
    ]
    words = ["python", "-m", "raylens.finetune", *asked.get("starts", [run.start])]
    words += [run.task.name.replace("_", "-")]
    words += ["--labels", *amounts, "--seeds", *map(str, asked["seeds"])]
    words += ["--frozen"] * asked["frozen"] + ["--no-scratch"] * (not asked["scratch"])
    taken = ("start", "task.name", "data.labels", "seed")
    return shlex.join(
        [*words, *_flags({path: value for path, value in changed(run).items() if path not in taken})]
    )


def _flags(settings: Mapping[str, Any]) -> list[str]:
    words = []
    for path, value in settings.items():
        written = (
            value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=9**9)
        )
        words += [f"--{path}", written.removesuffix("...\n").strip()]
    return words


def _manifests(run: Run, known: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """Of the sets of a run that no checkpoint tells of, as they are now; those that have gone are left out."""
    held = {}
    for stream in STREAMS:
        path = getattr(run.data, stream)
        if path is None or stream in known:
            continue
        try:
            manifest = read_manifest(path)
        except (RequestError, OSError):
            continue
        held[stream] = {
            **vars(manifest),
            "splits": {name: vars(one) for name, one in manifest.splits.items()},
        }
    return held


def _data(held: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """Sets, as their manifests tell, with one hash over those of their files, and the commands that made them."""
    if not held:
        return []
    rows = []
    for stream, one in held.items():
        splits, scale = one["splits"], one.get("arcsec_per_pixel")
        counts = splits.get("train", {}).get("labels", {})
        rows.append(
            {
                "stream": stream,
                "set": one["name"],
                "images": ", ".join(f"{name} {part['rows']}" for name, part in splits.items()),
                "training images": ", ".join(f"{count} {name}" for name, count in counts.items()),
                "pixels": f"{one['channels']} x {one['size']} x {one['size']}"
                + (f", {scale:g} arcsec each" if scale else ""),
                "hash": _hash(one),
            }
        )
    made = Code("\n".join(dict.fromkeys(filter(None, map(_command, held.values())))))
    shown = Facts(pd.DataFrame(rows), "The hash is one over the SHA-256 of all files of the set.")
    return [shown, made] if made.text else [shown]


def _hash(manifest: Mapping[str, Any]) -> str:
    hashes = "".join(file.get("sha256", "") for part in manifest["splits"].values() for file in part["files"])
    return sha256(hashes.encode()).hexdigest()[:12] if hashes else ""


def _command(manifest: Mapping[str, Any]) -> str:
    return str((manifest.get("made") or {}).get("command", ""))


def _once(held: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The same without what all seeds share, which is told once."""
    streams = {name.partition(",")[0] for name in held}
    found: dict[str, Mapping[str, Any]] = {}
    for stream in [one for one in STREAMS if one in streams]:
        of_stream = {name: one for name, one in held.items() if name.partition(",")[0] == stream}
        if len({_hash(one) for one in of_stream.values()}) == 1:
            of_stream = {stream: next(iter(of_stream.values()))}
        found |= of_stream
    return found


def _versions(found: Checkpoint | None) -> list[Block]:
    if found is None or not found.versions:
        return []
    return [Words(f"Trained with {', '.join(f'{name} {one}' for name, one in found.versions.items())}.")]


def _checkpoint(path: str) -> Checkpoint | None:
    try:
        return checkpoint.read(path)
    except (RequestError, OSError):
        return None  # it has gone since
