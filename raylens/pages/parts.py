"""What is told of a run: its settings and data, its trials, and what the model that came of it is worth."""

from __future__ import annotations

import shlex
from hashlib import sha256
from typing import Any

import pandas as pd
import yaml

from raylens import checkpoint, config, find, tables
from raylens.checkpoint import Checkpoint
from raylens.cluster.worker import scored
from raylens.config import Run
from raylens.data.shards import read_manifest
from raylens.errors import DataError, RequestError
from raylens.pages import charts, models
from raylens.pages.blocks import Block, Chart, Code, Facts, Part, Picture, Section, Words
from raylens.pages.runs import Folder

ROWS = 20
"""Of a leaderboard, at most."""
VERBS = {"search": "tune", "training": "train"}
HEALTH = (
    "source/probe",
    "source/knn",
    "source/rankme",
    "source/spread",
    "monitor/alignment",
    "monitor/uniformity",
)
COLUMNS = {
    "difference": "minus source only",
    "target/auroc": "test AUROC",
    "source/auroc": "source val AUROC",
}


def part(folder: Folder, *, top: int, device: str) -> Part:
    """All that is told of the run in `folder`, with `top` images in each gallery. Reads labels of test splits."""
    if folder.kind == "benchmark":
        return _benchmark(folder)
    found = folder.checkpoint("best", "last")
    start = _start(folder, found) if found else None
    sections = [
        Section(_LEADERBOARD[folder.kind], _leaderboard(folder)),
        *(models.sections(folder.name, found, start, top=top, device=device) if found else ()),
        Section("How it went", _course(folder)),
        Section("What mattered", _importances(folder)),
        Section("What was run", _settings(folder, found)),
    ]
    return Part(_title(folder), _summary(folder, found), sections)


def _start(folder: Folder, found: Checkpoint) -> Checkpoint | None:
    """The model that was adapted, whether the run made it or was given it, if it tells the same classes."""
    if found.run.task.name != "classification" or find.method(found.run.method.name).start is None:
        return None
    start = folder.checkpoint("start")
    try:
        if start is None and found.run.start:
            start = checkpoint.read(found.run.start)
        same = start and checkpoint.comparable(found.run.replace(start=str(start.folder)), found.facts)
    except (RequestError, OSError):
        return None  # it has gone since
    return start if same else None


_LEADERBOARD = {"search": "Leaderboard", "finetuning": "Labels and starts", "training": "Last report"}


def _title(folder: Folder) -> str:
    run = folder.run
    task = run.task.name.replace("_", "-")
    if folder.kind == "finetuning":
        return f"{folder.name}: finetuning to {task}, encoder {run.encoder.name}"
    learned = "" if task in ("classification", "pretraining") else f", {task}"
    return f"{folder.name}: {folder.kind} of {run.method.name}{learned}, encoder {run.encoder.name}"


def _summary(folder: Folder, found: Checkpoint | None) -> list[Block]:
    """The result in a sentence or two, what went wrong first."""
    blocks: list[Block] = []
    if folder.run.search.oracle:
        blocks.append(
            Words("Chosen by target labels (search.oracle): these figures are cheating.", warning=True)
        )
    if found is None:
        return [
            *blocks,
            Words("The run has not ended: there is no checkpoint of its best model yet.", warning=True),
        ]
    if folder.kind == "finetuning":
        return [*blocks, *_finetuned(folder)]
    if folder.kind != "search" or folder.table is None:
        step = int(found.metrics.get("step", 0))
        said = f"The model is that of step {step} of {folder.run.fit.steps}"
        objective = found.metrics.get("objective")
        return [*blocks, Words(f"{said}{'' if objective is None else f', objective {scored(objective)}'}.")]
    released = _released(folder.table)
    if released is None:
        return [
            *blocks,
            Words("No trial may be released; the model is the one that all started from.", warning=True),
        ]
    metric = next(
        (name for name in folder.table if name.startswith("target/") and f"{name}_low" in folder.table), None
    )
    if metric is None or pd.isna(released[metric]):
        return [*blocks, Words(f"Released: {released['trial']}, objective {released['objective']:.4f}.")]
    name = metric.partition("/")[2].upper()
    said = f"Released: {released['trial']}, {name} {_interval(released, metric)} on the test split"
    if "difference" in folder.table and pd.notna(released["difference"]):
        said += f", {_interval(released, 'difference', '+')} over the model that was never adapted"
        blocks.append(Words(said + "."))
        if released["difference_low"] <= 0:
            worse = "below" if released["difference_high"] < 0 else "not clearly above"
            blocks.append(Words(f"That is {worse} the model that was never adapted.", warning=True))
        return blocks
    return [*blocks, Words(said + ".")]


