"""What features are worth before they are used, told from features alone or with labels that nothing was trained on."""

from __future__ import annotations

import numpy as np

ROWS = 2000
"""Rows that are looked at, at most."""
FEWEST = 50
"""Rows of a class that are looked at, if it has as many."""
NEIGHBOURS = 20


def some(rows: int, most: int = ROWS) -> np.ndarray:
    """At most so many rows, by a fixed seed: the same is said of the same features."""
    return np.sort(np.random.default_rng(0).permutation(rows)[:most])


def rankme(features: np.ndarray) -> float:
    """The effective number of dimensions that features (N, D) fill, 1 to min(N, D).

    Garrido et al. 2023 (arXiv 2210.02885), eqs. 1 and 2: the exponential of the entropy of the singular values, each
    over their sum. 1 for features that are all alike.
    """
    if not np.isfinite(features).all():
        return float("nan")
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    total = values.sum()
    if total <= 0:
        return 1.0
    shares = values / total + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))


def dimensions(features: np.ndarray) -> float:
    """`rankme` of features (N, D) minus their mean, so that a line anywhere is one dimension; 1 if all are alike."""
    return rankme(features - features.mean(0))


def spread(features: np.ndarray) -> float:
    """The mean deviation of the dimensions of normalised features (N, D), times sqrt(D): 1 at most, 0 if all are alike.

    Chen & He 2021 (arXiv 2011.10566), section 4.1.
    """
    from sklearn.preprocessing import normalize

    return float(normalize(features.astype(np.float64)).std(0).mean() * np.sqrt(features.shape[1]))


def probe(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> float:
    """Macro AUROC of a linear classifier of features (N, D) with labels (N,), in five-fold cross-validation.

    Logistic regression on standardised features; each row is told by a classifier that has not seen it.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = _some(features, labels)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    folds = StratifiedKFold(min(5, np.bincount(labels).min()), shuffle=True, random_state=seed)
    chances = cross_val_predict(classifier, features, labels, cv=folds, method="predict_proba")
    if chances.shape[1] == 2:
        return float(roc_auc_score(labels, chances[:, 1]))
    return float(roc_auc_score(labels, chances, multi_class="ovr", average="macro"))


def knn(features: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of the nearest NEIGHBOURS by cosine, each class counting alike, in five-fold cross-validation.

    Of features (N, D) with labels (N,), of which `measurable` must hold.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import normalize

    features, labels = _some(features, labels)
    least = np.bincount(labels).min()
    folds = StratifiedKFold(min(5, least), shuffle=True, random_state=0)
    neighbours = min(NEIGHBOURS, len(labels) // 2)
    classifier = KNeighborsClassifier(neighbours, weights="distance", algorithm="brute")
    called = cross_val_predict(classifier, normalize(features), labels, cv=folds)
    return float(np.mean([(called[labels == label] == label).mean() for label in np.unique(labels)]))


def measurable(labels: np.ndarray | None) -> bool:
    """Whether labels (N,) tell enough to measure by: two classes, two rows of each."""
    if labels is None:
        return False
    counts = np.unique(labels, return_counts=True)[1]
    return len(counts) > 1 and counts.min() > 1


def _some(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some ROWS rows, by a fixed seed, with classes numbered from 0; in their shares, but FEWEST of a rare one."""
    random, (_, labels) = np.random.default_rng(0), np.unique(labels, return_inverse=True)
    each = [random.permutation(np.flatnonzero(labels == label)) for label in range(labels.max() + 1)]
    rows = np.sort(np.concatenate([held[: max(FEWEST, ROWS * len(held) // len(labels))] for held in each]))
    return features[rows].astype(np.float64), labels[rows]
