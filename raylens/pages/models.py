"""What the model of a run is worth, and what it looks at: measures, scores, features, galleries."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raylens import measure, metrics, pictures, saliency
from raylens.checkpoint import Checkpoint
from raylens.data.shards import read_manifest
from raylens.errors import DataError, RequestError
from raylens.pages import charts
from raylens.pages.blocks import Block, Chart, Facts, Gallery, Picture, Row, Section, Words
from raylens.pages.seen import UNKNOWN, Seen, see
from raylens.progress import track
from raylens.records import Outputs
from raylens.validators import domain_gap

POINTS = 500
"""Images of each domain in an embedding."""
CAPTIONS = {
    "roc": "True positives against false ones, with 95 % bands, and the corner where surveys work.",
    "pr": "Precision against recall, and the share of the class found among so many candidates, best first.",
    "calibration": "How often a probability comes true, and how probabilities are spread.",
    "confusion": "True classes against predicted ones.",
    "scatter residuals": "Predicted against true numbers, and errors by tenths of the images.",
    "images": "Images as given, enlarged by bicubic interpolation and by the model, the truth, and what both miss.",
    "gain": "PSNR above bicubic interpolation, image by image.",
    "reconstruction": "Masked images and what is painted of them, and the same of pure noise.",
}
"""Of pictures side by side, whose names begin with one of the words."""


@dataclass(frozen=True)
class Result:
    """The task's metric on the test split, and the paired difference from the model that was never adapted."""

    metric: str
    data: str
    """Name of the set."""
    value: tuple[float, float, float]
    difference: tuple[float, float, float] | None = None


def sections(
    name: str,
    found: Checkpoint,
    start: Checkpoint | None,
    *,
    top: int,
    device: str,
    stage: Callable[[str], object],
) -> tuple[list[Section], Result | None]:
    """Sections on the model `found`, beside the one it started from; one that its data do not allow says why.

    And what it came to, if it could be measured. `stage` is told what is worked on.
    """
    run = found.run
    source, target = run.data.source, run.data.target
    tested = tested_on(found)
    if run.task.name == "pretraining":
        made = []
        if run.method.name == "mae":
            stage("measures")
            made.append(_guarded("Reconstruction", lambda: _painted(name, found, source, device)))
        stage("features")
        return [*made, _guarded("Features", lambda: _classes(found, source, device))], None
    stage("measures")
    results: list[Result] = []
    made = [
        _guarded(
            "Measured on the test split",
            lambda: _measured(name, found, start, tested, device, results.append),
        )
    ]
    result = results[0] if results else None
    if run.task.name != "classification":
        return made, result
    stage("scores")
    other = "target" if tested == target else "test set"
    places = [("source", source, "val"), (other, tested, "test")] if target else [("", tested, "test")]
    models = {"before adaptation": start, "after": found} if start and target else {"": found}
    views, lost = _views(models, places, device)
    blocks: list[Block] = [Words(f"Images cannot be read: {why}", warning=True) for why in lost]
    if not all(views.values()):
        return [*made, Section("Scores", blocks)], result
    looks, classes = charts.looks([domain for domain, *_ in places], found.facts.classes), found.facts.classes
    scores = {title: _scores(seen, classes) for title, seen in views.items()}
    chart = charts.histograms(scores, looks, f"probability of {classes[-1]}")
    blocks.append(Chart(chart, _ADAPTED if target else _ALONE, _quantiles(scores)))
    seen = [*views.values()][-1][-1]
    made.append(Section("Scores", blocks))
    stage("features")
    made.append(_guarded("Features", lambda: _features(views, classes)))
    stage("galleries")
    if seen.split == "test":
        made += _galleries(name, found, seen, top=top, device=device)
    return made, result


def tested_on(found: Checkpoint) -> str:
    """The set whose test split the model is measured on."""
    data = found.run.data
    return data.test or data.target or data.source


