"""Confidence on the target: minus the mean entropy of its probabilities, in nats (Morerio et al. 2018).

Fooled by a model that puts every image into one class, and by one that is merely surer of itself.
"""

from scipy.special import entr

from raylens.metrics import softmax64
from raylens.records import Outputs


def score(source: Outputs, target: Outputs) -> float:
    return -float(entr(softmax64(target.logits)).sum(1).mean())
