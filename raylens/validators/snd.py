"""Soft neighbourhood density: target images close to many others, and not to a few (Saito et al. 2021).

The entropy of each image's similarities to all others, at temperature 0.05; images are compared by their
class probabilities, normalised to length one, as in the paper's classification experiments. 2000 images are
drawn. Fooled by a model that puts every image into one class: that is the densest neighbourhood there is.
"""

import numpy as np
from scipy.special import entr, softmax

from raylens.metrics import softmax64
from raylens.records import Outputs
from raylens.representation import some


def score(source: Outputs, target: Outputs, *, temperature: float = 0.05) -> float:
    probabilities = softmax64(target.logits[some(len(target.logits), 2000)])
    directions = probabilities / np.linalg.norm(probabilities, axis=1, keepdims=True)
    similarity = directions @ directions.T / temperature
    np.fill_diagonal(similarity, -np.inf)
    return float(entr(softmax(similarity, axis=1)).sum(1).mean())
