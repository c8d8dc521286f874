"""What a model still knows of the source, and how clearly it parts the target: the default, chosen by measurement.

The AUROC on the source's validation split (`source_auroc`), which falls when adaptation destroys what was learned,
plus the separation of the target's scores into two groups (`score_separation`), which rises when some target images
stand out as lenses do. Each alone is fooled, the first by a model that does not adapt, the second by one that is
confident for no reason; docs/results.md has the measurement.
"""

from raylens.records import Outputs
from raylens.validators import score_separation, source_auroc


def score(source: Outputs, target: Outputs) -> float:
    return source_auroc.score(source, target) + score_separation.score(source, target)
