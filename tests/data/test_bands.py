"""Which bands of two sets may be used as one."""

from __future__ import annotations

import pytest

from raylens.data import bands
from raylens.errors import DataError


@pytest.mark.parametrize(
    ("held", "known", "told"),
    [
        ("gri", "gri", ""),
        ("", "", ""),
        ("", "i", ""),
        ("", "gri", "here does not say its bands; they are taken for g, r, i, as of there"),
        ("gri", "", "there does not say its bands; they are taken for g, r, i, as of here"),
        ("g", "i", "here has the bands g, there i; they are taken for the same"),
        ("uvi", "gri", "here has the bands u, v, i, there g, r, i; they are taken for the same"),
    ],
)
def test_what_a_user_is_told(held, known, told):
    found = bands.compare("here", tuple(held), "there", tuple(known))
    assert found.startswith(told)
    assert bool(found) is bool(told)


@pytest.mark.parametrize(
    ("held", "known", "moved"), [("irg", "gri", "i would be taken for g"), ("ugr", "gri", "g")]
)
def test_a_band_at_another_place_is_refused(held, known, moved):
    with pytest.raises(DataError, match=moved):
        bands.compare("here", tuple(held), "there", tuple(known))
