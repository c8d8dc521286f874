"""What is told of a run: its settings and data, its trials, and what the model that came of it is worth."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from raylens import checkpoint, config, find, metrics, tables
from raylens.checkpoint import Checkpoint
from raylens.cluster.worker import scored
from raylens.errors import RequestError
from raylens.pages import charts, models, provenance
from raylens.pages.blocks import Block, Chart, Facts, Part, Picture, Row, Section, Words, worded
from raylens.pages.models import Result
from raylens.pages.runs import Folder, Trial

ROWS = 20
"""Of a leaderboard, at most."""
HEALTH = (
    "source/probe",
    "source/knn",
    "source/rankme",
    "source/dimensions",
    "source/spread",
    "monitor/alignment",
    "monitor/uniformity",
)
COLUMNS = {
    "difference": "minus source only",
    "target/auroc": "test AUROC",
    "source/auroc": "source val AUROC",
}
STAGES = ("measures", "scores", "features", "galleries", "what mattered")
"""Of a part, which `part` tells of as they begin; it may leave some out."""


def part(
    folder: Folder, *, top: int, device: str, stage: Callable[[str], object]
) -> tuple[Part, Result | None]:
    """All that is told of the run in `folder`, with `top` images in each gallery, and what its model came to.

    Reads labels of test splits. `stage` is told which of STAGES begins.
    """
    if folder.kind == "benchmark":
        return _benchmark(folder), None
    found = folder.checkpoint("best", "last")
    start = _start(folder, found) if found else None
    made, result = (
        models.sections(folder.name, found, start, top=top, device=device, stage=stage)
        if found
        else ([], None)
    )
    stage("what mattered")
    sections = [
        Section(_LEADERBOARD[folder.kind], _leaderboard(folder)),
        *made,
        Section("How it went", _course(folder)),
        Section("What mattered", _importances(folder)),
        Section("What was run", provenance.told(folder, found)),
    ]
    return Part(_title(folder), _summary(folder, found), sections), _chosen(folder, found, result)


def _chosen(folder: Folder, found: Checkpoint | None, result: Result | None) -> Result | None:
    """What a search says of the model that it releases, so that a page has one figure for it; else `result`."""
    if found is None or folder.kind != "search" or folder.table is None:
        return result
    released, metric = _released(folder.table), _metric(folder.table)
    if released is None or metric is None or pd.isna(released[metric]):
        return None if released is None else result
    ends = ("", "_low", "_high")
    value, difference = (
        tuple(float(released.get(f"{name}{end}", float("nan"))) for end in ends)
        for name in (metric, "difference")
    )
    data = Path(models.tested_on(found)).name
    return Result(metric.partition("/")[2], data, value, None if pd.isna(difference[0]) else difference)


def overview(folders: Sequence[Folder], made: Sequence[tuple[Part, Result | None]]) -> Part:
    """Runs side by side, a row each that leads to its part: what was measured, where, and what is wrong with it."""
    rows, sets = [], set()
    for folder, (told, result) in zip(folders, made, strict=True):
        run = folder.run
        row = {"run": folder.name, "method": "", "encoder": ""}
        row |= {"on the test split": "", "minus source only": "", "test set": ""}
        if run is not None:
            row |= {"method": run.method.name, "encoder": run.encoder.name}
        if result is not None:
            sets.add(result.data)
            row["on the test split"] = f"{result.metric.upper()} {_three(result.value)}"
            row["test set"] = result.data
            if result.difference is not None:
                row["minus source only"] = _three(result.difference, "+")
        remarks = [one.text for one in told.summary if isinstance(one, Words) and one.warning]
        if folder.kind == "benchmark" and folder.tables:
            table, remarks = pd.concat(folder.tables.values()), []  # of its methods its part tells
            methods = [name for name in dict.fromkeys(table["method"]) if name != tables.SOURCE_ONLY]
            row |= {"method": ", ".join(methods), "encoder": ", ".join(dict.fromkeys(table["encoder"]))}
        rows.append(row | {"remarks": " ".join(remarks)})
    table = pd.DataFrame(rows)
    table = table.loc[:, (table != "").any() | (table.columns == "run")]
    how = "Intervals are 95 %, by bootstrap of the test images."
    if len(sets) > 1:
        how += " Test sets differ: figures compare only where they are the same."
    links = [f"#part-{number}" for number in range(1, len(rows) + 1)]
    note = "remarks" if "remarks" in table else ""
    return Part("Side by side", [Facts(table, how if sets else "", note=note, links=links)])


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
        several = len(json.loads(folder.text_of("plan.json") or "{}").get("starts", [])) > 1
        what = "several checkpoints" if several else f"encoder {run.encoder.name}"
        return f"{folder.name}: finetuning to {task}, {what}"
    learned = "" if task in ("classification", "pretraining") else f", {task}"
    return f"{folder.name}: {folder.kind} of {run.method.name}{learned}, encoder {run.encoder.name}"


def _summary(folder: Folder, found: Checkpoint | None) -> list[Block]:
    """The result in a sentence or two, what went wrong first."""
    blocks: list[Block] = []
    if folder.run.search.oracle:
        blocks.append(
            Words("Chosen by target labels (search.oracle): these figures are cheating.", warning=True)
        )
    searched = folder.kind == "search" and folder.table is not None
    if found is None:
        said = (
            "No trial may be released, and there is no model that they started from."
            if searched
            else "The run has not ended: there is no checkpoint of its best model yet."
        )
        if folder.kind == "training" and folder.trials and (reason := folder.trials[0].diverged):
            said = f"The training diverged: {reason}."
        return [*blocks, Words(said, warning=True)]
    if folder.kind == "finetuning":
        return [*blocks, *_finetuned(folder)]
    if warnings := found.metrics.get("warnings"):
        blocks.append(Words(f"The training warned: {warnings}.", warning=True))
    released = _released(folder.table) if searched else None
    if searched and released is None:
        return [
            *blocks,
            Words("No trial may be released; the model is the one that all started from.", warning=True),
        ]
    if folder.run.task.name == "pretraining":
        return [*blocks, *_pretrained(found, released)]
    if not searched:
        step = int(found.metrics.get("step", 0))
        said = f"The model is that of step {step} of {folder.run.fit.steps}"
        objective = found.metrics.get("objective")
        return [*blocks, Words(f"{said}{'' if objective is None else f', objective {scored(objective)}'}.")]
    metric = _metric(folder.table)
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


def _pretrained(found: Checkpoint, released: pd.Series | None) -> list[Block]:
    """Which trial was released, if it was one, how far it is, and what its features tell, if they were measured."""
    said, held = [], found.metrics
    if released is not None:
        said.append(f"Released: {released['trial']}.")
    said.append(f"The encoder is that of step {int(held.get('step', 0))} of {found.run.fit.steps}.")
    if "source/rankme" in held:
        said.append(
            f"Its features fill {held['source/rankme']:.1f} dimensions (RankMe), their mean counted as one of them."
        )
    if "source/probe" in held:
        said.append(f"A linear probe of them has an AUROC of {held['source/probe']:.3f}.")
    return [Words(" ".join(said))]


def _metric(table: pd.DataFrame) -> str | None:
    """The column of what was measured on the test split, if anything was."""
    return next((name for name in table if name.startswith("target/") and f"{name}_low" in table), None)


def _released(table: pd.DataFrame) -> pd.Series | None:
    """The first row, unless it is not to be released."""
    first = table.iloc[0]
    refused = str(first.get("warnings") or "").startswith("not released")
    return None if refused or pd.isna(first.get("rank")) else first


def _finetuned(folder: Folder) -> list[Block]:
    """How finetuned encoders compare with the same from scratch, for each amount of labels; of many the best."""
    table = folder.table
    if table is None or "over" not in table:
        return []
    metric, rows = find.task(folder.run.task.name).measured, table[table["over"].notna()]
    said = [
        (
            row,
            f"on {row['labels']} of the labels: {metric.upper()} {_interval(row, metric)}, "
            f"{_interval(row, 'over', '+')} against from scratch.",
        )
        for row in rows.to_dict("records")
    ]
    if (compared := rows["encoder"].nunique()) <= 2:
        return [Words(f"{row['encoder'].capitalize()} {told}") for row, told in said]
    best = rows.groupby("labels")[metric]
    found = best.idxmin() if metric in metrics.LOWER_IS_BETTER else best.idxmax()
    return [
        Words(f"Best of {compared} {told} It is {row['encoder']}.")
        for index, (row, told) in zip(rows.index, said, strict=True)
        if index in set(found)
    ]


def _leaderboard(folder: Folder) -> list[Block]:
    if folder.kind == "finetuning":
        text, picture = folder.text_of("finetuned.md"), folder.bytes_of("finetuned.png")
        told: list[Block] = [Facts(of_markdown(text))] if text else []
        caption = "What each encoder is worth on each amount of labels: a bar for the mean and its interval."
        return [*told, *([Picture(f"{folder.name}-finetuned", picture, caption)] if picture else [])]
    if folder.kind == "training":
        found = folder.checkpoint("last")
        if found is None:
            return []
        rows = [(name, worded(value)) for name, value in found.metrics.items() if name != "warnings"]
        return [Facts(pd.DataFrame(rows, columns=["reported", "value"]))]
    if folder.table is None:
        return [Words("The search has not ended, and has no leaderboard yet.")]
    table, searched = folder.table, [*config.space(folder.run)]
    trials = table["rank"].notna()
    rows = pd.concat([table[trials].head(ROWS), table[~trials]]).to_dict("records")
    hidden = ("rank", "trial", "checkpoint", *searched)
    columns = [name for name in table if name not in hidden and not name.endswith(("_low", "_high"))]
    first = (_metric(table), "difference", "warnings")
    columns.sort(key=lambda name: first.index(name) if name in first else len(first))
    frame = pd.DataFrame(
        [_named(row) | {_head(one): _cell(table, row, one) for one in columns} for row in rows]
    )
    frame = frame.loc[:, (frame != "").any()]
    more = "" if trials.sum() <= ROWS else f" {trials.sum() - ROWS} more trials are in leaderboard.csv."
    how = "In the order in which they were chosen."
    if any(name.endswith("_low") for name in table):
        how += " Intervals are 95 %, by bootstrap of the test images."
    warned = "warnings" if "warnings" in frame else ""
    shown = [Facts(frame, how + more, note=warned, beside=True)]
    settings = [name for name in searched if name in table]
    chosen = [_named(row) | {name: worded(row[name]) for name in settings} for row in rows]
    chosen = [row for row in chosen if any(row[name] for name in settings)]
    return [*shown, Facts(pd.DataFrame(chosen), folded="Settings of the trials")] if chosen else shown


def _named(row: Any) -> dict[str, str]:
    """Rank and name of a row of a leaderboard."""
    return {"": "" if pd.isna(row.get("rank")) else f"{row['rank']:.0f}", "trial": row["trial"]}


def _head(name: str) -> str:
    of = name.removeprefix("target/")
    return COLUMNS.get(name, f"test {of}" if of != name else name.replace("source/", "source val "))


def _cell(table: pd.DataFrame, row: Any, name: str) -> str:
    if f"{name}_low" in table:
        return _interval(row, name, "+" if name == "difference" else "")
    if name == "objective":
        return scored(None if pd.isna(row[name]) else row[name])
    return worded(row[name])


def _course(folder: Folder) -> list[Block]:
    """Reports against steps, and settings against what came of them."""
    if not folder.trials:
        return []
    several = len(folder.trials) > 1
    how = pd.DataFrame([_ended(trial) for trial in folder.trials])
    caption = (
        "A line is a trial; a cross is where it was stopped early, a triangle where it failed, an open circle where it "
        "has come so far."
    )
    rungs = config.rungs(folder.run) if folder.kind == "search" else ()
    if rungs:
        caption += f" Dotted lines: one trial of {folder.run.search.reduction} goes on there (ASHA)."
    blocks: list[Block] = []
    health = [name for name in HEALTH if any(name in trial.reports for trial in folder.trials)]
    if folder.run.task.name == "pretraining" and health:
        told = (
            "Probe and kNN read labels to watch, and are not trained on; dimensions are RankMe about the features' "
            "mean, and fall to 1 when these collapse."
        )
        blocks.append(Row([Chart(charts.line(folder.trials, name), name) for name in health], told))
    blocks.append(
        Chart(
            charts.curves(folder.trials, rungs=rungs),
            caption if several else "What the training reported.",
            how,
        )
    )
    space = config.space(folder.run) if folder.kind == "search" else {}
    if space and len(charts.ended(folder.trials)) > 1:
        told = "Settings of each trial and the objective of its last report. Drag along an axis to keep some lines."
        blocks.append(Chart(charts.parallel(folder.trials, space), told, least=140 + 90 * len(space)))
    return blocks


def _ended(trial: Trial) -> dict[str, str]:
    """How a trial ended, in words."""
    last = trial.reports.iloc[-1]
    objective = last.get("objective")
    said = {"trial": trial.name, "state": trial.state, "steps": f"{last['step']:.0f}"}
    return said | {
        "objective": scored(None if pd.isna(objective) else objective),
        "error": trial.error or trial.diverged,
    }


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
        f"Hutter et al. 2014), of {count} trials, with 95 % intervals over trials. Trials short of their last "
        "step count as they stood."
    )
    shown = pd.DataFrame(
        {"setting": table["setting"], "share": [_share(row) for row in table.to_dict("records")]}
    )
    return [Chart(charts.bars(table), told, shown)]


def _share(row: Any) -> str:
    return f"{row['importance']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _benchmark(folder: Folder) -> Part:
    """Tables and pictures of a benchmark, of each part of the test split that it has them of."""
    sections, summary = [], []
    for end, table in folder.tables.items():
        of = f" on {end[1:]}" if end else ""
        summary += _compared(table, of)
        told = "AUROC and, below it, that minus source only: means over seeds with 95 % intervals."
        blocks: list[Block] = [Facts(tables.matrix(table), told)]
        if picture := folder.bytes_of(f"table{end}.png"):
            caption = "What methods gain over source only: a dot a seed, a bar for the mean and its interval."
            blocks.append(Picture(f"{folder.name}-table{end}", picture, caption))
        blocks.append(Facts(tables.readable(table), "Means over seeds with 95 % intervals."))
        sections.append(Section(f"Methods and encoders{of}", blocks))
        if text := folder.text_of(f"regret{end}.md"):
            told = "What each way of choosing among trials gives away of the best one's test AUROC."
            sections.append(Section(f"Choosing without target labels{of}", [Facts(of_markdown(text), told)]))
    released = _released_cells(folder)
    if len(released):
        told = "The checkpoint that each cell releases; raylens.evaluate, explain and predict take it."
        sections.append(Section("What is released", [Facts(released, told)]))
    sections.append(Section("What was run", provenance.of_benchmark(folder)))
    return Part(
        f"{folder.name}: benchmark",
        summary or [Words("The benchmark has not ended.", warning=True)],
        sections,
    )


def _released_cells(folder: Folder) -> pd.DataFrame:
    """Method, encoder, seed and checkpoint of what is released."""
    table = folder.table_of("trials.csv")
    if table is None:
        return pd.DataFrame()
    return table.loc[table["released"], ["method", "encoder", "seed", "checkpoint"]]


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
    return _three(tuple(row[f"{name}{end}"] for end in ("", "_low", "_high")), sign)


def _three(found: tuple[float, float, float], sign: str = "") -> str:
    value, low, high = found
    return "" if pd.isna(value) else f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"
