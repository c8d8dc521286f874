"""AUROC on the source: the simple baseline that is hard to beat (Musgrave et al. 2022, arXiv 2208.07360).

Blind to the target. What it sees is a model that pays for its adaptation with what it knew.
"""

from raylens.metrics import classification, softmax64
from raylens.records import Outputs


def score(source: Outputs, target: Outputs) -> float:
    return classification(softmax64(source.logits), source.labels)["auroc"]
