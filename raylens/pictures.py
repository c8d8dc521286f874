"""Pictures of an evaluation: ROC, precision and recall, confusion, calibration."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from astropy.visualization import AsinhStretch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from scipy.stats import beta

from raylens.metrics import (
    Table,
    draws,
    evaluate_outputs,
    evaluate_regression,
    evaluate_super_resolution,
    softmax64,
)
from raylens.records import Outputs
from raylens.tables import Entry
from raylens.tasks.super_resolution import bicubic

COLOURS = ("#0b5fa5", "#d1495b", "#2e933c", "#8a4fbf", "#e08e1b", "#3fa7a3")
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "savefig.dpi": 150,
}
STRETCHED = ("minmax", "none")  # transforms after which a pixel is still proportional to its light
LOWEST = 1e-4  # where logarithmic axes begin: one false positive in ten thousand


def draw(
    outputs: Outputs,
    classes: tuple[str, ...],
    out_folder: Path | str,
    *,
    threshold: float = 0.5,
    warning: str | None = None,
    apart: bool = False,
    report: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write `roc.png`, `pr.png`, `confusion.png` and `calibration.png` of a labelled split, a warning below each.

    Figures and intervals on them are those of `report`, as `evaluate_outputs` gives it. Those of two panels are two
    files each if they shall be `apart`, for a page that sets them side by side or one below the other: `roc-1.png`,
    `roc-2.png` and so on.
    """
    report = report or evaluate_outputs(outputs, classes, threshold=threshold)
    said = {
        name: "{value:.3f} [{low:.3f}, {high:.3f}]".format(**one) for name, one in report["metrics"].items()
    }
    probabilities, labels = softmax64(outputs.logits), np.asarray(outputs.labels).astype(int)
    if len(classes) == 2:
        curves = [_Curve(1, COLOURS[0], probabilities, labels)]
        aurocs, auprcs = [f"AUROC {said['auroc']}"], [f"AUPRC {said['auprc']}"]
        rule = f"threshold {threshold:g}"
        scores, right, sides, colours = probabilities[:, 1], labels == 1, classes[::-1], COLOURS[1::-1]
    else:
        curves = [
            _Curve(*pair, probabilities, labels)
            for pair in zip(range(len(classes)), cycle(COLOURS), strict=False)
        ]
        aurocs = [f"{name}: AUROC {said[f'auroc_{index}']}" for index, name in enumerate(classes)]
        auprcs, rule = classes, "likeliest class"
        scores, right, sides = probabilities.max(1), probabilities.argmax(1) == labels, ("right", "wrong")
        colours = COLOURS[:2]

    roc, pr = partial(_roc, curves=curves, said=aurocs), partial(_pr, curves=curves, said=auprcs)
    shape = {"scores": scores, "right": right, "names": sides, "colours": colours}
    calibration = partial(_calibration, **shape, said=f"ECE {said['ece']}")
    with matplotlib.rc_context(STYLE):
        figures = {
            **_panels("roc", ("ROC", "ROC, few false positives"), roc, apart),
            **_panels("pr", ("Precision and recall", "Candidates"), pr, apart),
            "confusion": _confusion(np.array(report["confusion"]), classes, rule),
            **_panels("calibration", ("Calibration", "Probabilities"), calibration, apart),
        }
        for figure in figures.values():
            if warning:
                figure.supxlabel(warning, color=COLOURS[1], fontsize="small", wrap=True)
        return _saved(figures, out_folder)