def _views(
    models: Mapping[str, Checkpoint], places: Sequence[tuple[str, str, str]], device: str
) -> tuple[dict[str, list[Seen]], list[str]]:
    """What each model says of the splits that can be read; and why others cannot."""
    views, lost = {title: [] for title in models}, []
    for place in places:
        try:
            here = {title: see(one, *place, device=device) for title, one in models.items()}
        except (RequestError, OSError) as error:
            lost.append(str(error))
            continue
        for title, seen in here.items():
            views[title].append(seen)
    return views, lost


def _quantiles(panels: Mapping[str, Mapping[str, np.ndarray]]) -> pd.DataFrame:
    """How scores lie, by panel and group."""
    rows = []
    for title, groups in panels.items():
        for group, scores in groups.items():
            low, middle, high = (pictures.chance(one) for one in np.quantile(scores, (0.05, 0.5, 0.95)))
            row = {"model": title, "images of": group, "number": str(len(scores))}
            rows.append(row | {"5 % are below": low, "half are below": middle, "95 % are below": high})
    table = pd.DataFrame(rows)
    return table.loc[:, (table != "").any()]


_ALONE = "Probabilities of the test images."
_ADAPTED = (
    "Probabilities of validation images of the source and of the test images. Where adaptation does its "
    "work, images of a class lie alike in both domains."
)
_GRAD_CAM = "Each image beside what in it speaks for {}, by Grad-CAM (Selvaraju et al. 2017)."
_ROLLOUT = (
    "Each image beside the places that the network takes its features from, by attention rollout (Abnar & Zuidema "
    "2020), which knows no classes."
)


def _guarded(title: str, made: Any) -> Section:
    """A section, or why there is none: a report is worth having when some of its data have gone."""
    try:
        return Section(title, made())
    except (RequestError, OSError) as error:
        return Section(title, [Words(str(error), warning=True)])


def _measured(
    name: str,
    found: Checkpoint,
    start: Checkpoint | None,
    data: str,
    device: str,
    tell: Callable[[Result], object],
) -> list[Block]:
    """Every metric, beside those of the start, and pictures; `tell` is given the one that counts."""
    task = found.facts.task(found.run.task)
    output, report, blocks = _report(name, found, data, device)
    beside, difference, seed = {}, None, found.run.seed  # that of a leaderboard's intervals
    if start:
        before = measure.outputs(start, data, "test", device=device)
        beside = start.facts.task(start.run.task).report(before.logits, before.labels, seed=seed)["metrics"]
        scores = (task.scores(one.logits) for one in (output, before))
        difference = metrics.paired(*scores, output.labels, task.measured, seed=seed)
    counted = report["metrics"][task.measured]
    value = (counted["value"], counted["low"], counted["high"])
    tell(Result(task.measured, Path(data).name, value, difference))
    rows = []
    for metric, one in report["metrics"].items():
        of = metric.removeprefix("auroc_")
        shown = f"auroc of {found.facts.classes[int(of)]}" if of.isdigit() else metric
        row = {"metric": shown, "value": _interval(one)}
        if metric in beside:
            row["source only"] = _interval(beside[metric])
        rows.append(row | {"meaning": metrics.explain(metric).meaning})
    counts = ", ".join(f"{count} {one}" for one, count in report.get("classes", {}).items())
    told = f"{counts or report['rows']} images of {Path(data).name}; intervals are 95 %, by bootstrap of the images."
    if remark := metrics.scarce(report.get("classes", {})):
        told += f" There are {remark}."
    return [Facts(pd.DataFrame(rows), told, note="meaning"), *blocks]


def _report(
    name: str, found: Checkpoint, data: str, device: str
) -> tuple[Outputs, dict[str, Any], list[Block]]:
    """What the model says, every metric of it, and the pictures that raylens.evaluate makes."""
    output = measure.outputs(found, data, "test", device=device)
    about = {"data": data, "split": "test", "where": None} | measure.warning(found)
    report = about | found.facts.task(found.run.task).report(
        output.logits, output.labels, seed=found.run.seed
    )
    with tempfile.TemporaryDirectory() as folder:
        measure.write(Path(folder), report, output, found, 0.5, device, apart=True)
        return output, report, _pictures(name, Path(folder))


