"""Whether mixtures of two target images are called what the larger part is (MixVal, Hu et al. 2023).

Each image is mixed with another one, 0.55 of it and 0.45 of the other, once with one of its own predicted class and
once with one of another: the first probes how dense the classes lie, the second how far apart. Score is the mean of
the two accuracies, told against the prediction for the larger part; as many mixtures of each predicted class, 1000 in
all, since lenses are rare. Differs from the authors' choice among models, which adds up their ranks by the two: here a
model's score stands by itself. All of one class leaves nothing to be told apart: then the second counts as 0.
"""

import numpy as np

from raylens.records import Outputs

MIXTURES = 1000
LARGER = 0.55
"""Share of the image that the mixture should be called after: the authors' lambda."""


def score(source: Outputs, target: Outputs) -> float:
    if target.mixed is None:
        raise ValueError("mixval looks at mixtures of images, and these outputs cannot be asked for any")
    called, random = target.logits.argmax(1), np.random.default_rng(0)
    found = [_consistency(target, called, random, same=same) for same in (True, False)]
    return float(np.mean(found))


def _consistency(target: Outputs, called: np.ndarray, random: np.random.Generator, *, same: bool) -> float:
    """The share of mixtures that are called after their larger part."""
    kinds = np.unique(called)
    if not same and len(kinds) < 2:
        return 0.0
    each, pairs = MIXTURES // len(kinds), []
    for kind in kinds:
        own, others = np.flatnonzero(called == kind), np.flatnonzero(called != kind)
        at = random.integers(len(own), size=each)
        if not same:
            pairs.append((own[at], random.choice(others, each)))
        elif len(own) > 1:  # with another image than itself
            pairs.append((own[at], own[(at + random.integers(1, len(own), size=each)) % len(own)]))
    if not pairs:
        return 0.0
    larger, smaller = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
    mixed = target.mixed(larger, smaller, LARGER).argmax(1)
    return float((mixed == called[larger]).mean())
