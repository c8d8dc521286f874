"""How alike the domains' features are: minus the AUROC of telling them apart (Ben-David et al. 2007).

The proxy A-distance with ranks in place of errors: logistic regression on standardised features,
cross-validated, 2000 rows of each domain. -0.5 when nothing tells them apart, -1 when a plane does. Fooled
by features that say nothing at all, and right to differ where the rates of classes do.
"""

import numpy as np

from raylens.metrics import Table
from raylens.records import Outputs
from raylens.representation import some
from raylens.validators._domains import target_probability


def score(source: Outputs, target: Outputs) -> float:
    ours, theirs = (one.features[some(len(one.features), 2000)] for one in (source, target))
    guess = target_probability(ours, theirs)
    table = Table(guess, np.arange(len(guess)) >= len(ours))
    return -max(0.5, float(table.counts(np.arange(len(guess))[None]).auroc()[0]))  # below 0.5 is chance
