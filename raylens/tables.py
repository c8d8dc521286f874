"""The tables of a benchmark: what methods are worth over seeds, and what each way of choosing gives away.

Target test labels are used here alone, on models that were chosen without them.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from raylens import metrics
from raylens.ensemble import agreement
from raylens.grid import Cell

METRICS = {"auroc": "AUROC", "auprc": "AUPRC", "tpr_at_fpr_1e-2": "TPR at FPR 1e-2"}
SOURCE_ONLY = "source only"
BATCH_NORM = "adabn"
"""The method, by its name in the table, that trains nothing: over it others gain what their training is worth."""


@dataclass(frozen=True)
class Said:
    """What a model says of the target's validation and test images, logits (N, K)."""

    target: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    """Of the test images, (N,)."""
    scores: Mapping[str, float]
    """What each validator gives it."""

    def write(self) -> bytes:
        """As a NumPy archive."""
        held = io.BytesIO()
        arrays = {name: getattr(self, name) for name in ("target", "test", "labels")}
        np.savez_compressed(held, **arrays, validators=[*self.scores], scores=[*self.scores.values()])
        return held.getvalue()

    @classmethod
    def read(cls, held: bytes) -> Said:
        """The reverse of `write`; nothing is unpickled."""
        with np.load(io.BytesIO(held), allow_pickle=False) as found:
            scores = dict(zip(found["validators"].tolist(), found["scores"].tolist(), strict=True))
            return cls(found["target"], found["test"], found["labels"], scores)

    def only(self, rows: np.ndarray) -> Said:
        """The same of some of the test images, those in the mask `rows` (N,)."""
        return replace(self, test=self.test[rows], labels=self.labels[rows])

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Of the target's test images: of class 1 (N,), or (N, K) of more classes than two."""
        chances = metrics.softmax64(self.test)
        return chances[:, 1] if chances.shape[1] == 2 else chances

    @cached_property
    def auroc(self) -> float:
        """On the target's test images."""
        return metrics.classification(metrics.softmax64(self.test), self.labels)["auroc"]


@dataclass(frozen=True)
class Entry:
    """One cell: its trials that ended, what is released, and the model that they started from."""

    cell: Cell
    trials: Mapping[int, Said]
    """By draw; 0 are the defaults."""
    released: Said | None
    """A trial or the average of several; None where none may be released: then it is the start."""
    start: Said
    failed: int = 0
    """Trials that did not come to an end."""

    @property
    def kept(self) -> Said:
        return self.start if self.released is None else self.released

    @property
    def best(self) -> float:
        """The best test AUROC of the trials and of the start; an average that is better has a regret below 0."""
        return max(model.auroc for model in (self.start, *self.trials.values()))


def compared(entries: Sequence[Entry]) -> pd.DataFrame:
    """A row for each encoder and method: means over seeds with 95 % intervals, and less source only and less adabn.

    `difference` and `over_adabn` are of the AUROC; `auprc_difference` and such are of other metrics, less source only.

    `low` and `high` follow each value; `regret` is the mean over seeds, `worst` the largest; `below` counts the seeds
    on which the released model is below source only, `refused` those on which no trial was released. `failed`
    counts trials.
    """
    rows = []
    for encoder in dict.fromkeys(entry.cell.encoder for entry in entries):
        of_encoder = [entry for entry in entries if entry.cell.encoder == encoder]
        starts = {entry.cell.seed: entry.start for entry in of_encoder}
        bases = {entry.cell.seed: entry.kept for entry in of_encoder if entry.cell.method == BATCH_NORM}
        rows.append(
            {"encoder": encoder, "method": SOURCE_ONLY, "seeds": len(starts), **_measured([*starts.values()])}
        )
        for method in dict.fromkeys(entry.cell.method for entry in of_encoder):
            of_method = [entry for entry in of_encoder if entry.cell.method == method]
            over = _paired(of_method, bases) if bases and method != BATCH_NORM else (np.nan,) * 3
            regret = [entry.best - entry.kept.auroc for entry in of_method]
            rows.append(
                {"encoder": encoder, "method": method, "seeds": len(of_method)}
                | _measured([entry.kept for entry in of_method])
                | _three("difference", _paired(of_method, starts))
                | (_three("over_adabn", over) if bases else {})
                | {
                    key: value
                    for name in _names(of_method[0].start)[1:]
                    for key, value in _three(f"{name}_difference", _paired(of_method, starts, name)).items()
                }
                | {"regret": np.mean(regret), "worst": max(regret)}
                | {"below": sum(entry.kept.auroc < entry.start.auroc for entry in of_method)}
                | {"refused": sum(entry.released is None for entry in of_method)}
                | {"failed": sum(entry.failed for entry in of_method)}
            )
    return pd.DataFrame(rows)


