"""Every reported name with its meaning and formula, and the metrics of a split with their intervals.

A binary metric needs no more than the rows of each class at each score: `Counts`. A bootstrap resample has
other counts at the same scores, so a thousand of them cost as many cumulative sums and no sorting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp, softmax

from raylens.errors import ConfigError, DataError
from raylens.progress import track
from raylens.records import Outputs

RESAMPLES = 1000
"""Of a bootstrap."""
FEW = 10
"""Images of a class with which a bootstrap begins to know how they scatter."""
Measure = Callable[[np.ndarray], dict[str, np.ndarray]]  # rows (B, N) -> each metric of each resample (B,)


@dataclass(frozen=True)
class Counts:
    """Rows of each class at each distinct score, the highest first; the leading axis is one of resamples."""

    scores: np.ndarray  # (G,)
    positives: np.ndarray  # (B, G)
    negatives: np.ndarray  # (B, G)
    bins: np.ndarray  # where the equal-mass bins of the calibration error begin; equal scores share one
    threshold: float = 0.5

    @cached_property
    def found(self) -> np.ndarray:
        """True positives when the score itself is the threshold."""
        return self.positives.cumsum(-1)

    @cached_property
    def false(self) -> np.ndarray:
        """False positives when the score itself is the threshold."""
        return self.negatives.cumsum(-1)

    @cached_property
    def rows(self) -> np.ndarray:
        return self.found[..., -1] + self.false[..., -1]

    @cached_property
    def tp(self) -> np.ndarray:
        return self.positives @ (self.scores >= self.threshold)

    @cached_property
    def tn(self) -> np.ndarray:
        return self.negatives @ (self.scores < self.threshold)

    def auroc(self) -> np.ndarray:
        pairs = self.found[..., -1] * self.false[..., -1]
        return (self.negatives * (self.found - self.positives / 2)).sum(-1) / pairs

    def auprc(self) -> np.ndarray:
        precision = self.found / np.maximum(self.found + self.false, 1)
        return (self.positives * precision).sum(-1) / self.found[..., -1]

    def recall(self, false_positives: int | np.ndarray) -> np.ndarray:
        """Recall at the lowest score with at most so many false positives.

        Equal scores are cut together, so a false positive counts before the true positives it is tied with.
        """
        allowed = self.false <= np.asarray(false_positives)[..., None]
        return np.where(allowed, self.found, 0).max(-1) / self.found[..., -1]

    def recall_at(self, rate: float) -> np.ndarray:
        return self.recall(np.floor(rate * self.false[..., -1] + 1e-9))  # 0.001 * 3000 may fall short of 3

    def ece(self) -> np.ndarray:
        gap = self.positives - self.scores * (self.positives + self.negatives)
        return np.abs(np.add.reduceat(gap, self.bins, axis=-1)).sum(-1) / self.rows

    def brier(self) -> np.ndarray:
        return (self.positives @ (1 - self.scores) ** 2 + self.negatives @ self.scores**2) / self.rows


class Table:
    """The scores of a split and which rows are positive, ready to be counted over any choice of rows."""

    def __init__(self, scores: np.ndarray, positive: np.ndarray, threshold: float = 0.5) -> None:
        rising, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
        self.scores, sizes, self.threshold = rising[::-1], sizes[::-1], threshold
        # The place of a row's score, highest first, negatives after positives.
        self.code = len(rising) - 1 - group + len(rising) * ~positive
        self.bins = np.unique((sizes.cumsum() - sizes) * 15 // len(scores), return_index=True)[1]

    def counts(self, rows: np.ndarray) -> Counts:
        """Count the rows (B, N), drawn with or without repetition."""
        size, resamples = len(self.scores), len(rows)
        code = self.code[rows] + 2 * size * np.arange(resamples)[:, None]
        table = np.bincount(code.ravel(), minlength=2 * size * resamples).reshape(resamples, 2, size)
        return Counts(self.scores, table[:, 0], table[:, 1], self.bins, self.threshold)


class Metric(NamedTuple):
    """What a reported number means, and the formula or the paper that it is from."""

    meaning: str
    source: str


METRICS = {
    "auroc": Metric(
        "chance that a lens outscores a non-lens; with more classes, mean against the rest",
        "area under the ROC curve, ties half; Hanley & McNeil 1982",
    ),
    "auroc_<class>": Metric("AUROC of one class, by its position, against the rest", "as auroc"),
    "auprc": Metric("precision averaged over recall; falls with the rate of lenses", "sum (R_n - R_n-1) P_n"),
    "tpr0": Metric(
        "recall before the first false positive; of equal scores, non-lenses come first",
        "Metcalf et al. 2019",
    ),
    "tpr10": Metric("recall before the tenth false positive; equal scores as in tpr0", "Metcalf et al. 2019"),
    "tpr_at_fpr_1e-2": Metric(
        "recall with at most one false positive in 100 non-lenses", "max TPR, FPR <= 1e-2"
    ),
    "tpr_at_fpr_1e-3": Metric(
        "recall with at most one false positive in 1000 non-lenses", "max TPR, FPR <= 1e-3"
    ),
    "ece": Metric(
        "expected calibration error; with more classes, of the likeliest; resampling raises it in small sets",
        "sum n_b/n |mean p - mean y| over 15 equal-mass bins; Naeini et al. 2015",
    ),
    "brier": Metric("squared error of the probability", "mean (p - y)^2; Brier 1950"),
    "accuracy": Metric("share right at the threshold; with more classes, of the likeliest", "(tp + tn) / n"),
    "tp": Metric("lenses at or above the threshold", "count"),
    "fp": Metric("non-lenses at or above the threshold", "count"),
    "tn": Metric("non-lenses below the threshold", "count"),
    "fn": Metric("lenses below the threshold", "count"),
    "rankme": Metric(
        "dimensions that the features fill", "exp of the entropy of singular values; Garrido et al. 2023"
    ),
    "dimensions": Metric(
        "the same about the features' mean: 1 where they lie on a line", "rankme of features minus their mean"
    ),
    "spread": Metric(
        "deviation of normalised features, in that of isotropic ones; 0 is collapsed",
        "Chen & He 2021, section 4.1",
    ),
    "probe": Metric(
        "AUROC of a linear classifier of the features", "logistic regression, five-fold cross-validated"
    ),
    "knn": Metric(
        "share right by the 20 nearest neighbours, classes alike", "cosine, five-fold cross-validated"
    ),
    "mae": Metric("mean absolute error, in the number's unit: dex of a log10", "mean |p - y|"),
    "rmse": Metric("root of the mean squared error, in the number's unit", "sqrt mean (p - y)^2"),
    "r2": Metric(
        "share of the variance that is told; 0 for the mean, which is all that a blind guess has",
        "1 - sum (p - y)^2 / sum (y - mean y)^2",
    ),
    "masked": Metric("squared error of masked patches as they are painted", "He et al. 2022, section 3"),
    "mean_of_visible": Metric(
        "squared error of masked patches, if the mean of the others is guessed, band by band",
        "mean (p - y)^2",
    ),
    "interpolated": Metric(
        "squared error of masked patches, linearly interpolated", "on Delaunay triangles of pixels"
    ),
    "noise": Metric(
        "squared error on pure noise, in its variance: below 1 the mask leaks, above 1 it paints what it has learned",
        "mean (p - y)^2 / var y",
    ),
    "psnr": Metric(
        "peak signal to noise of painted images, dB", "mean 10 log10(range(y)^2 / mean (p - y)^2)"
    ),
    "ssim": Metric(
        "structural similarity of painted images, 1 at most", "Wang et al. 2004, Gaussian of 1.5 pixels"
    ),
    "bicubic_psnr": Metric("psnr of the bicubic enlargement", "torch, a = -0.75"),
    "bicubic_ssim": Metric("ssim of the bicubic enlargement", "torch, a = -0.75"),
    "bicubic_mse": Metric("mse of the bicubic enlargement", "torch, a = -0.75"),
    "psnr_gain": Metric("psnr above that of the bicubic enlargement, dB", "psnr - bicubic_psnr"),
    "mse": Metric(
        "mean squared error of painted images, in the squared range of each", "mean (p - y)^2 / range(y)^2"
    ),
    "step": Metric("optimizer steps taken", "count"),
    "objective": Metric("what trials are ranked by; reads no target label", "search.validator"),
    "warnings": Metric("what looked wrong since the last report", "the method's file"),
    "averaged": Metric("trials whose weights were averaged", "Wortsman et al. 2022"),
    "oracle": Metric("says that the objective reads target labels", "search.oracle"),
    "loss/<term>": Metric("a term of the training loss, weight included; they add up", "the method's file"),
    "monitor/target_prior": Metric(
        "share of lenses that the method was told to expect in the target, or an estimate",
        "method.target_prior, data.prior",
    ),
    "monitor/<name>": Metric("a quantity that is watched, not optimised", "the method's file"),
    "validator/<name>": Metric("a score that ranks trials", "the validator's file"),
    "time/images": Metric("images a second that a worker learns from", "wall clock"),
    "time/<part>": Metric("seconds spent on a step", "wall clock"),
}
FORMULAS: dict[str, Callable[[Counts], np.ndarray]] = {
    "auroc": Counts.auroc,
    "auprc": Counts.auprc,
    "tpr0": lambda counts: counts.recall(0),
    "tpr10": lambda counts: counts.recall(9),
    "tpr_at_fpr_1e-2": lambda counts: counts.recall_at(1e-2),
    "tpr_at_fpr_1e-3": lambda counts: counts.recall_at(1e-3),
    "ece": Counts.ece,
    "brier": Counts.brier,
    "accuracy": lambda counts: (counts.tp + counts.tn) / counts.rows,
    "tp": lambda counts: counts.tp,
    "fp": lambda counts: counts.false[..., -1] - counts.tn,
    "tn": lambda counts: counts.tn,
    "fn": lambda counts: counts.found[..., -1] - counts.tp,
}


REGRESSION = ("mae", "rmse", "r2")
LOWER_IS_BETTER = ("mae", "rmse", "mse")
PAINTING = ("psnr", "ssim", "mse", "psnr_gain", "bicubic_psnr", "bicubic_ssim", "bicubic_mse")


def explain(name: str) -> Metric:
    """What a reported name means, such as `target/auroc`, `auroc_2` or `loss/supervised`. Raises ConfigError."""
    bare = name.removeprefix("source/").removeprefix("target/")
    prefix, _, rest = bare.partition("/")
    pattern = "auroc_<class>" if bare[:6] == "auroc_" and bare[6:].isdigit() else bare
    if rest and bare not in METRICS:
        pattern = next((known for known in METRICS if known.startswith(f"{prefix}/<")), bare)
    if pattern not in METRICS:
        raise ConfigError(f"unknown metric {name!r}; known here: {', '.join(METRICS)}")
    return METRICS[pattern]


def binary(scores: ArrayLike, labels: ArrayLike, threshold: float = 0.5) -> dict[str, float]:
    """Every binary metric of the probabilities (N,) of class 1; `tp, fp, tn, fn` count at `threshold`.

    Labels (N,) are 0 or 1. Raises DataError when they are not both there, or a probability is none.
    """
    scores, labels = _checked(scores, labels)
    return _values(_binary(scores, labels, FORMULAS, threshold), labels)


def multiclass(probabilities: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """`auroc` over classes, `auroc_<class>` against the rest, `accuracy` and `ece` of the likeliest class.

    Of probabilities (N, K) and labels (N,), 0 to K - 1. Raises DataError when a class has no row, or a number is not
    finite.
    """
    probabilities, labels = _checked(probabilities, labels)
    return _values(_multiclass(probabilities, labels), labels)


def classification(probabilities: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """`binary` on the probability of class 1 where there are two classes, else `multiclass`.

    Of probabilities (N, K) and labels (N,). Raises DataError as these do.
    """
    probabilities = np.asarray(probabilities)
    two = probabilities.shape[1] == 2
    return binary(probabilities[:, 1], labels) if two else multiclass(probabilities, labels)


def regression(predicted: ArrayLike, numbers: ArrayLike) -> dict[str, float]:
    """`mae`, `rmse` and `r2` of predicted numbers (N,), beside the true ones (N,). Raises DataError.

    It does for fewer than two, for none to compare with, and for predictions that are not finite.
    """
    return _values(*_regression(predicted, numbers))


def evaluate_regression(
    predicted: ArrayLike, numbers: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict:
    """`mae`, `rmse` and `r2` of predicted numbers (N,) with their 95 % intervals, ready for JSON.

    Raises DataError as `regression` does.
    """
    return _report(*_regression(predicted, numbers), resamples, seed)


def super_resolution(judged: ArrayLike) -> dict[str, float]:
    """The metrics of PAINTING: of each image the squared errors and SSIM of what is painted and of bicubic, (N, 4).

    Raises DataError for another shape, and for numbers that are not finite.
    """
    return _values(*_painting(judged))


def evaluate_super_resolution(judged: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """`super_resolution` with 95 % intervals over images, ready for JSON."""
    return _report(*_painting(judged), resamples, seed)


def evaluate_means(each: Mapping[str, ArrayLike], *, resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """Means of numbers (N,) by name, with 95 % intervals over rows, ready for JSON."""
    return _report(*_means(each), resamples, seed)


def _report(measure: Measure, rows: np.ndarray, resamples: int, seed: int) -> dict:
    drawn, values = _bootstrap(measure, rows, resamples, seed), _values(measure, rows)
    limits = {name: _limits(drawn[name], 0.95) for name in values}
    return {
        "rows": len(rows),
        "metrics": {
            name: {"value": value, "low": limits[name][0], "high": limits[name][1]}
            for name, value in values.items()
        },
        "intervals": {"level": 0.95, "resamples": resamples, "seed": seed},
    }


def _regression(predicted: ArrayLike, numbers: ArrayLike) -> tuple[Measure, np.ndarray]:
    """A measure of drawn rows, and the stratum of each row: all are of one."""
    if numbers is None:
        raise DataError("the split has no numbers to compare with, and metrics need them")
    predicted, numbers = np.asarray(predicted, np.float64), np.asarray(numbers, np.float64)
    if predicted.shape != numbers.shape or len(numbers) < 2:
        raise DataError(
            f"{len(predicted)} predictions and {len(numbers)} numbers; metrics need as many of each, two at least"
        )
    if bad := int((~np.isfinite(predicted)).sum()):
        raise DataError(f"{bad} of {len(predicted)} predictions are NaN or infinite; lower optimizer.lr")
    error = predicted - numbers

    def measure(rows: np.ndarray) -> dict[str, np.ndarray]:
        squared, held = np.square(error)[rows].mean(1), numbers[rows]
        variance = np.maximum(held.var(1), 1e-300)
        return {"mae": np.abs(error)[rows].mean(1), "rmse": np.sqrt(squared), "r2": 1 - squared / variance}

    return measure, np.zeros(len(numbers), np.int64)


def _painting(judged: ArrayLike) -> tuple[Measure, np.ndarray]:
    """A measure of drawn rows, and the stratum of each row: all are of one."""
    judged = np.asarray(judged, np.float64)
    if judged.ndim != 2 or judged.shape[1] != 4 or not len(judged):
        raise DataError(f"numbers of shape {judged.shape} are not of painted images, (N, 4)")
    if bad := int((~np.isfinite(judged).all(1)).sum()):
        raise DataError(f"{bad} of {len(judged)} painted images are NaN or infinite; lower optimizer.lr")
    error, similar, bicubic_error, bicubic_similar = judged.T
    psnr, bicubic = (-10 * np.log10(np.maximum(of, 1e-12)) for of in (error, bicubic_error))
    ours, bicubics = (psnr, similar, error), (bicubic, bicubic_similar, bicubic_error)
    return _means(dict(zip(PAINTING, (*ours, psnr - bicubic, *bicubics), strict=True)))


def _means(each: Mapping[str, ArrayLike]) -> tuple[Measure, np.ndarray]:
    """The means of drawn rows, and the stratum of each row: all are of one."""
    numbers = {name: np.asarray(values, np.float64) for name, values in each.items()}

    def measure(rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: values[rows].mean(1) for name, values in numbers.items()}

    return measure, np.zeros(len(next(iter(numbers.values()))), np.int64)


def confusion(probabilities: ArrayLike, labels: ArrayLike, threshold: float = 0.5) -> np.ndarray:
    """Counts (K, K), true class down, predicted across: two by `threshold`, more by the likeliest.

    Of probabilities (N, K) and labels (N,). Raises DataError when a class has no row.
    """
    probabilities, labels = _checked(probabilities, labels)
    classes = probabilities.shape[1]
    predicted = probabilities[:, 1] >= threshold if classes == 2 else probabilities.argmax(1)
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def interval(
    scores: ArrayLike,
    labels: ArrayLike,
    metric: str = "auroc",
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
    threshold: float = 0.5,
) -> tuple[float, float]:
    """Percentile bootstrap of a binary metric, rows drawn with replacement from each class by itself: low, high.

    Scores (N,) are probabilities of class 1, labels (N,) 0 or 1. Drawn together, a split with a few lenses would vary
    in their number, which its maker fixed, and some resamples would hold none. Rough for tpr0, which hangs on a single
    row; high for ece, whose noise adds up. Raises ConfigError for a metric that there is not, DataError when there is
    no row of a class or a score is not finite.
    """
    scores, labels = _checked(scores, labels)
    measure = _named(scores, labels, metric, threshold)
    return _limits(_bootstrap(measure, labels, resamples, seed)[metric], level)


def paired(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    labels: ArrayLike,
    metric: str = "auroc",
    *,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
    threshold: float = 0.5,
) -> tuple[float, float, float]:
    """The metric of `a` minus that of `b`, and its interval: both over the same resampled rows.

    Scores are probabilities (N,) of class 1, or (N, K) of more classes than two, whose metric is of `multiclass`;
    labels (N,). Raises ConfigError and DataError as `interval` does.
    """
    value, drawn = _difference(scores_a, scores_b, labels, metric, resamples, seed, threshold)
    return value, *_limits(drawn, level)


def paired_over_runs(
    runs: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]],
    metric: str = "auroc",
    seed: int = 0,
    *,
    groups: int = 1,
) -> tuple[float, float, float]:
    """The mean over runs (a, b, labels) of what `paired` measures of each, and its 95 % interval.

    Scores of each run are (N,) or (N, K), its labels (N,). Raises ConfigError and DataError as `interval` does.

    Runs are drawn with replacement and rows within each, so the interval knows how runs scatter; of few runs it knows
    little, and is too narrow. Runs with the same labels are of the same rows, which are drawn once for all. Runs that
    share something, such as a pretraining, come in `groups` of one size, one after the other, and in the same order of
    what else they share, such as a seed: groups are drawn, and the same runs of each.
    """
    seeds = _seeds([labels for *_, labels in runs], seed)
    found = [_difference(*run, metric, RESAMPLES, at) for run, at in zip(runs, seeds, strict=True)]
    return _mean(found, seeds, groups)


def over_runs(
    runs: Sequence[tuple[ArrayLike, ArrayLike]], metric: str = "auroc", seed: int = 0, *, groups: int = 1
) -> tuple[float, float, float]:
    """The mean over runs (scores, labels) of a metric, and its 95 % interval, as that of `paired_over_runs`.

    Scores of each run are (N,) or (N, K), its labels (N,). Raises ConfigError and DataError as `interval` does.
    """
    seeds = _seeds([labels for _, labels in runs], seed)
    found = [_resampled(*run, metric, RESAMPLES, at) for run, at in zip(runs, seeds, strict=True)]
    return _mean(found, seeds, groups)


def _seeds(labels: Sequence[ArrayLike], seed: int) -> list[int]:
    """A seed for each run's rows: the same where all runs have the same."""
    same = all(np.array_equal(one, labels[0]) for one in labels)
    return [seed if same else seed + index for index in range(len(labels))]


