"""Makes escnn 1.0.11 importable without two packages that it needs for rotations in space alone.

`lie-learn` and `py3nj` ask for NumPy 1 and for a Fortran compiler; images turn in the plane. The encoder
imports escnn's parts from here.
"""

from __future__ import annotations

import sys
import types
import warnings

from raylens.errors import ConfigError

_UNUSED = "lie_learn.representations.SO3.wigner_d"


def _import() -> tuple[types.ModuleType, types.ModuleType]:
    stand_in = types.ModuleType(_UNUSED)
    stand_in.wigner_D_matrix = None
    sys.modules.setdefault(_UNUSED, stand_in)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in its docstrings, and that py3nj is missing
        import escnn.group._numerical
        import escnn.gspaces
        import escnn.nn
    escnn.group._numerical.randomized_svd = None  # it draws from NumPy's global state; the fallback is exact
    return escnn.gspaces, escnn.nn


try:
    gspaces, enn = _import()
except ImportError as error:
    raise ConfigError(
        f"the encoder 'ecnn' needs escnn ({error}); "
        "install it with: pip install --no-deps escnn pymanopt autograd joblib"
    ) from error
