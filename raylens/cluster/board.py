"""The leaderboard: trials in the order in which they were chosen, without target labels, and what they turn out to be.

The target's test labels are read here, once, after everything has been chosen.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd

from raylens import config, find, health, metrics, storage
from raylens.checkpoint import Facts
from raylens.cluster.choice import Gate, by_agreement
from raylens.cluster.found import Found
from raylens.cluster.launch import task_device
from raylens.cluster.worker import scored
from raylens.config import Run
from raylens.data import sets

SOURCE_ONLY, BATCH_NORM_ONLY = "source only", "batch norm only"
ORACLE = "CHOSEN BY TARGET LABELS (search.oracle): these figures are cheating and compare with nothing"


@dataclass(frozen=True)
class Measured:
    """The task's metric on the test split and the paired difference from source-only, each with its 95 % interval."""

    name: str
    value: tuple[float, float, float]
    difference: tuple[float, float, float] | None
    report: dict[str, Any]


def measure(run: Run, facts: Facts, data: Any, kept: list[str], start: str | None) -> dict[str, Measured]:
    """Measure checkpoints, and the model they started from, as it is and with the target's batch-norm statistics."""
    import ray

    tested = run.data.test or run.data.target
    if not sets.target_of(run) and not sets.labelled(sets.tested(run), "test"):
        print(f"the test split of {tested} has no labels, so nothing is measured there", flush=True)
        return {}
    task = ray.remote(num_cpus=run.scale.cpus, num_gpus=run.scale.gpus, max_retries=2)(_outputs)
    asked = {path: task.remote(path, tested, None) for path in kept}
    if start:
        asked[SOURCE_ONLY] = task.remote(start, tested, None)
        if "target" in sets.trained(run, find.method(run.method.name)):
            # A reference that is an argument by itself reaches the task as the data.
            asked[BATCH_NORM_ONLY] = task.remote(start, tested, data)
    outputs = {name: ray.get(reference) for name, reference in asked.items()}
    found, measures = {}, facts.task(run.task)
    for name, output in outputs.items():
        report = measures.report(output.logits, output.labels, seed=run.seed)
        metric = report["metrics"][measures.measured]
        scores = measures.scores(output.logits)
        differences = {
            base: metrics.paired(
                scores, measures.scores(outputs[base].logits), output.labels, measures.measured, seed=run.seed
            )
            for base in (SOURCE_ONLY, BATCH_NORM_ONLY)
            if base in outputs and name not in (SOURCE_ONLY, base)
        }
        report[f"{measures.measured}_minus"] = {
            base: dict(zip(("value", "low", "high"), difference, strict=True))
            for base, difference in differences.items()
        }
        interval = (metric["value"], metric["low"], metric["high"])
        found[name] = Measured(name, interval, differences.get(SOURCE_ONLY), report)
    return found


def _outputs(path: str, tested: str, data: Any) -> Any:
    """Outputs of a checkpoint on a test split; with `data`, by batch norm of the target's training images."""
    from raylens import checkpoint
    from raylens.data.outputs import look
    from raylens.models import adapt_batch_norm

    device = task_device()
    found = checkpoint.read(path)
    model = found.model(device)
    if data is not None:
        adapt_batch_norm(model, data.train["target"].pixels, device=device)
    return look(
        model,
        tested,
        "test",
        found.run.data.transform,
        target=sets.target_of(found.run),
        judge=found.facts.task(found.run.task).judge,
        device=device,
    )