def _mean(
    found: Sequence[tuple[float, np.ndarray]], seeds: Sequence[int], groups: int = 1
) -> tuple[float, float, float]:
    """The mean of what was found for each run, and its interval: of runs that are drawn, and their resamples.

    Runs whose rows were drawn by the same seed take the same resample.
    """
    values, drawn = np.array([value for value, _ in found]), np.stack([drawn for _, drawn in found])
    random, (runs, resamples) = np.random.default_rng(seeds[0]), drawn.shape
    each = runs // groups
    chosen = np.tile(random.integers(each, size=(resamples, each)), groups)
    if groups > 1:
        chosen += each * random.integers(groups, size=(resamples, groups)).repeat(each, axis=1)
    apart = runs if len(set(seeds)) > 1 else 1
    column = np.broadcast_to(random.integers(resamples, size=(resamples, apart)), chosen.shape)
    return float(values.mean()), *_limits(drawn[chosen, column].mean(1), 0.95)


def _difference(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    labels: ArrayLike,
    metric: str,
    resamples: int,
    seed: int,
    threshold: float = 0.5,
) -> tuple[float, np.ndarray]:
    """The metric of `a` minus that of `b`, and of each resample (resamples,)."""
    # The rows drawn follow from the labels and the seed alone, so they are the same for both.
    a, b = (_resampled(scores, labels, metric, resamples, seed, threshold) for scores in (scores_a, scores_b))
    return a[0] - b[0], a[1] - b[1]


