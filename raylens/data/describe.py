"""What a set holds, as a table and pictures."""

import os
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from raylens.data.preprocess import TRANSFORMS, preprocess
from raylens.data.shards import UNLABELLED, Manifest, read_manifest, split_files
from raylens.errors import ConfigError
from raylens.storage import parquet

COLUMNS = 10
PER_CLASS = 400
FILES = 3
RINGS = 12
"""At most, about the middle of an image and up to its edge; none is narrower than four pixels."""
COLOURS = ("#0b5fa5", "#d1495b", "#2e933c", "#8a4fbf", "#e08e1b", "#3fa7a3")
STYLE = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 130}


def table(manifests: list[Manifest], console: Console | None = None) -> None:
    """Print sets with the rows and the rate of each class in each split."""
    console = console or Console(markup=False)
    for held in manifests:
        scale = f", {held.arcsec_per_pixel:g} arcsec/pixel" if held.arcsec_per_pixel else ""
        channels = f"bands {','.join(held.bands)}" if held.bands else f"{held.channels} channel(s)"
        twins = f", twins of {held.high} x {held.high}" if held.high else ""
        about = f"{held.size} x {held.size}, {channels}, {held.dtype}{scale}{twins}"
        title = f"{held.name}" + (f" ({held.domain})" if held.domain else "")
        console.print(f"\n{title}", style="bold", end="", highlight=False, soft_wrap=True)
        console.print(f": {about}", highlight=False, soft_wrap=True)
        shown = Table()
        labels = list(held.classes) + ["unlabelled"] * any(
            "unlabelled" in s.labels for s in held.splits.values()
        )
        shown.add_column("split")
        for column in ("rows", *labels):
            shown.add_column(column, justify="right")
        for name, split in held.splits.items():
            counts = [split.labels.get(label, 0) for label in labels]
            shown.add_row(name, str(split.rows), *(f"{n}  {n / max(1, split.rows):6.1%}" for n in counts))
        console.print(shown)
        if held.columns:
            console.print(f"columns: {', '.join(held.columns)}", soft_wrap=True)


