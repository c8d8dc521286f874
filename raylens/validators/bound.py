"""What the source loses against what the domains still differ: the terms of the target's error that can be measured.

Ben-David et al. 2010 (A theory of learning from different domains, theorem 2) bound the target's error by the
source's, plus half the divergence of the domains, plus a term that needs target labels. With ranks in place of
errors, the score is the AUROC on the source (`source_auroc`) minus the AUROC of telling the domains' features apart
(`domain_gap`). A model that does not adapt pays with the second, one that collapses with the first.
"""

from raylens.records import Outputs
from raylens.validators import domain_gap, source_auroc


def score(source: Outputs, target: Outputs) -> float:
    return source_auroc.score(source, target) + domain_gap.score(source, target)
