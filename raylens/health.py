"""What tells, without a target label, that a model has collapsed on the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from raylens.records import Outputs

COLLAPSED = "collapsed: "
"""How a warning of a collapse begins."""
NEARLY_ALL = 0.98
"""Share of the target's images beyond which they count as all."""
MANY, TIMES = 0.5, 10
"""Share of the target called lens, and its ratio to the prior that was told, beyond both of which it surprises."""
ALIKE = 0.02
"""Spread of the target's features, in that of the source's, below which they are all alike."""
RARE = 0.2
"""Share of lenses, as told, from which on a target that is not called lens at all has collapsed; estimates of one in a
hundred have been 0.1 (docs/results.md)."""
FLAT = 1.5
"""Dimensions that features fill about their mean, below which these lie on a line; spread may well be large then."""


def watched(source: Outputs, target: Outputs) -> dict[str, float]:
    """Monitors of validation images of both domains.

    `target_called_<class>` is the share of the target's images for which a class is the likeliest, by its position;
    `target_spread` the mean standard deviation of the target's features over that of the source's; `target_prior` the
    share of lenses that the method was told to expect, where it was.
    """
    shares = _called(target.logits)
    spread = target.features.std(0).mean() / max(source.features.std(0).mean(), 1e-12)
    found = {f"monitor/target_called_{index}": float(share) for index, share in enumerate(shares)}
    if target.prior is not None:
        found["monitor/target_prior"] = float(target.prior[-1])
    return {**found, "monitor/target_spread": float(spread)}


def collapses(metrics: Mapping[str, float], classes: Sequence[str]) -> list[str]:
    """What has collapsed by the monitors of `watched`, a sentence each.

    Of two classes the first may well be nearly all there is, as of a survey's galaxies the non-lenses are, unless the
    method was told of more lenses than that.
    """
    found = []
    for index, name in enumerate(classes):
        common = len(classes) == 2 and index == 0 and metrics.get("monitor/target_prior", 0.0) < RARE
        if not common and metrics.get(f"monitor/target_called_{index}", 0.0) > NEARLY_ALL:
            found.append(f"{COLLAPSED}all of the target is called {name}")
    if metrics.get("monitor/target_spread", 1.0) < ALIKE:
        found.append(f"{COLLAPSED}the target's features are all alike")
    return found


def surprises(metrics: Mapping[str, float], classes: Sequence[str]) -> list[str]:
    """Where far more lenses are called than the method was told to expect, a sentence each; either may be wrong.

    By the monitors of `watched`, and of the pseudo-labels that a method keeps. A target of which all is called lens has
    collapsed, and is none of these.
    """
    told, last = metrics.get("monitor/target_prior"), len(classes) - 1
    if told is None:
        return []
    called, kept_so, kept = (
        metrics.get(f"monitor/{name}", 0.0) for name in (f"target_called_{last}", "last_class_kept", "kept")
    )
    most = max(MANY, TIMES * told)
    # What it is is not told: a sentence that changes from report to report would be a new warning each time.
    shares = {
        "target is": called if called <= NEARLY_ALL else 0.0,
        "pseudo-labels that are kept are": kept_so / kept if kept else 0.0,
    }
    return [
        f"more than {most:.0%} of the {whose} called {classes[last]}, and {100 * told:.2g}% was expected: set "
        "method.target_prior to the share that you expect, or lower optimizer.lr"
        for whose, share in shares.items()
        if share > most
    ]


def counted(warnings: Sequence[str]) -> str | None:
    """How many trials collapsed, and how, in a sentence: from the warnings of each, joined by semicolons."""
    ways = [
        [warning.removeprefix(COLLAPSED) for warning in one.split("; ") if warning.startswith(COLLAPSED)]
        for one in warnings
    ]
    collapsed = [one for one in ways if one]
    if not collapsed:
        return None
    named = dict.fromkeys(way for one in collapsed for way in one)
    return f"{len(collapsed)} of {len(ways)} trials collapsed: {'; '.join(named)}"


def _called(logits: np.ndarray) -> np.ndarray:
    """The share of rows (N, K) for which each class is the likeliest, (K,)."""
    return np.bincount(logits.argmax(1), minlength=logits.shape[1]) / len(logits)
