"""Deep embedded validation: the source's loss where it looks like the target (You et al. 2019).

Weights are the density ratio of the domains' features, from a classifier of domains; the mean weight, 1 if
the ratio were exact, is the control variate. Score is minus the estimated cross-entropy on the target. 2000
rows of each domain. Differs from the authors' code: logistic regression, cross-validated, in place of a
network trained on the training split. Its variance explodes when the domains hardly overlap.
"""

import numpy as np
from scipy.special import log_softmax

from raylens.records import Outputs
from raylens.representation import some
from raylens.validators._domains import target_probability


def score(source: Outputs, target: Outputs) -> float:
    ours, theirs = some(len(source.logits), 2000), some(len(target.logits), 2000)
    logits, labels = source.logits[ours].astype(np.float64), np.asarray(source.labels)[ours].astype(int)
    loss = -log_softmax(logits, axis=1)[np.arange(len(ours)), labels]

    guess = target_probability(source.features[ours], target.features[theirs])[: len(ours)]
    guess = np.clip(guess, 1e-6, 1 - 1e-6)
    weight = guess / (1 - guess) * len(ours) / len(theirs)
    (_, covariance), (_, variance) = np.cov(weight * loss, weight)
    control = -covariance / variance if variance > 0 else 0.0
    return -float(np.mean(weight * loss) + control * (np.mean(weight) - 1))