def draw_regression(
    predicted: np.ndarray,
    numbers: np.ndarray,
    name: str,
    out_folder: Path | str,
    *,
    report: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write `scatter.png`, each image's predicted number against its own, and `residuals.png`, errors by tenths.

    Figures on them are those of `report`, as `evaluate_regression` gives it.
    """
    report = report or evaluate_regression(predicted, numbers)
    said = {
        key: "{value:.3f} [{low:.3f}, {high:.3f}]".format(**one) for key, one in report["metrics"].items()
    }
    with matplotlib.rc_context(STYLE):
        figures = {
            "scatter": _scatter(predicted, numbers, name, f"MAE {said['mae']}\nR2 {said['r2']}"),
            "residuals": _residuals(predicted, numbers, name, f"RMSE {said['rmse']}"),
        }
        return _saved(figures, out_folder)


def _scatter(predicted: np.ndarray, numbers: np.ndarray, name: str, title: str) -> Figure:
    figure, axes = _square(title)
    low, high = min(numbers.min(), predicted.min()), max(numbers.max(), predicted.max())
    edge = 0.04 * (high - low) or 1.0
    ends = [low - edge, high + edge]
    axes.plot(ends, ends, color="0.7", linewidth=1, zorder=0)
    axes.scatter(numbers, predicted, s=6, alpha=min(1.0, 300 / len(numbers)), color=COLOURS[0], linewidths=0)
    axes.set(xlabel=name, ylabel=f"predicted {name}", xlim=ends, ylim=ends)
    axes.locator_params(nbins=5)
    return figure


def _residuals(predicted: np.ndarray, numbers: np.ndarray, name: str, title: str) -> Figure:
    figure, axes = _square(title)
    edges = np.quantile(numbers, np.linspace(0, 1, 11))
    tenth = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, 9)
    middle = (edges[1:] + edges[:-1]) / 2
    held = {middle[index]: (predicted - numbers)[tenth == index] for index in np.unique(tenth)}
    width = 0.6 * (edges[-1] - edges[0]) / 10
    axes.boxplot([*held.values()], positions=[*held], widths=width, manage_ticks=False)
    axes.axhline(0, color="0.7", linewidth=1, zorder=0)
    axes.margins(x=0.06)
    axes.set(xlabel=f"{name}, by tenths of the images", ylabel="predicted minus true")
    axes.locator_params(axis="x", nbins=5)
    return figure


def draw_super_resolution(
    pixels: np.ndarray,
    painted: np.ndarray,
    high: np.ndarray,
    judged: np.ndarray,
    out_folder: Path | str,
    *,
    apart: bool = False,
) -> list[Path]:
    """Write `images.png`, what is painted of a few images beside bicubic and the truth, and `gain.png`, of all.

    `pixels` (N, C, H, W), `painted` and `high` (N, C, f H, f W); `judged` (M, 4) is as the task judges. `apart`, each
    image is a file: `images-1.png` and so on.
    """
    report = evaluate_super_resolution(judged)["metrics"]
    enlarged = bicubic(torch.from_numpy(np.array(pixels)), high.shape[-1] // pixels.shape[-1]).numpy()
    rows = []
    for one in zip(pixels, enlarged, painted, high, strict=True):
        given, coarse, fine, true = (image.mean(0) for image in one)
        light = {"cmap": "magma", "vmin": true.min(), "vmax": true.max()}
        most = np.abs(coarse - true).max()
        missed = {"cmap": "RdBu_r", "vmin": -most, "vmax": most}
        rows.append(
            [
                *(("given", given, light), ("bicubic", coarse, light), ("painted", fine, light)),
                *(("true", true, light), ("bicubic - true", coarse - true, missed)),
                ("painted - true", fine - true, missed),
            ]
        )
    figures = _tiles("images", rows, apart)
    psnr, before, gained = (report[name]["value"] for name in ("psnr", "bicubic_psnr", "psnr_gain"))
    with matplotlib.rc_context(STYLE):
        figures["gain"], axes = _square(f"{psnr:.2f} dB, bicubic {before:.2f}: {gained:+.2f} dB")
        axes.hist(10 * np.log10(judged[:, 2] / judged[:, 0]), bins=40, color=COLOURS[0])
        axes.axvline(0, color="0.5", linewidth=1)
        axes.set(xlabel="PSNR above bicubic (dB)", ylabel="images")
        return _saved(figures, out_folder)


def draw_reconstruction(
    images: Sequence[np.ndarray], out_folder: Path | str, *, apart: bool = False
) -> list[Path]:
    """Write `reconstruction.png` of what a Reconstruction shows: images and pure noise, masked, and painted.

    `apart`, each image is a file: `reconstruction-1.png` and so on.
    """
    names, rows = ("true", "masked", "painted", "interpolated", "pure noise", "painted"), []
    for line in zip(*images, strict=True):
        wholes = [line[0].mean(0)] * 4 + [line[4].mean(0)] * 2
        scales = [{"cmap": "magma", "vmin": np.nanmin(one), "vmax": np.nanmax(one)} for one in wholes]
        rows.append([*zip(names, (image.mean(0) for image in line), scales, strict=True)])
    with matplotlib.rc_context(STYLE):
        return _saved(_tiles("reconstruction", rows, apart), out_folder)


def _tiles(
    name: str, rows: Sequence[Sequence[tuple[str, np.ndarray, dict[str, Any]]]], apart: bool
) -> dict[str, Figure]:
    """Figures by name of rows of six images (H, W) with titles and scales: one, or one a row, in two lines of three."""
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        if apart:
            return {f"{name}-{at}": _tiled([row[:3], row[3:]], 2) for at, row in enumerate(rows, 1)}
        return {name: _tiled(rows, 1)}


def _tiled(lines: Sequence[Any], titled: int) -> Figure:
    """Lines of images, the first so many of them `titled`."""
    columns = len(lines[0])
    figure = Figure(figsize=(1.75 * columns, 1.8 * len(lines) + 0.2 * titled), layout="constrained")
    for at, axes in enumerate(figure.subplots(len(lines), columns, squeeze=False)):
        for axis, (name, image, scale) in zip(axes, lines[at], strict=True):
            axis.set_facecolor("0.75")  # of what is masked
            axis.imshow(image, origin="lower", **scale)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if at < titled:
                axis.set_title(name, fontsize="medium")
    return figure


def _saved(figures: Mapping[str, Figure], out_folder: Path | str) -> list[Path]:
    folder = Path(out_folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in figures]


def sheet(
    images: Sequence[np.ndarray],
    labels: Sequence[str],
    transform: str = "minmax",
    bands: Sequence[str] = (),
    *,
    columns: int = 10,
) -> bytes:
    """Images (C, H, W), each on its own scale under its label, row by row: a PNG to grade candidates by eye.

    `transform` is how they were preprocessed: those that are still linear are stretched, or faint arcs would be lost.
    Of three `bands` see `stretched`.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(1.3 * columns, 1.6 * rows), layout="constrained")
        for axis in figure.subplots(rows, columns, squeeze=False).flat:
            axis.set_axis_off()
        for axis, image, label in zip(figure.axes, images, labels, strict=False):
            axis.imshow(stretched(image, transform, bands), cmap="gray", origin="lower")
            axis.set_title(_ends(label, 18), fontsize=5.5, pad=2)
        held = io.BytesIO()
        figure.savefig(held, format="png")
    return held.getvalue()