def _released(table: pd.DataFrame) -> pd.Series | None:
    """The first row, unless it is not to be released."""
    first = table.iloc[0]
    refused = str(first.get("warnings") or "").startswith("not released")
    return None if refused or pd.isna(first.get("rank")) else first


def _finetuned(folder: Folder) -> list[Block]:
    """How a finetuned encoder compares with one from scratch, for each amount of labels."""
    table = folder.table
    if table is None or "over" not in table:
        return []
    metric = find.task(folder.run.task.name).measured
    rows = table[table["over"].notna()]
    return [
        Words(
            f"{row['encoder'].capitalize()} on {row['labels']} of the labels: {metric.upper()} "
            f"{_interval(row, metric)}, {_interval(row, 'over', '+')} against from scratch."
        )
        for row in rows.to_dict("records")
    ]


def _settings(folder: Folder, found: Checkpoint | None) -> list[Block]:
    """The command that repeats it, its settings that differ from the defaults, its data and versions."""
    run = folder.run
    known = config.settings(run.method.name, run.encoder.name)
    rows = [
        (path, _word(value), _word(config.plain(known[path].default))) for path, value in changed(run).items()
    ]
    blocks: list[Block] = []
    if folder.kind != "finetuning":  # of which the amounts of labels and the seeds are not among the settings
        blocks.append(Code(command(run, folder.kind)))
    if rows:
        blocks.append(
            Facts(
                pd.DataFrame(rows, columns=["setting", "value", "default"]),
                "All other settings are the defaults.",
            )
        )
    if found:
        blocks += _data(folder, found)
        if versions := found.versions:
            told = ", ".join(f"{name} {one}" for name, one in versions.items())
            blocks.append(Words(f"Trained with {told}."))
    return blocks


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
    for path, value in changed(run).items():
        written = (
            value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=9**9)
        )
        words += [f"--{path}", written.removesuffix("...\n").strip()]
    return shlex.join(words)


def _data(folder: Folder, found: Checkpoint) -> list[Block]:
    """The sets, as their manifests tell, with one hash over those of their files, and the commands that made them."""
    held = dict(found.facts.manifests)
    if folder.run.data.test:
        try:
            manifest = read_manifest(folder.run.data.test)
            held["test"] = {
                **vars(manifest),
                "splits": {name: vars(one) for name, one in manifest.splits.items()},
            }
        except DataError:
            pass
    rows = []
    for stream, one in held.items():
        splits = one["splits"]
        hashes = "".join(file.get("sha256", "") for part in splits.values() for file in part["files"])
        scale = one.get("arcsec_per_pixel")
        rows.append(
            {
                "stream": stream,
                "set": one["name"],
                "images": ", ".join(f"{name} {part['rows']}" for name, part in splits.items()),
                "training images": ", ".join(
                    f"{count} {name}" for name, count in splits.get("train", {}).get("labels", {}).items()
                ),
                "pixels": f"{one['channels']} x {one['size']} x {one['size']}"
                + (f", {scale:g} arcsec each" if scale else ""),
                "hash": sha256(hashes.encode()).hexdigest()[:12] if hashes else "",
            }
        )
    commands = [str((one.get("made") or {}).get("command", "")) for one in held.values()]
    made = Code("\n".join(filter(None, dict.fromkeys(commands))))
    told = Facts(pd.DataFrame(rows), "The hash is one over the SHA-256 of all files of the set.")
    return [told, made] if made.text else [told]


def _leaderboard(folder: Folder) -> list[Block]:
    if folder.kind == "finetuning":
        text = folder.text_of("finetuned.md")
        return [Facts(of_markdown(text))] if text else []
    if folder.kind == "training":
        found = folder.checkpoint("last")
        if found is None:
            return []
        rows = [(name, _word(value)) for name, value in found.metrics.items() if name != "warnings"]
        return [Facts(pd.DataFrame(rows, columns=["reported", "value"]))]
    if folder.table is None:
        return [Words("The search has not ended, and has no leaderboard yet.")]
    table, shown = folder.table, []
    trials = table["rank"].notna()
    for row in pd.concat([table[trials].head(ROWS), table[~trials]]).to_dict("records"):
        cells = {"": "" if pd.isna(row.get("rank")) else f"{row['rank']:.0f}", "trial": row["trial"]}
        for name in table:
            if name in ("rank", "trial", "checkpoint") or name.endswith(("_low", "_high")):
                continue
            head = COLUMNS.get(name, name.replace("source/", "source val "))
            if f"{name}_low" in table:
                cells[head] = _interval(row, name, "+" if name == "difference" else "")
            elif name == "objective":
                cells[head] = scored(None if pd.isna(row[name]) else row[name])
            else:
                cells[head] = _word(row[name])
        shown.append(cells)
    frame = pd.DataFrame(shown)
    frame = frame.loc[:, (frame != "").any()]
    more = "" if trials.sum() <= ROWS else f" {trials.sum() - ROWS} more trials are in leaderboard.csv."
    how = "In the order in which they were chosen."
    if any(name.endswith("_low") for name in table):
        how += " Intervals are 95 %, by bootstrap of the test images."
    return [Facts(frame, how + more)]