def describe(
    sets: list[str],
    *,
    out: str | None = None,
    views: str | None = None,
    transform: str = "minmax",
    seed: int = 0,
    console: Console | None = None,
) -> str:
    """Print the sets' manifests, draw their samples and histograms, and return the folder of pictures."""
    console = console or Console(markup=False)
    if transform not in TRANSFORMS:
        raise ConfigError(f"unknown transform {transform!r}; known here: {', '.join(TRANSFORMS)}")
    if seed < 0:
        raise ConfigError(f"--seed {seed} is no seed; give 0 or more")
    manifests = {path: read_manifest(path) for path in sets}
    table(list(manifests.values()), console)
    for held in manifests.values():
        console.print(f"{held.name} was made by: {held.made.get('command', 'unknown')}", soft_wrap=True)
        how = [f"{key} {_text(value)}" for key, value in held.made.items() if key != "command"]
        console.print(f"  {', '.join(how)}", soft_wrap=True, highlight=False)
        for split, part in held.splits.items():
            for file in part.files[:FILES]:
                about = f"  {split}: {file['name']}, sha256 {file['sha256']}"
                console.print(about, soft_wrap=True, highlight=False)
            if len(part.files) > FILES:
                console.print(f"  {split}: and {len(part.files) - FILES} files more")
        for band, *values in zip(held.bands or range(held.channels), *held.statistics.values(), strict=True):
            numbers = ", ".join(
                f"{key} {value:.4g}" for key, value in zip(held.statistics, values, strict=True)
            )
            console.print(f"  {band}: {numbers}", highlight=False)
    folder = Path(out or f"{'-'.join(held.name for held in manifests.values())}-describe".replace("/", "_"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {folder} cannot be written: {error.strerror}") from None
    groups = {
        (path, label): pixels
        for path, held in manifests.items()
        for label, pixels in some_of_each(path, held, PER_CLASS, seed).items()
    }
    names = {path: held.name for path, held in manifests.items()}
    if len(set(names.values())) < len(names):
        names = {path: os.path.basename(path.rstrip("/")) for path in names}
    with matplotlib.rc_context(STYLE):
        draw_samples(groups, manifests, names, transform).savefig(folder / "samples.png")
        draw_histograms(groups, names, transform).savefig(folder / "histograms.png")
        draw_profiles(groups, manifests, names, transform).savefig(folder / "profiles.png")
        if views:
            draw_views(groups, manifests, names, views, transform, seed).savefig(
                folder / f"views-{views}.png"
            )
    return str(folder)


def _text(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {inner}" for name, inner in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _batches(path: str, held: Manifest) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Labels and pixels of a set, 500 rows at a time, split after split."""
    for file in (file for split in held.splits for file in split_files(path, split)):
        with parquet(file) as opened:
            for batch in opened.iter_batches(500, columns=["pixels", "label"]):
                labels = batch["label"].fill_null(UNLABELLED).to_numpy(zero_copy_only=False)
                yield labels, batch["pixels"].to_numpy_ndarray()


def some_of_each(path: str, held: Manifest, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Up to `rows` images of each class, and of the unlabelled; no more files are read than that takes."""
    wanted = {}
    for split in held.splits.values():
        for label, count in split.labels.items():
            wanted[label] = min(rows, wanted.get(label, 0) + count)
    found: dict[str, list[np.ndarray]] = {label: [] for label, count in wanted.items() if count}
    for labels, pixels in _batches(path, held):
        for k in np.unique(labels):
            label = "unlabelled" if k == UNLABELLED else held.classes[k]
            short = wanted[label] - sum(map(len, found[label]))
            found[label].append(pixels[labels == k][:short])
        if all(sum(map(len, parts)) >= wanted[label] for label, parts in found.items()):
            break
    rng = np.random.default_rng(seed)
    return {label: rng.permutation(np.concatenate(parts)) for label, parts in found.items()}


def draw_samples(
    groups: dict, manifests: dict[str, Manifest], names: dict[str, str], transform: str
) -> Figure:
    """Random images of each class, a row or two for each."""
    rows = [
        (key, pixels[start : start + COLUMNS])
        for key, pixels in groups.items()
        for start in range(0, min(len(pixels), 2 * COLUMNS), COLUMNS)
    ]
    figure = Figure(figsize=(COLUMNS * 1.05 + 1.2, len(rows) * 1.08 + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), COLUMNS, squeeze=False)
    for line, ((path, label), pixels) in zip(axes, rows, strict=True):
        _pictures(line, preprocess(pixels, transform), manifests[path].bands, transform)
        _name(line[0], f"{names[path]}\n{label}")
    figure.suptitle(f"samples, pixels by {transform}")
    return figure


def draw_views(
    groups: dict,
    manifests: dict[str, Manifest],
    names: dict[str, str],
    method: str,
    transform: str,
    seed: int,
) -> Figure:
    """What a method's views do: an image, then four draws of each of its views."""
    from raylens import find
    from raylens.augment import augment

    views = find.method(method).views
    rows = [(key, pixels[i : i + 1]) for key, pixels in groups.items() for i in range(min(2, len(pixels)))]
    columns = 1 + 4 * len(views)
    figure = Figure(figsize=(columns * 1.05 + 1.2, len(rows) * 1.08 + 0.7), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, ((path, label), pixels) in zip(axes, rows, strict=True):
        before = preprocess(pixels, transform)
        shown = [before]
        for k, pipeline in enumerate(views.values()):
            shown += [augment(before, pipeline, seed=seed + 4 * k + draw) for draw in range(4)]
        _pictures(line, np.concatenate(shown), manifests[path].bands, transform)
        _name(line[0], f"{names[path]}\n{label}")
    axes[0, 0].set_title("image")
    for k, (view, pipeline) in enumerate(views.items()):
        axes[0, 1 + 4 * k].set_title(f"{view}: {pipeline}" if view != pipeline else view, loc="left")
    figure.suptitle(f"views of {method}, pixels by {transform}")
    return figure


def draw_histograms(groups: dict, names: dict[str, str], transform: str) -> Figure:
    """Pixel values as they are, set by set, and of all sets after the transform."""
    figure = Figure(figsize=(4.2 * (len(names) + 1), 3.6), layout="constrained")
    *raw, together = figure.subplots(1, len(names) + 1)
    for axis, path in zip(raw, names, strict=True):
        mine = {label: pixels[np.isfinite(pixels)] for (of, label), pixels in groups.items() if of == path}
        low, high = np.quantile(np.concatenate(list(mine.values())), [0.0005, 0.9995])
        edges = np.linspace(low, high if high > low else low + 1, 81)
        for colour, (label, values) in zip(_colours(), mine.items(), strict=False):
            _line(axis, values, edges, label=label, color=colour)
        axis.set(title=f"{names[path]}, as stored", xlabel="pixel value")
    for dashes, path in zip(cycle(("-", "--", ":", "-.")), names, strict=False):
        mine = {label: pixels for (of, label), pixels in groups.items() if of == path}
        for colour, (label, pixels) in zip(_colours(), mine.items(), strict=False):
            values = preprocess(pixels, transform)
            edges = np.linspace(0, 1, 81) if transform != "none" else 80
            _line(together, values, edges, label=f"{names[path]}: {label}", color=colour, linestyle=dashes)
    together.set(title=f"after {transform}", xlabel="pixel value")
    for axis in (*raw, together):
        axis.set(yscale="log", ylabel="density")
        axis.legend(frameon=False, fontsize=8)
    return figure


def draw_profiles(
    groups: dict, manifests: dict[str, Manifest], names: dict[str, str], transform: str
) -> Figure:
    """Brightness in rings about the middle, and its scatter within a ring: where a simulation is unlike a survey.

    Set beside set, the median of the images and 80 % of them, each class as often as the set has it.
    """
    channels = {path: held.bands or tuple(map(str, range(held.channels))) for path, held in manifests.items()}
    bands = list(dict.fromkeys(band for mine in channels.values() for band in mine))
    scaled = all(held.arcsec_per_pixel for held in manifests.values())
    figure = Figure(figsize=(8.4, 2.6 * len(bands) + 0.6), layout="constrained")
    axes = figure.subplots(len(bands), 2, squeeze=False, sharex=True)
    for colour, (path, held) in zip(_colours(), manifests.items(), strict=False):
        some = as_frequent(held, {label: pixels for (of, label), pixels in groups.items() if of == path})
        for column, values in zip(axes.T, profiles(preprocess(some, transform)), strict=True):
            rings = values.shape[-1]
            away = (np.arange(rings) + 0.5) / rings * held.size / 2 * (held.arcsec_per_pixel if scaled else 1)
            for band, each in zip(channels[path], np.moveaxis(values, 1, 0), strict=True):
                low, middle, high = np.quantile(each, [0.1, 0.5, 0.9], axis=0)
                axis = column[bands.index(band)]
                axis.plot(away, middle, color=colour, label=names[path])
                axis.fill_between(away, low, high, color=colour, alpha=0.15, linewidth=0)
    for band, axis in zip(bands, axes[:, 0], strict=True):
        axis.set(ylabel=band)
    for axis, title in zip(axes[0], ("mean of a ring", "scatter within it"), strict=True):
        axis.set(title=title)
    for axis in axes[-1]:
        axis.set(xlabel=f"distance from the middle, {'arcsec' if scaled else 'pixels'}")
    lines = {line.get_label(): line for axis in axes[:, 0] for line in axis.get_lines()}
    axes[0, 0].legend(lines.values(), lines.keys(), frameon=False)
    figure.suptitle(f"rings about the middle, pixels by {transform}: median, and 80 % of the images")
    return figure


def as_frequent(held: Manifest, found: dict[str, np.ndarray]) -> np.ndarray:
    """Of the images of each class, as many as keep the shares that the set has; no class is left out."""
    counts = {label: sum(split.labels.get(label, 0) for split in held.splits.values()) for label in found}
    share = min(len(pixels) / counts[label] for label, pixels in found.items())
    return np.concatenate([pixels[: max(1, round(share * counts[label]))] for label, pixels in found.items()])


def profiles(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, (N, C, R) each, in rings about the middle of images (N, C, H, H)."""
    size = pixels.shape[-1]
    rings = max(1, min(RINGS, size // 8))
    away = np.abs(np.arange(size) - (size - 1) / 2)
    ring = (np.hypot(away[:, None], away) * 2 * rings / size).astype(int)
    within = [pixels[..., ring == number] for number in range(rings)]
    return np.stack([one.mean(-1) for one in within], -1), np.stack([one.std(-1) for one in within], -1)


def _line(axis, values: np.ndarray, edges, **style) -> None:
    density, edges = np.histogram(values, edges, density=True)
    axis.stairs(np.where(density > 0, density, np.nan), edges, baseline=None, linewidth=1.3, **style)


def _colours() -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(64)]


def _name(axis, text: str) -> None:
    axis.set_ylabel(text, rotation=0, ha="right", va="center")


def _pictures(axes, pixels: np.ndarray, bands: tuple[str, ...], transform: str) -> None:
    """Images in a line of axes, each on its own scale: of three bands or more the first three in colour."""
    from raylens.pictures import stretched

    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for axis, image in zip(axes, pixels, strict=False):
        shown = image[:3] if len(image) > 2 else image[:1]
        axis.imshow(stretched(shown, transform, bands), cmap="gray", origin="lower")
