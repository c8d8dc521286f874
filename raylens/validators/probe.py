"""What a linear classifier makes of the features: macro AUROC on the source, for pretraining with labels at hand.

Cross-validated on the source's validation images; nothing is trained by these labels but the probe.
"""

import numpy as np

from raylens import representation
from raylens.errors import DataError
from raylens.records import Outputs


def score(source: Outputs, target: Outputs | None) -> float:
    if not representation.measurable(source.labels):
        raise DataError(
            "the validator probe needs labels of the source's validation split, two rows of each class; set "
            "search.validator to rankme"
        )
    if not np.isfinite(source.features).all():
        return float("nan")
    return representation.probe(source.features, source.labels)
