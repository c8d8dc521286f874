"""Sure of each target image, and every class has its share (Krause et al. 2010, with a prior).

    score = -KL(prior || mean p) - mean H(p)

The divergence is turned round, so that a class that is never predicted costs more the more images there
are; one image with the prior for its probabilities joins the mean and keeps that finite. With a uniform
prior it is the usual mutual information, up to that turn and log K. The prior is what the method was told
of the target, or an estimate by the model that it starts from (method.target_prior, data.prior). Where it
was told nothing it is the source's rate of classes, which is wrong where one lens in three was simulated
and one in a hundred is found. It is not estimated from the predictions that are scored: those of a model
that calls everything a lens say that all are lenses, and would be praised for it.
"""

import numpy as np
from scipy.special import entr, rel_entr

from raylens.metrics import softmax64
from raylens.records import Outputs


def score(source: Outputs, target: Outputs) -> float:
    probabilities = softmax64(target.logits)
    rows, classes = probabilities.shape
    prior = target.prior
    if prior is None:
        prior = np.bincount(np.asarray(source.labels, dtype=int), minlength=classes) / len(source.labels)
    mean = (probabilities.sum(0) + prior) / (rows + 1)
    return -float(rel_entr(prior, mean).sum() + entr(probabilities).sum(1).mean())
