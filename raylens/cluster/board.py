"""The leaderboard: trials in the order in which they were chosen, without target labels, and what they turn out to be.

The target's test labels are read here, once, after everything has been chosen.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from raylens import config, find, health, metrics
from raylens.checkpoint import Facts
from raylens.cluster.choice import by_agreement
from raylens.cluster.launch import task_device
from raylens.cluster.worker import WORST
from raylens.config import Run
from raylens.data import sets
from raylens.data.shards import filesystem

if TYPE_CHECKING:
    from raylens.cluster.search import Found

SOURCE_ONLY, BATCH_NORM_ONLY = "source only", "batch norm only"
ORACLE = "CHOSEN BY TARGET LABELS (search.oracle): these figures are cheating and compare with nothing"


@dataclass(frozen=True)
class Measured:
    """AUROC on the target's test split and the paired difference from source-only, each with its 95 % interval."""

    name: str
    auroc: tuple[float, float, float]
    difference: tuple[float, float, float] | None
    report: dict[str, Any]


def measure(run: Run, facts: Facts, data: Any, kept: list[str], start: str | None) -> dict[str, Measured]:
    """Measure checkpoints, and the model they started from, as it is and with the target's batch-norm statistics."""
    import ray

    tested = run.data.test or run.data.target
    if not sets.labelled(sets.tested(run), "test"):
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
    found = {}
    for name, output in outputs.items():
        report = metrics.evaluate_outputs(output, facts.classes, seed=run.seed)
        auroc = report["metrics"]["auroc"]
        scores = _scores(run, facts, output)
        differences = {
            base: metrics.paired(scores, _scores(run, facts, outputs[base]), output.labels, seed=run.seed)
            for base in (SOURCE_ONLY, BATCH_NORM_ONLY)
            if base in outputs and name not in (SOURCE_ONLY, base)
        }
        report["auroc_minus"] = {
            base: dict(zip(("value", "low", "high"), difference, strict=True))
            for base, difference in differences.items()
        }
        interval = (auroc["value"], auroc["low"], auroc["high"])
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
    return look(model, tested, "test", found.run.data.transform, device=device)


def _scores(run: Run, facts: Facts, output: Any) -> Any:
    chances = find.task(run.task.name)(facts.classes).predict(output.logits)
    return chances[:, 1] if chances.shape[1] == 2 else chances


class Board:
    """Trials and baselines as a table."""

    def __init__(self, run: Run, found: list[Found], measured: dict[str, Measured]) -> None:
        self.run, self.found, self.searched = run, found, list(config.space(run))
        rows = []
        for rank, trial in enumerate(found, 1):
            settings = config.flat(trial.run)
            rows.append(
                {
                    "rank": rank,
                    "trial": trial.trial,
                    "objective": trial.objective,
                    "agreement": trial.agreement,
                    "source/auroc": trial.metrics.get("source/auroc"),
                    **(_columns(measured.get(trial.kept)) if measured else {}),
                    "steps": trial.steps,
                    **{path: None if trial.averaged else settings[path] for path in self.searched},
                    "warnings": "; ".join(
                        filter(None, [trial.refused, trial.error or trial.metrics.get("warnings")])
                    ),
                    "checkpoint": trial.checkpoint,
                }
            )
        for name in (SOURCE_ONLY, BATCH_NORM_ONLY):
            if name in measured:
                rows.append({"trial": name, **_columns(measured[name])})
        self.table, self.measured = pd.DataFrame(rows), measured
        self.refused = sum(trial.refused is not None for trial in found)

    def write(self, folder: str) -> None:
        """leaderboard.csv, and the full report of each row that was measured as test.json beside it."""
        fs, path = filesystem(folder)
        header = f"# {ORACLE}\n" if self.run.search.oracle else ""
        with fs.open_output_stream(f"{path}/leaderboard.csv") as stream:
            stream.write((header + self.table.to_csv(index=False)).encode())
        reports = {name.rpartition("/")[2]: found.report for name, found in self.measured.items()}
        if self.run.search.oracle:
            reports = {"warning": ORACLE, **reports}
        with fs.open_output_stream(f"{path}/test.json") as stream:
            stream.write(json.dumps(reports, indent=1).encode())

    def show(self) -> None:
        """Print the table."""
        from rich.console import Console
        from rich.table import Table

        asked, agreed = self.run.search, self.table["agreement"].notna().any()
        by = "agreement" if agreed else asked.validator
        by = f"steps, then {by}" if by_agreement(self.run) else by
        chosen = "the average of trials, then by" if self.found[0].averaged else "chosen by"
        title = f"{self.run.title}: {chosen} {by}, without target labels"
        table = Table(title=ORACLE if self.run.search.oracle else title, title_justify="left")
        tested = ("target test AUROC", "minus source only") if self.measured else ()
        agrees = ("agreement",) if agreed else ()
        for name in ("", "trial", *agrees, "objective", "source\nval AUROC", *tested, "steps"):
            table.add_column(name, justify="left" if name == "trial" else "right")
        for path in self.searched:
            table.add_column(path.replace(".", ".\n"), justify="right")
        if self.table.get("warnings", pd.Series(dtype=str)).fillna("").any():
            table.add_column("warnings", style="yellow")
        for row in self.table.astype(object).where(self.table.notna(), None).to_dict("records"):
            cells = [
                row["rank"] and f"{row['rank']:.0f}",
                row["trial"],
                *((_number(row["agreement"]),) if agreed else ()),
                _number(row["objective"]),
                _number(row["source/auroc"]),
                *((_interval(row, "target/auroc"), _interval(row, "difference", "+")) if tested else ()),
                row["steps"] and f"{row['steps']:.0f}",
                *(_setting(row[path]) for path in self.searched),
            ]
            if len(table.columns) > len(cells):
                cells.append(row["warnings"])
            table.add_row(*(cell or "" for cell in cells), style=None if row["rank"] else "dim")
        width = None if Console().is_terminal else 200
        Console(width=width, markup=False).print(table)
        trials = [trial for trial in self.found if not trial.averaged]
        if collapsed := health.counted([trial.metrics.get("warnings") or "" for trial in trials]):
            print(collapsed)
        if self.refused:
            print(
                f"{self.refused} of {self.table['rank'].count()} models are not released; their warnings say why"
            )


def _columns(found: Measured | None) -> dict[str, float | None]:
    auroc = found.auroc if found else (None, None, None)
    difference = (found.difference if found else None) or (None, None, None)
    names = ("", "_low", "_high")
    return {f"target/auroc{name}": value for name, value in zip(names, auroc, strict=True)} | {
        f"difference{name}": value for name, value in zip(names, difference, strict=True)
    }


def _number(value: float | None) -> str:
    return "" if value is None else "diverged" if value <= WORST else f"{value:.4f}"


def _interval(row: dict[str, Any], name: str, sign: str = "") -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return "" if value is None else f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _setting(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
