"""AUROC on the target's labels. CHEATING: no one who adapts has them.

It bounds what a validator could reach, and so measures the others. Whatever it chose must be called an
oracle's.
"""

from raylens.metrics import classification, softmax64
from raylens.records import Outputs


def score(source: Outputs, target: Outputs) -> float:
    return classification(softmax64(target.logits), target.labels)["auroc"]
