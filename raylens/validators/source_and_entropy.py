"""What a model still knows of the source, and how sure it is of the target: AUROC - 0.2 H, the default.

AUROC is the source's (`source_auroc`), which falls when adaptation destroys what was learned; H, in nats, is the mean
entropy of the target's predictions (`entropy`; Morerio et al. 2018, arXiv 1711.10288), which falls as the target's
features move to where the classifier knows them. Each alone is fooled, the first by a model that does not adapt, the
second by one that is sure for no reason. What it gives away is measured in docs/results.md.
"""

from raylens.records import Outputs
from raylens.validators import entropy, source_auroc

WEIGHT = 0.2


def score(source: Outputs, target: Outputs) -> float:
    return source_auroc.score(source, target) + WEIGHT * entropy.score(source, target)
