"""Random streams that depend on what they are for and on nothing else.

A seed is made from words and numbers, `seed(run.seed, "views", rank, step)`, so a run that resumes at step 500 draws
what it would have drawn, and no generator's state has to be carried along.
"""

import hashlib


def seed(*parts: object) -> int:
    """A number below 2**63 for these parts, the same in every process and on every machine."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