def _resampled(
    scores: ArrayLike, labels: ArrayLike, metric: str, resamples: int, seed: int, threshold: float = 0.5
) -> tuple[float, np.ndarray]:
    """The metric, and that of each resample (resamples,)."""
    if metric in REGRESSION or metric in PAINTING:
        measure, rows = _regression(scores, labels) if metric in REGRESSION else _painting(scores)
        return _values(measure, rows)[metric], _bootstrap(measure, rows, resamples, seed)[metric]
    scores, labels = _checked(scores, labels)
    two = scores.ndim == 1
    measure = _named(scores, labels, metric, threshold) if two else _multiclass(scores, labels)
    return _values(measure, labels)[metric], _bootstrap(measure, labels, resamples, seed)[metric]


def evaluate_outputs(
    outputs: Outputs,
    classes: tuple[str, ...],
    *,
    threshold: float = 0.5,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """`evaluate` of what a model says of a split. Raises DataError as it does."""
    return evaluate(
        softmax64(outputs.logits),
        outputs.labels,
        classes,
        threshold=threshold,
        resamples=resamples,
        seed=seed,
    )


def evaluate(
    probabilities: ArrayLike,
    labels: ArrayLike | None,
    classes: Sequence[str],
    *,
    threshold: float = 0.5,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict:
    """All metrics of probabilities (N, K) of a labelled split with their 95 % intervals, ready for JSON.

    Labels (N,) are 0 to K - 1. Raises DataError when there are none, a class has no row, or a number is not finite.
    """
    probabilities, labels = _checked(probabilities, labels)
    if two := len(classes) == 2:
        names = [name for name in FORMULAS if name not in ("tp", "fp", "tn", "fn")]
        measure = _binary(probabilities[:, 1], labels, names, threshold)
    else:
        measure = _multiclass(probabilities, labels)
    drawn = _bootstrap(measure, labels, resamples, seed)
    limits = {name: _limits(drawn[name], 0.95) for name in drawn}
    return {
        "rows": len(labels),
        "classes": {name: int((labels == index).sum()) for index, name in enumerate(classes)},
        "threshold": threshold if two else None,
        "metrics": {
            name: {"value": value, "low": limits[name][0], "high": limits[name][1]}
            for name, value in _values(measure, labels).items()
        },
        "confusion": confusion(probabilities, labels, threshold).tolist(),
        "intervals": {"level": 0.95, "resamples": resamples, "seed": seed},
    }


def scarce(classes: Mapping[str, int]) -> str:
    """What a user should know of intervals over images of these classes, counted; nothing where each has enough."""
    few = [f"{count} {name}" for name, count in classes.items() if count < FEW]
    if not few:
        return ""
    return f"only {' and '.join(few)}: its intervals are rough, and too narrow; {FEW} or more of each class would do"


def softmax64(logits: ArrayLike) -> np.ndarray:
    """Probabilities in double precision: single rounds the surest lenses to 1, and so ties them."""
    return softmax(np.asarray(logits, dtype=np.float64), axis=-1)


def draws(labels: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Bootstrap rows (B, N), as many from each class as it has, in blocks that fit a processor's cache."""
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    block = _together(labels)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        yield np.hstack([rows[generator.integers(len(rows), size=(size, len(rows)))] for rows in members])


def _together(labels: np.ndarray) -> int:
    """Resamples of a block."""
    return max(1, 2**17 // len(labels))


def _named(scores: np.ndarray, labels: np.ndarray, metric: str, threshold: float) -> Measure:
    if metric not in FORMULAS:
        raise ConfigError(f"unknown metric {metric}; known here: {', '.join(FORMULAS)}")
    return _binary(scores, labels, [metric], threshold)


def _binary(scores: np.ndarray, labels: np.ndarray, names: Iterable[str], threshold: float) -> Measure:
    if not {"ece", "brier"}.isdisjoint(names) and not (scores.min() >= 0 and scores.max() <= 1):
        raise DataError(
            f"scores from {scores.min():.3g} to {scores.max():.3g}; ece and brier need probabilities"
        )
    table = Table(scores, labels == 1, threshold)

    def measure(rows: np.ndarray) -> dict[str, np.ndarray]:
        counts = table.counts(rows)
        return {name: FORMULAS[name](counts) for name in names}

    return measure


def _multiclass(probabilities: np.ndarray, labels: np.ndarray) -> Measure:
    tables = [Table(column, labels == label) for label, column in enumerate(probabilities.T)]
    likeliest = Table(probabilities.max(1), probabilities.argmax(1) == labels)

    def measure(rows: np.ndarray) -> dict[str, np.ndarray]:
        aurocs = {f"auroc_{label}": table.counts(rows).auroc() for label, table in enumerate(tables)}
        right = likeliest.counts(rows)
        of_likeliest = {"accuracy": right.found[:, -1] / right.rows, "ece": right.ece()}
        return {"auroc": np.mean([*aurocs.values()], axis=0)} | aurocs | of_likeliest

    return measure


def _values(measure: Measure, labels: np.ndarray) -> dict[str, float]:
    return {name: float(value[0]) for name, value in measure(np.arange(len(labels))[None]).items()}


def log_odds(logits: ArrayLike) -> np.ndarray:
    """Log odds, in nats, of each class against the rest, (N, K); two classes mirror each other: the last's, (N, 1)."""
    logits = np.asarray(logits, dtype=np.float64)
    others = [logsumexp(np.delete(logits, index, axis=1), axis=1) for index in range(logits.shape[1])]
    odds = logits - np.stack(others, axis=1)
    return odds[:, 1:] if logits.shape[1] == 2 else odds


def _bootstrap(measure: Measure, labels: np.ndarray, resamples: int, seed: int) -> dict[str, np.ndarray]:
    blocks = [
        measure(rows)
        for rows in track(draws(labels, resamples, seed), "intervals", -(-resamples // _together(labels)))
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _limits(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _checked(scores: ArrayLike, labels: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N,) or (N, K) and integer labels of the same rows, every class among them."""
    if labels is None:
        raise DataError("the split has no labels, and metrics need them")
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if not len(scores) or len(scores) != len(labels):
        raise DataError(
            f"{len(scores)} rows of scores and {len(labels)} labels; metrics need as many of each, not none"
        )
    if bad := int((~np.isfinite(scores)).sum()):
        raise DataError(
            f"{bad} of {scores.size} scores are NaN or infinite; look for such images, or lower optimizer.lr"
        )
    classes = scores.shape[1] if scores.ndim == 2 else 2
    found = np.unique(labels)
    if not np.array_equal(found, np.arange(classes)):
        raise DataError(
            f"{len(labels)} rows with labels {', '.join(f'{label:g}' for label in found)} alone; "
            f"metrics need rows of every class from 0 to {classes - 1}: choose a split that has them"
        )
    return scores, labels.astype(np.int64)
