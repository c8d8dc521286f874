"""Whether the bands of two sets stand in one order: a model knows its channels by their places alone."""

from __future__ import annotations

from collections.abc import Sequence

from raylens.errors import DataError


def compare(where: str, held: Sequence[str], first: str, known: Sequence[str]) -> str:
    """What a user should be told of the bands of `where` and `first`, which are used as one; nothing if they are alike.

    Bands of other names may be meant, as where two cameras see the same light. Raises DataError where a band of one
    stands at another place in the other.
    """
    if tuple(held) == tuple(known) or (len(known or held) < 2 and not (held and known)):
        return ""
    ours, theirs = ", ".join(held), ", ".join(known)
    if not (held and known):
        named, unnamed = (where, first) if held else (first, where)
        return (
            f"{unnamed} does not say its bands; they are taken for {ours or theirs}, as of {named} "
            "(--band-names of convert names them)"
        )
    if moved := [band for place, band in enumerate(held) if band in known and known.index(band) != place]:
        raise DataError(
            f"{where} has the bands {ours}, {first} {theirs}, so {moved[0]} would be taken for "
            f"{known[held.index(moved[0])]}; put one into the order of the other by --bands"
        )
    return f"{where} has the bands {ours}, {first} {theirs}; they are taken for the same, each for that at its place"
