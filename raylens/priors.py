"""How common each class is in the target, estimated from predictions, without a label of the target.

All assume label shift: the target differs from the source in how common its classes are, and in nothing that the
classifier sees. Where adaptation has left a gap, the estimates are wrong, by as much as the interval does not say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import log_softmax, softmax

if TYPE_CHECKING:
    from raylens.config import Run


@dataclass(frozen=True)
class Prior:
    """Shares of the classes in the target (K,), each with the ends of its 95 % bootstrap interval."""

    shares: np.ndarray
    low: np.ndarray
    high: np.ndarray


def told(run: Run) -> np.ndarray | None:
    """Shares of the two classes in the target, (2,), that the method of `run` is told, given or estimated before.

    None where it is told nothing, or cannot be: it has no method.target_prior.
    """
    prior = getattr(run.method, "target_prior", None)
    return None if prior is None else np.array([1 - prior, prior])


def estimate(
    source: np.ndarray, labels: np.ndarray, target: np.ndarray, *, resamples: int = 200, seed: int = 0
) -> Prior:
    """The shares by `mlls`, from logits of source (N, K) with labels (N,) and target (M, K).

    Rows of both are drawn with replacement for the interval, those of the source class by class.
    """
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(labels == label) for label in range(source.shape[1])]
    drawn = []
    for _ in range(resamples):
        ours = np.concatenate([rng.choice(row, len(row)) for row in rows])
        theirs = rng.integers(len(target), size=len(target))
        drawn.append(mlls(source[ours], labels[ours], target[theirs]))
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return Prior(mlls(source, labels, target), low, high)


def mlls(source: np.ndarray, labels: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Maximum likelihood under label shift, (K,): Saerens et al. 2002, eqs. 2.7 to 2.9, on calibrated probabilities.

    Of logits of source (N, K) with labels (N,), and of target (M, K). Alexandari et al. 2020 (arXiv 1901.06852) showed
    that calibration decides how good it is.
    """
    temperature, bias = calibration(source, labels)
    held = np.bincount(labels, minlength=source.shape[1]) / len(labels)
    odds = softmax(target / temperature + bias, axis=1) / held
    shares = held.copy()
    for _ in range(1000):
        found = odds * shares
        found = (found / found.sum(1, keepdims=True)).mean(0)
        if np.abs(found - shares).max() < 1e-8:
            break
        shares = found
    return shares


def calibration(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Temperature and biases (K,) of bias-corrected temperature scaling: Alexandari et al. 2020, section 2.3.

    Of logits (N, K) with labels (N,).
    """
    from scipy.optimize import minimize

    classes, rows = logits.shape[1], np.arange(len(labels))

    def loss(values: np.ndarray) -> float:
        shifted = logits / np.exp(values[0]) + np.append(values[1:], 0.0)
        return -log_softmax(shifted, axis=1)[rows, labels].mean() + 1e-6 * np.square(values).sum()

    found = minimize(loss, np.zeros(classes), method="L-BFGS-B").x
    return float(np.exp(found[0])), np.append(found[1:], 0.0)


def bbse(source: np.ndarray, labels: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Black box shift estimation, (K,): Lipton et al. 2018 (arXiv 1802.03916), eq. 4, shares kept from falling below 0.

    Of logits of source (N, K) with labels (N,), and of target (M, K). Needs no calibration and uses less of what is
    there; where it and `mlls` disagree, the assumption does not hold.
    """
    from scipy.optimize import nnls

    classes = source.shape[1]
    said, guess = softmax(target, axis=1).mean(0), softmax(source, axis=1)
    confusion = np.stack([guess[labels == label].mean(0) for label in range(classes)], axis=1)
    shares, _ = nnls(confusion, said)
    return shares / shares.sum()
