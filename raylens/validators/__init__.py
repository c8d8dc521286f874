"""Scores that choose between trials, one a file: `score(source, target)`, higher is better.

They see the validation split of both domains; `target.labels` is None, except for `oracle`.
"""

FOR_PRETRAINING = ("rankme", "probe")
"""Those that look at one domain alone, which is all that pretraining has; their target is None there."""