def _painted(name: str, found: Checkpoint, data: str, device: str) -> list[Block]:
    split = "test" if "test" in read_manifest(data).splits else "val"
    with tempfile.TemporaryDirectory() as folder:
        report = measure.painted(found, data, split, Path(folder), device=device, apart=True)
        rows = [
            (one, _interval(value), metrics.explain(one).meaning) for one, value in report["metrics"].items()
        ]
        return [
            Facts(pd.DataFrame(rows, columns=["metric", "value", "meaning"]), note="meaning"),
            *_pictures(name, Path(folder)),
        ]


def _pictures(name: str, folder: Path) -> list[Block]:
    """The files of each caption as a row."""
    rows = []
    for words, caption in CAPTIONS.items():
        paths = [path for word in words.split() for path in sorted(folder.glob(f"{word}*.png"))]
        if paths:
            shown = [Picture(f"{name}-{path.stem}", path.read_bytes(), caption) for path in paths]
            rows.append(Row(shown, caption))
    return rows


def _scores(domains: Sequence[Seen], classes: Sequence[str]) -> dict[str, np.ndarray]:
    """Probabilities of the last class by domain and class; of a domain without labels all together."""
    found = {}
    for seen in domains:
        names = _groups(seen, classes)
        for group in (*(f"{seen.domain} {one}".strip() for one in classes), seen.domain):
            if (names == group).any():
                found[group] = seen.probabilities[names == group, -1]
    return found


def _groups(seen: Seen, classes: Sequence[str]) -> np.ndarray:
    """Words (N,): the domain and the class of each image, or the domain alone."""
    known = np.array([*classes, ""], dtype=object)[seen.labels]
    return np.array([f"{seen.domain} {one}".strip() for one in known], dtype=object)


def _features(views: dict[str, Sequence[Seen]], classes: Sequence[str]) -> list[Block]:
    """t-SNE of features before and after, and whether a classifier tells the domains apart."""
    panels, told = [], []
    looks = charts.spots([seen.domain for seen in next(iter(views.values()))], classes)
    for title, domains in track(views.items(), "t-SNE", len(views)):
        rows = [_some(len(seen.labels)) for seen in domains]
        pairs = [*zip(domains, rows, strict=True)]
        points = _embedded(np.concatenate([seen.features[some] for seen, some in pairs]))
        groups = [_groups(seen, classes)[some] for seen, some in pairs]
        words = [
            f"{seen.ids[row]}<br>{group}, probability {seen.probabilities[row, -1]:.3f}"
            for (seen, some), of in zip(pairs, groups, strict=True)
            for row, group in zip(some, of, strict=True)
        ]
        figure = charts.scatter(points, np.concatenate(groups).tolist(), words, looks, title)
        panels.append(Chart(figure, title))
        if len(domains) > 1:
            both = (Outputs(seen.features, seen.logits, None, np.arange(len(seen.ids))) for seen in domains)
            told.append(f"{-domain_gap.score(*both):.3f} {title}".strip())
    caption = (
        f"t-SNE of features of up to {POINTS} images of each domain; distances between groups mean little."
    )
    if told:
        caption += (
            f" A linear classifier tells the domains apart with an AUROC of {', '.join(told)} (0.5: not at all); where "
            "they hold different shares of a class, some of that is right."
        )
    return [Row(panels, caption)]


def _classes(found: Checkpoint, data: str, device: str) -> list[Block]:
    """t-SNE of the features of a pretrained encoder, by class where there are labels."""
    seen = see(found, "", data, "val", device=device)
    some = _some(len(seen.labels), 2 * POINTS)
    known = np.array([*read_manifest(data).classes, "unlabelled"], dtype=object)[seen.labels[some]]
    panel = _embedded(seen.features[some]), known.tolist(), [str(one) for one in seen.ids[some]]
    told = "t-SNE of features of validation images; labels were not used to learn them."
    looks = charts.looks([""], read_manifest(data).classes) | {"unlabelled": charts.Look()}
    return [Chart(charts.scatter(*panel, looks), told)]