class Board:
    """Trials and baselines as a table."""

    def __init__(
        self, run: Run, found: list[Found], measured: dict[str, Measured], gate: Gate | None = None
    ) -> None:
        self.run, self.found, self.searched = run, found, list(config.space(run))
        task = find.task(run.task.name)
        shown, self.metric = task.shown, f"target/{getattr(task, 'measured', '')}"
        self.shown = [name for name in shown if any(f"source/{name}" in trial.metrics for trial in found)]
        rows = []
        for rank, trial in enumerate(found, 1):
            settings = config.flat(trial.run)
            rows.append(
                {
                    "rank": rank,
                    "trial": trial.trial,
                    "objective": trial.objective,
                    "agreement": trial.agreement,
                    **{f"source/{name}": trial.metrics.get(f"source/{name}") for name in self.shown},
                    **(_columns(self.metric, measured.get(trial.kept)) if measured else {}),
                    "steps": trial.steps,
                    **{path: None if trial.averaged else settings[path] for path in self.searched},
                    "warnings": "; ".join(
                        filter(None, [trial.refused, trial.error or trial.metrics.get("warnings")])
                    ),
                    "checkpoint": trial.checkpoint,
                }
            )
        source = {SOURCE_ONLY: gate.start, BATCH_NORM_ONLY: gate.adapted} if gate else {}
        for name in (SOURCE_ONLY, BATCH_NORM_ONLY):
            if name in measured:
                held = {"source/auroc": source[name]} if source else {}
                rows.append({"trial": name, **held, **_columns(self.metric, measured[name])})
        self.table, self.measured = pd.DataFrame(rows), measured
        self.refused = sum(trial.refused is not None for trial in found)

    def write(self, folder: str) -> None:
        """leaderboard.csv, and the full report of each row that was measured as test.json beside it."""
        header = f"# {ORACLE}\n" if self.run.search.oracle else ""
        storage.write(f"{folder}/leaderboard.csv", header + self.table.to_csv(index=False))
        reports = {name.rpartition("/")[2]: found.report for name, found in self.measured.items()}
        if self.run.search.oracle:
            reports = {"warning": ORACLE, **reports}
        storage.write(f"{folder}/test.json", json.dumps(reports, indent=1))

    def show(self) -> None:
        """Print the table."""
        from rich.console import Console
        from rich.table import Table

        asked, agreed = self.run.search, self.table["agreement"].notna().any()
        ranked, without = asked.validator, "without target labels"
        if self.run.task.name == "pretraining":
            without = "with labels" if asked.validator == "probe" else "without labels"
        elif not self.run.data.target:
            ranked, without = find.task(self.run.task.name).objective, "on the source's validation split"
        by = "agreement" if agreed else ranked
        by = f"steps, then {by}" if by_agreement(self.run) else by
        chosen = "the average of trials, then by" if self.found[0].averaged else "chosen by"
        title = f"{self.run.title}: {chosen} {by}, {without}"
        table = Table(title=ORACLE if self.run.search.oracle else title, title_justify="left")
        where, metric = (
            "target test" if self.run.data.target else "test",
            self.metric.partition("/")[2].upper(),
        )
        tested = (f"{where} {metric}", "minus source only") if self.measured else ()
        agrees = ("agreement",) if agreed else ()
        held = [
            f"source\nval {name.upper() if name in ('auroc', 'mae', 'r2') else name}" for name in self.shown
        ]
        for name in ("", "trial", *agrees, "objective", *held, *tested, "steps"):
            table.add_column(name, justify="left" if name == "trial" else "right")
        for path in self.searched:
            table.add_column(path.replace(".", ".\n"), justify="right")
        if self.table.get("warnings", pd.Series(dtype=str)).fillna("").any():
            table.add_column("warnings", style="yellow")
        for row in self.table.astype(object).where(self.table.notna(), None).to_dict("records"):
            cells = [
                row["rank"] and f"{row['rank']:.0f}",
                row["trial"],
                *((scored(row["agreement"]),) if agreed else ()),
                scored(row["objective"]),
                *(scored(row[f"source/{name}"]) for name in self.shown),
                *((_interval(row, self.metric), _interval(row, "difference", "+")) if tested else ()),
                row["steps"] and f"{row['steps']:.0f}",
                *(_setting(row[path]) for path in self.searched),
            ]
            if len(table.columns) > len(cells):
                cells.append(row["warnings"])
            table.add_row(*(cell or "" for cell in cells), style=None if row["rank"] else "dim")
        width = None if Console().is_terminal else 200
        Console(width=width, markup=False).print(table)
        tested = next((found.report.get("classes", {}) for found in self.measured.values()), {})
        if tested:
            counts = ", ".join(f"{count} {name}" for name, count in tested.items())
            print(f"{where}: {counts}")
        if remark := metrics.scarce(tested):
            print(remark)
        trials = [trial for trial in self.found if not trial.averaged]
        if collapsed := health.counted([trial.metrics.get("warnings") or "" for trial in trials]):
            print(collapsed)
        if self.refused:
            print(
                f"{self.refused} of {self.table['rank'].count()} models are not released; their warnings say why"
            )


def _columns(metric: str, found: Measured | None) -> dict[str, float | None]:
    value = found.value if found else (None, None, None)
    difference = (found.difference if found else None) or (None, None, None)
    names = ("", "_low", "_high")
    return {f"{metric}{name}": one for name, one in zip(names, value, strict=True)} | {
        f"difference{name}": one for name, one in zip(names, difference, strict=True)
    }


def _interval(row: dict[str, Any], name: str, sign: str = "") -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return "" if value is None else f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _setting(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
