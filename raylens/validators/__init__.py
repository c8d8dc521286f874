"""Scores that choose between trials, one a file: `score(source, target)`, higher is better.

They see the validation split of both domains; `target.labels` is None, except for `oracle`.
"""