def _some(rows: int, most: int = POINTS) -> np.ndarray:
    """At most so many of `rows`, spread evenly."""
    return np.unique(np.linspace(0, rows - 1, min(rows, most)).astype(int))


def _embedded(features: np.ndarray) -> np.ndarray:
    """Points (N, 2) of features (N, D). Raises DataError for too few, or where all are alike."""
    if len(features) < 4 or np.allclose(features.std(0), 0):
        raise DataError(
            f"{len(features)} images whose features are all alike, or fewer than 4: nothing to draw"
        )
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit_transform(features.astype(np.float64))
    perplexity = min(30.0, max(2.0, (len(features) - 1) / 3))
    return TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(scaled)


def _galleries(name: str, found: Checkpoint, seen: Seen, *, top: int, device: str) -> list[Section]:
    """The images of the highest probability of the last class and the worst errors, with what the model looks at."""
    classes, chances = found.facts.classes, seen.probabilities
    last, known = chances[:, -1], seen.labels != UNKNOWN
    ranked = np.argsort(-last, kind="stable")
    shown = {f"Likeliest {classes[-1]}": ("first", ranked[:top])}
    if known.any():
        if len(classes) == 2:
            for short, order, true, wrong in (
                ("false", ranked, 0, last >= 0.5),
                ("missed", ranked[::-1], 1, last < 0.5),
            ):
                of, taken = classes[true], classes[1 - true]
                own = order[seen.labels[order] == true]
                title = (
                    f"Worst errors: {of} taken for {taken}"
                    if wrong[own].any()
                    else f"Nearest to an error: {of}"
                )
                shown[title] = (short, (own[wrong[own]] if wrong[own].any() else own)[:top])
        else:
            own = np.where(known, chances[np.arange(len(chances)), np.maximum(seen.labels, 0)], np.inf)
            wrong = known & (chances.argmax(1) != seen.labels)
            order = np.argsort(own, kind="stable")
            shown["Worst errors"] = ("errors", order[wrong[order]][:top])
    model, made = found.model(device), []
    for title, (short, rows) in shown.items():
        if not len(rows):
            continue
        taken = len(classes) > 2 and short == "errors"
        target = None if taken else len(classes) - 1
        of = "the class that it is taken for" if taken else classes[-1]
        made.append(
            _guarded(title, partial(_gallery, f"{name}-{short}", found, model, seen, rows, target, of))
        )
    return made


def _gallery(
    name: str, found: Checkpoint, model: Any, seen: Seen, rows: np.ndarray, target: int | None, of: str
) -> list[Block]:
    """The images `rows`, each beside what speaks for the class `target`, called `of`."""
    pixels, labels = seen.pixels(rows), [_label(seen, row, found.facts.classes) for row in rows]
    maps = saliency.maps(model, pixels, target=target)
    told = _ROLLOUT if saliency.attentions(model) else _GRAD_CAM.format(of)
    transform = found.run.data.transform
    shown = [
        Picture(f"{name}-{number}", pictures.pair(image, seen, transform, found.facts.bands), label)
        for number, (image, seen, label) in enumerate(zip(pixels, maps, labels, strict=True), 1)
    ]
    return [Gallery(shown, told)]


def _label(seen: Seen, row: int, classes: Sequence[str]) -> str:
    chances = seen.probabilities[row]
    said = (
        pictures.chance(chances[-1])
        if len(classes) == 2
        else f"{classes[chances.argmax()]} {chances.max():.2f}"
    )
    true = "" if seen.labels[row] == UNKNOWN else f", {classes[seen.labels[row]]}"
    return f"{said}{true}\n{seen.ids[row]}"


def _interval(one: dict[str, float]) -> str:
    digits = ".3f" if max(abs(value) for value in one.values()) >= 0.01 else ".2g"
    return f"{one['value']:{digits}} [{one['low']:{digits}}, {one['high']:{digits}}]"
