"""What all trials of a search know together: which of them agrees most with all, and the average of their weights.

Hu et al., EnsV: Realistic Unsupervised Model Selection by Ensembling, NeurIPS 2024. The candidate that agrees most with
the ensemble of all candidates is never the worst of them, whatever their methods. Differs from the authors' code: ranks
in place of predicted classes, which where one image in a hundred is a lens agree for nothing.

Wortsman et al., Model soups, ICML 2022 (arXiv 2203.05482): models that were trained on from one model have weights that
may be averaged, and the average is about as good as the ensemble of all. It is their uniform soup: the greedy one needs
labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from raylens import metrics


def agreement(logits: Sequence[np.ndarray]) -> np.ndarray:
    """How well each candidate's logits (N, K) of the same target images agree with all candidates', in -1 ... 1.

    For each class, images are ranked by their log odds; the ensemble's order is that of the median rank, which a few
    ruined candidates cannot turn round. The score is the rank correlation with it (Spearman), averaged over classes.
    """
    from scipy.stats import rankdata

    ranks = np.stack([rankdata(metrics.log_odds(one), axis=0) for one in logits])  # (M, N, K)
    wanted = rankdata(np.median(ranks, axis=0), axis=0)
    return np.array(
        [np.mean([_correlation(a, b) for a, b in zip(one.T, wanted.T, strict=True)]) for one in ranks]
    )


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if a.std() == 0 or b.std() == 0:
        return 0.0  # a model that says the same of every image agrees with nobody
    return float(np.corrcoef(a, b)[0, 1])


def average(states: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The mean of state dicts of one shape, batch-norm statistics included; of whole numbers, the first one's."""
    mean: dict[str, torch.Tensor] = {}
    for count, state in enumerate(states, 1):
        for name, value in state.items():
            if name not in mean:
                mean[name] = value.clone()
            elif value.is_floating_point():
                mean[name] += (value - mean[name]) / count
    return mean
