"""Choosing among trials by their agreement with all of them together.

Hu et al., EnsV: Realistic Unsupervised Model Selection by Ensembling, NeurIPS 2024. The candidate that agrees most with
the ensemble of all candidates is never the worst of them, whatever their methods. Differs from the authors' code: ranks
in place of predicted classes, which where one image in a hundred is a lens agree for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from raylens import metrics


def agreement(logits: Sequence[np.ndarray]) -> np.ndarray:
    """How well each candidate's logits (N, K) of the same target images agree with all candidates', in -1 ... 1.

    For each class, images are ranked by their log odds; the ensemble's order is that of the median rank, which a few
    ruined candidates cannot turn round. The score is the rank correlation with it (Spearman), averaged over classes.
    """
    ranks = np.stack([rankdata(metrics.log_odds(one), axis=0) for one in logits])  # (M, N, K)
    wanted = rankdata(np.median(ranks, axis=0), axis=0)
    return np.array(
        [np.mean([_correlation(a, b) for a, b in zip(one.T, wanted.T, strict=True)]) for one in ranks]
    )


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if a.std() == 0 or b.std() == 0:
        return 0.0  # a model that says the same of every image agrees with nobody
    return float(np.corrcoef(a, b)[0, 1])
