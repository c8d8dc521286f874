"""Whether the target's scores fall into two groups: the AUROC between two Gaussians fitted to them.

For each class, the log odds of the target images are taken for a mixture of two Gaussians, of any two
shares, since lenses may be one in a hundred. Were they the class and the rest, the AUROC would be

    Phi(|mu_1 - mu_0| / sqrt(sigma_1^2 + sigma_0^2))

0.5 where the Bayesian information criterion prefers one Gaussian, 1 for two far apart. Shift and scale of
the logits do not count, so mere confidence does not. Fooled by groups that are not the classes, such as two
seeings, and by skewed scores; sees no lenses that are too rare or too faint to leave the crowd. Our own;
Otsu's criterion (1979) prefers halves and overlooks rare lenses altogether.
"""

import numpy as np
from scipy.stats import norm
from sklearn.mixture import GaussianMixture

from raylens import metrics
from raylens.records import Outputs
from raylens.representation import some


def score(source: Outputs, target: Outputs) -> float:
    odds = metrics.log_odds(target.logits[some(len(target.logits), 5000)])
    return float(np.mean([_separation(column) for column in odds.T]))


def _separation(values: np.ndarray) -> float:
    if values.std() < 1e-9:
        return 0.5
    values = ((values - values.mean()) / values.std())[:, None]
    # Few above, halves, few below: expectation maximisation finds the mixture nearest to where it starts.
    starts = [np.quantile(values, pair)[:, None] for pair in ((0.5, 0.995), (0.25, 0.75), (0.005, 0.5))]
    pairs = [
        GaussianMixture(2, means_init=means, reg_covar=1e-3, max_iter=300, random_state=0) for means in starts
    ]
    best = min((fit.fit(values) for fit in [GaussianMixture(1), *pairs]), key=lambda fit: fit.bic(values))
    return float(norm.cdf(np.ptp(best.means_) / np.sqrt(best.covariances_.sum())))