def _ends(label: str, most: int) -> str:
    """The ends of lines that are too long, in which ids differ."""
    lines = label.split("\n")
    return "\n".join(line if len(line) <= most else f"…{line[1 - most :]}" for line in lines)


def explained(
    images: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    labels: Sequence[str],
    told: str = "",
    transform: str = "minmax",
    bands: Sequence[str] = (),
    *,
    columns: int = 4,
) -> bytes:
    """Images (C, H, W), each beside itself under its map (H, W) of 0 to 1, a label over both, `told` below: a PNG.

    `transform` is how they were preprocessed, `bands` what they are; see `sheet`.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(3.2 * columns, 1.95 * rows + 0.3), layout="constrained")
        parts = figure.subfigures(rows, columns, squeeze=False).flat
        for part, image, seen, label in zip(parts, images, maps, labels, strict=False):
            part.suptitle(_ends(label, 40), fontsize=7)
            left, right = part.subplots(1, 2, gridspec_kw={"wspace": 0.02})
            for axis in (left, right):
                axis.imshow(stretched(image, transform, bands), cmap="gray", origin="lower")
                axis.set_axis_off()
            right.imshow(seen, cmap="inferno", vmin=0, vmax=1, alpha=0.75 * seen, origin="lower")
        if told:
            figure.supxlabel(told, fontsize=7)
        held = io.BytesIO()
        figure.savefig(held, format="png")
    return held.getvalue()


def pair(
    image: np.ndarray,
    seen: np.ndarray,
    transform: str = "minmax",
    bands: Sequence[str] = (),
    *,
    least: int = 160,
) -> bytes:
    """An image (C, H, W) beside itself under its map (H, W) of 0 to 1: a PNG without words, `least` pixels high."""
    shown = stretched(image, transform, bands)
    left = np.stack([shown] * 3, -1) if shown.ndim == 2 else shown
    weight = 0.75 * seen[..., None]
    right = (1 - weight) * left + weight * matplotlib.colormaps["inferno"](seen)[..., :3]
    enlarged = -(-least // left.shape[0])
    left, right = (one.repeat(enlarged, 0).repeat(enlarged, 1) for one in (left, right))
    gap, held = np.ones((len(left), max(4, len(left) // 40), 3)), io.BytesIO()
    imsave(held, np.clip(np.hstack([left, gap, right]), 0, 1), format="png", origin="lower")
    return held.getvalue()


def chance(probability: float) -> str:
    """A probability as it stands on a picture: one that is nearly 0 is told from another."""
    return f"{probability:.3f}" if probability >= 1e-3 or probability == 0 else f"{probability:.0e}"


def stretched(image: np.ndarray, transform: str, bands: Sequence[str] = ()) -> np.ndarray:
    """An image (C, H, W) on its own scale, to show: (H, W), or of three bands (H, W, 3).

    The last of three bands is shown red, unless they are those of a picture, red, green and blue.
    """
    coloured = image if "".join(band[:1].lower() for band in bands) == "rgb" else image[::-1]
    shown = np.moveaxis(coloured, 0, -1) if len(image) == 3 else image.mean(0)
    low, high = np.quantile(shown, (0.005, 0.998))
    scaled = np.clip((shown - low) / max(high - low, 1e-12), 0, 1)
    return AsinhStretch(0.1)(scaled) if transform in STRETCHED else scaled


def _square(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontweight="bold")
    return figure, axes


def _panels(
    name: str, titles: tuple[str, str], drawing: Callable[[Axes, Axes], None], apart: bool
) -> dict[str, Figure]:
    """Figures by name: one of two panels, or two."""
    if apart:
        drawn = [_square(title) for title in titles]
        drawing(*(axes for _, axes in drawn))
        return {f"{name}-{number}": figure for number, (figure, _) in enumerate(drawn, 1)}
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, title in zip((left, right), titles, strict=True):
        axes.set_title(title, fontweight="bold")
    drawing(left, right)
    return {name: figure}


class _Curve:
    """One class against the rest: its curve, and the band of 200 resamples around it."""

    def __init__(self, index: int, colour: str, probabilities: np.ndarray, labels: np.ndarray) -> None:
        self.colour, table = colour, Table(probabilities[:, index], labels == index)
        whole = table.counts(np.arange(len(labels))[None])
        self.found, self.false = whole.found[0], whole.false[0]
        self.drawn = [
            pair
            for rows in draws(labels, 200, seed=0)
            for drawn in [table.counts(rows)]
            for pair in zip(drawn.found, drawn.false, strict=True)
        ]

    def band(self, of: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        return np.quantile([of(found, false) for found, false in self.drawn], [0.025, 0.975], axis=0)


def _roc(left: Axes, right: Axes, *, curves: list[_Curve], said: Sequence[str]) -> None:
    grid = np.concatenate([[0], np.geomspace(LOWEST, 1, 300)])

    def recall(found: np.ndarray, false: np.ndarray) -> np.ndarray:
        last = np.searchsorted(false, np.floor(grid * false[-1] + 1e-9), side="right") - 1
        return np.where(last < 0, 0, found[last]) / found[-1]

    for curve, label in zip(curves, said, strict=True):
        for axes in (left, right):
            axes.fill_between(grid, *curve.band(recall), color=curve.colour, alpha=0.15, linewidth=0)
            line = [np.r_[0, part / part[-1]] for part in (curve.false, curve.found)]
            axes.plot(*line, color=curve.colour, linewidth=1.8, label=label)
    for axes in (left, right):
        axes.plot(grid, grid, color="#888888", linestyle=":", linewidth=1)
        axes.set(xlabel="false positive rate", ylabel="true positive rate", ylim=(-0.01, 1.02))
    left.set(xlim=(-0.01, 1.01))
    left.legend(loc="lower right")
    right.set(xscale="log", xlim=(LOWEST, 1))
    negatives = max(curve.false[-1] for curve in curves)
    if 1 / negatives > LOWEST:
        rare = right.axvspan(LOWEST, 1 / negatives, color="#ececec", zorder=0)
        right.legend([rare], [f"below 1 false positive of {negatives:,.0f} negatives"], loc="upper left")


def _pr(left: Axes, right: Axes, *, curves: list[_Curve], said: Sequence[str]) -> None:
    grid = np.linspace(0.01, 1, 200)

    def precision(found: np.ndarray, false: np.ndarray) -> np.ndarray:
        first = np.searchsorted(found, grid * found[-1] - 1e-9)
        return found[first] / (found + false)[first]

    for curve, label in zip(curves, said, strict=True):
        taken, recall = curve.found + curve.false, curve.found / curve.found[-1]
        left.fill_between(grid, *curve.band(precision), color=curve.colour, alpha=0.15, linewidth=0)
        left.plot(recall, curve.found / taken, color=curve.colour, linewidth=1.8, label=label)
        left.axhline(recall[-1] * curve.found[-1] / taken[-1], color=curve.colour, linestyle=":", linewidth=1)
        right.plot(taken, recall, color=curve.colour, linewidth=1.8)
        right.plot(
            taken, np.minimum(taken / curve.found[-1], 1), color=curve.colour, linestyle="--", linewidth=1
        )
    left.set(xlabel="recall", ylabel="precision", xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    left.legend(loc="best")
    right.set(xscale="log", xlabel="candidates looked at, best first", ylabel="recall", ylim=(-0.01, 1.02))
    right.legend(
        [Line2D([], [], color="#555555", linestyle="--", linewidth=1)],
        ["no false positives"],
        loc="upper left",
    )


def _confusion(table: np.ndarray, classes: tuple[str, ...], rule: str) -> Figure:
    size = 3.2 + 0.7 * len(classes)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.subplots()
    share = table / table.sum(1, keepdims=True)
    shown = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(table):
        text = f"{count:,}\n{share[row, column]:.1%}"
        axes.text(
            column, row, text, ha="center", va="center", color="w" if share[row, column] > 0.55 else "k"
        )
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes, rotation=90, va="center")
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(f"Confusion, {rule}", fontweight="bold")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    figure.colorbar(shown, ax=axes, format=PercentFormatter(1), label="share of the true class", shrink=0.8)
    return figure


def _calibration(
    left: Axes,
    histogram: Axes,
    *,
    scores: np.ndarray,
    right: np.ndarray,
    names: Sequence[str],
    colours: Sequence[str],
    said: str,
) -> None:
    """Frequency against probability in the bins of `ece`, on scales that open up both ends; the scores."""
    counts = Table(scores, right).counts(np.arange(len(scores))[None])
    found, missed = (np.add.reduceat(part[0], counts.bins) for part in (counts.positives, counts.negatives))
    rows = counts.positives[0] + counts.negatives[0]
    mean = np.add.reduceat(counts.scores * rows, counts.bins) / (found + missed)
    low = np.nan_to_num(beta.ppf(0.025, found, missed + 1), nan=0)  # Clopper & Pearson 1934
    high = np.nan_to_num(beta.ppf(0.975, found + 1, missed), nan=1)
    frequency = found / (found + missed)
    mean, frequency, low, high = np.clip([mean, frequency, low, high], LOWEST, 1 - LOWEST)

    left.plot([LOWEST, 1 - LOWEST], [LOWEST, 1 - LOWEST], color="#888888", linestyle=":", linewidth=1)
    left.vlines(mean, low, high, color=COLOURS[0], linewidth=1.2)
    left.plot(
        mean, frequency, "o", color=COLOURS[0], markeredgecolor="w", clip_on=False, zorder=3, label=said
    )
    left.set(xscale="logit", yscale="logit", xlabel="mean probability", ylabel="frequency")
    left.minorticks_off()
    for axis in (left.xaxis, left.yaxis):
        axis.set_ticks([LOWEST, 1e-3, 1e-2, 0.1, 0.5, 0.9, 0.99, 0.999, 1 - LOWEST])
        axis.set_ticklabels(["0", "0.001", "0.01", "0.1", "0.5", "0.9", "0.99", "0.999", "1"])
    left.set(xlim=(LOWEST, 1 - LOWEST), ylim=(LOWEST, 1 - LOWEST))
    left.legend(loc="upper left")
    for name, colour, of in zip(names, colours, (right, ~right), strict=True):
        histogram.hist(scores[of], np.linspace(0, 1, 41), color=colour, alpha=0.5, label=name)
    histogram.set(yscale="log", xlabel="probability", ylabel="rows", xlim=(0, 1))
    histogram.legend()


def compared(table: pd.DataFrame, entries: Sequence[Entry]) -> bytes:
    """What methods gain over source only, a panel an encoder: a dot a seed, a bar for their mean and its interval.

    `table` is that of `tables.compared`. A PNG.
    """
    table = table.dropna(subset="difference")
    encoders, methods = (list(dict.fromkeys(table[name])) for name in ("encoder", "method"))
    size = (1.6 + 3.2 * len(encoders), 1.3 + 0.36 * len(methods))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(1, len(encoders), sharex=True, sharey=True, squeeze=False)[0]
        for panel, encoder in zip(panels, encoders, strict=True):
            for row in table[table["encoder"] == encoder].itertuples():
                y, colour = methods.index(row.method), COLOURS[row.difference < 0]
                seeds = [entry for entry in entries if entry.cell[:2] == (row.method, encoder)]
                dots = [entry.kept.auroc - entry.start.auroc for entry in seeds]
                panel.plot(dots, [y] * len(dots), "o", color=colour, alpha=0.35, markersize=4, zorder=2)
                panel.hlines(
                    y, row.difference_low, row.difference_high, color=colour, linewidth=2.5, zorder=3
                )
                panel.plot(row.difference, y, "D", color=colour, markeredgecolor="w", markersize=7, zorder=4)
            panel.locator_params(axis="x", nbins=5)
            panel.axvline(0, color="#888888", linewidth=1, linestyle=":")
            panel.set_title(encoder, fontweight="bold", fontsize=10)
            panel.grid(axis="y", visible=False)
        panels[0].set_yticks(range(len(methods)), methods)
        panels[0].invert_yaxis()
        figure.supxlabel("AUROC on the target's test split minus source only", fontsize=10)
        held = io.BytesIO()
        figure.savefig(held, format="png")
    return held.getvalue()


def finetuned(table: pd.DataFrame, metric: str) -> bytes:
    """What finetuned encoders are worth, a panel for each amount of labels: a mean and its interval, a line each.

    `table` is that of `raylens.finetune`, `metric` its column. From scratch is grey, beside its network's others; what
    is no training, as bicubic, is in each panel. A PNG.
    """
    untrained = table["trainings"] == 0
    amounts = list(dict.fromkeys(table[~untrained]["labels"]))
    encoders = list(dict.fromkeys(table["encoder"]))
    size = (2.2 + 2.8 * len(amounts), 1.3 + 0.3 * len(encoders))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(1, len(amounts), sharey=True, squeeze=False)[0]
        for panel, amount in zip(panels, amounts, strict=True):
            rows, first = table[untrained | (table["labels"] == amount)], 0
            for y, row in enumerate(rows.to_dict("records")):
                colour = {"finetuned": COLOURS[0], "frozen": COLOURS[1]}.get(row["kind"], "#777777")
                panel.hlines(y, row[f"{metric}_low"], row[f"{metric}_high"], color=colour, linewidth=2.5)
                panel.plot(row[metric], y, "D", color=colour, markeredgecolor="w", markersize=7)
                if row["kind"] == "from scratch":  # the last of its network's lines
                    panel.vlines(row[metric], first - 0.4, y, color=colour, linewidth=1, linestyle=":")
                    first = y + 1
            panel.locator_params(axis="x", nbins=4)
            images = f"{rows['images'].max()} images"
            title = images if amount == images.split()[0] else f"{amount}: {images}"
            panel.set_title(title, fontweight="bold", fontsize=10)
            panel.grid(axis="y", visible=False)
        panels[0].set_yticks(range(len(encoders)), encoders)
        panels[0].invert_yaxis()
        figure.supxlabel(f"{metric.upper()} on the test split", fontsize=10)
        held = io.BytesIO()
        figure.savefig(held, format="png")
    return held.getvalue()