def matrix(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each method and a column for each encoder of what `compared` gives, for people.

    A cell holds the AUROC and, on a second line, that minus source only.
    """
    cells: dict[str, dict[str, str]] = {}
    for row in table.to_dict("records"):
        lines = [
            _interval(*(row.get(f"{name}{end}", np.nan) for end in ("", "_low", "_high")), sign)
            for name, sign in (("auroc", ""), ("difference", "+"))
        ]
        cells.setdefault(row["method"], {})[row["encoder"]] = "\n".join(filter(None, lines))
    encoders = list(dict.fromkeys(table["encoder"]))
    rows = [
        {"method": method} | {encoder: of.get(encoder, "") for encoder in encoders}
        for method, of in cells.items()
    ]
    return pd.DataFrame(rows)


def _measured(models: Sequence[Said]) -> dict[str, float]:
    runs = [(model.probabilities, model.labels) for model in models]
    found = {}
    for name in _names(models[0]):
        found |= _three(name, metrics.over_runs(runs, name))
    return found


def _names(model: Said) -> list[str]:
    """Metrics of a table, AUROC first; of more classes than two it is the only one."""
    return [*METRICS] if model.probabilities.ndim == 1 else ["auroc"]


def _paired(
    entries: Sequence[Entry], others: Mapping[int, Said], metric: str = "auroc"
) -> tuple[float, float, float]:
    """A metric of what is kept less that of `others` by seed, on the same test images."""
    pairs = [(entry.kept, others[entry.cell.seed]) for entry in entries]
    return metrics.paired_over_runs(
        [(kept.probabilities, other.probabilities, other.labels) for kept, other in pairs], metric
    )


def _three(name: str, found: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))


def regret(entries: Sequence[Entry]) -> pd.DataFrame:
    """What each way of choosing among a cell's trials gives away of the best one's test AUROC, over all cells.

    The best may be the start: a choice that ends below it gives that away too. `below` and `gain` compare the choices
    with source only: the share that is below it, and the mean difference.
    """
    chosen: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        trials = [*entry.trials.values()]
        if len(trials) < 2:
            continue
        scores = {name: [trial.scores[name] for trial in trials] for name in entry.start.scores}
        if len(trials) > 2:  # two agree alike
            scores["agreement"] = agreement([trial.target for trial in trials])
        finite = {name: np.where(np.isfinite(of), of, -np.inf) for name, of in scores.items()}
        found = {name: trials[int(np.argmax(of))] for name, of in finite.items()}
        found |= {"the defaults": entry.trials.get(0, entry.start), "as released": entry.kept}
        for name, model in found.items():
            chosen.setdefault(name, []).append((entry.best - model.auroc, model.auroc - entry.start.auroc))
    rows = []
    for name, pairs in chosen.items():
        lost, gained = np.array(pairs).T
        row = {"chosen by": name, "searches": len(pairs), "regret": lost.mean(), "worst": lost.max()}
        rows.append(row | {"below": (gained < 0).mean(), "gain": gained.mean()})
    return pd.DataFrame(rows).sort_values("regret", ignore_index=True) if rows else pd.DataFrame()


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A table for people: each value with its interval in one cell."""
    cells = {}
    for name in table:
        if name.endswith(("_low", "_high")):
            continue
        sign = "+" if name.endswith("difference") or name in ("over_adabn", "gain") else ""
        if f"{name}_low" in table:
            columns = table[[name, f"{name}_low", f"{name}_high"]].to_numpy()
            cells[HEADS.get(name, name)] = [_interval(*row, sign) for row in columns]
        elif name == "below" and "searches" in table:
            cells[HEADS[name]] = [f"{value:.0%}" for value in table[name]]
        else:
            whole = pd.api.types.is_integer_dtype(table[name]) or name in ("below", "refused", "failed")
            cells[HEADS.get(name, name)] = [_number(value, sign, whole) for value in table[name]]
    return pd.DataFrame(cells)


HEADS = {
    **METRICS,
    "difference": "AUROC minus source only",
    "over_adabn": f"AUROC minus {BATCH_NORM}",
    "auprc_difference": "AUPRC minus source only",
    "tpr_at_fpr_1e-2_difference": "TPR minus source only",
    "worst": "worst regret",
    "below": "below source only",
    "refused": "none released",
    "failed": "failed trials",
    "gain": "minus source only",
}


def _interval(value: float, low: float, high: float, sign: str) -> str:
    return "" if np.isnan(value) else f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _number(value: object, sign: str, whole: bool) -> str:
    if isinstance(value, str):
        return value
    return "" if np.isnan(value) else f"{value:.0f}" if whole else f"{value:{sign}.3f}"


def markdown(table: pd.DataFrame) -> str:
    """A table of texts as Markdown, its columns aligned."""
    rows = [[*map(str, table.columns)], *table.astype(str).to_numpy().tolist()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(map(str.ljust, row, widths))} |\n" for row in rows)
