"""How many dimensions the features fill: RankMe (Garrido et al. 2023), for pretraining without a label.

The effective rank of the features of the source's validation images. Made for choosing settings of one method; between
methods it compares little, and features of pure noise fill all dimensions there are.
"""

from raylens.records import Outputs
from raylens.representation import rankme, some


def score(source: Outputs, target: Outputs | None) -> float:
    return rankme(source.features[some(len(source.features))])