def _course(folder: Folder) -> list[Block]:
    """Reports against steps, and settings against what came of them."""
    if not folder.trials:
        return []
    several = len(folder.trials) > 1
    caption = "A line is a trial; a cross is where it was stopped early or has come so far, a triangle where it failed."
    blocks: list[Block] = []
    health = [name for name in HEALTH if any(name in trial.reports for trial in folder.trials)]
    if folder.run.task.name == "pretraining" and health:
        told = "Probe and kNN read labels to watch, and are not trained on; RankMe falls to 1 when features collapse."
        blocks.append(Chart(charts.grid(folder.trials, health), told))
    blocks.append(Chart(charts.curves(folder.trials), caption if several else "What the training reported."))
    space = config.space(folder.run) if folder.kind == "search" else {}
    if space and len(charts.ended(folder.trials)) > 1:
        told = "Settings of each trial and the objective of its last report. Drag along an axis to keep some lines."
        blocks.append(Chart(charts.parallel(folder.trials, space), told))
    return blocks


def _importances(folder: Folder) -> list[Block]:
    if folder.kind != "search":
        return []
    table = charts.importances(folder.trials, config.space(folder.run))
    count = len(charts.ended(folder.trials))
    if table is None and count < charts.FEWEST:
        few = f"{count} trials are too few to tell which settings matter; {charts.FEWEST} or more would do."
        return [Words(few)]
    if table is None:
        return [Words(f"All {count} trials came to the same objective: no setting mattered.")]
    told = (
        "Share of the differences in the objective of the last reports that each setting explains (functional ANOVA, "
        f"Hutter et al. 2014), of {count} trials, with 95 % intervals over trials. Trials stopped early count "
        "as they stood."
    )
    return [Chart(charts.bars(table), told)]


def _benchmark(folder: Folder) -> Part:
    """Tables and pictures of a benchmark, of each part of the test split that it has them of."""
    sections, summary = [], []
    for end, table in folder.tables.items():
        of = f" on {end[1:]}" if end else ""
        summary += _compared(table, of)
        blocks: list[Block] = [Facts(tables.readable(table), "Means over seeds with 95 % intervals.")]
        if picture := folder.bytes_of(f"table{end}.png"):
            caption = "What methods gain over source only: a dot a seed, a bar for the mean and its interval."
            blocks.append(Picture(f"{folder.name}-table{end}", picture, caption))
        sections.append(Section(f"Methods and encoders{of}", blocks))
        if text := folder.text_of(f"regret{end}.md"):
            told = "What each way of choosing among trials gives away of the best one's test AUROC."
            sections.append(Section(f"Choosing without target labels{of}", [Facts(of_markdown(text), told)]))
    sections.append(Section("What was run", [Code(folder.text)]))
    return Part(
        f"{folder.name}: benchmark",
        summary or [Words("The benchmark has not ended.", warning=True)],
        sections,
    )


def _compared(table: pd.DataFrame, of: str) -> list[Block]:
    """What each method gains over source only; those that are not clearly above it stand out."""
    told = table[table["method"] != tables.SOURCE_ONLY].to_dict("records")
    above, others = [], []
    for row in told:
        clear = row["difference_low"] > 0
        (above if clear else others).append(
            f"{row['method']} {_interval(row, 'difference', '+')} with {row['encoder']}"
        )
    blocks: list[Block] = []
    if above:
        blocks.append(Words(f"Above source only{of}, in AUROC: {'; '.join(above)}."))
    if others:
        blocks.append(Words(f"Not clearly above source only{of}: {'; '.join(others)}.", warning=True))
    return blocks


def of_markdown(text: str) -> pd.DataFrame:
    """The reverse of tables.markdown."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")] for line in text.strip().splitlines()
    ]
    return pd.DataFrame(rows[2:], columns=rows[0])


def _interval(row: Any, name: str, sign: str = "") -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return "" if pd.isna(value) else f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _word(value: Any) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return ""
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    return f"{value:.0f}" if whole else f"{value:.4g}" if isinstance(value, float) else str(value)
