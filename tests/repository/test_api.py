"""What docs/api.md shows is typed, and says what it does, takes and raises."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from raylens import metrics

API = Path(__file__).parents[2] / "docs" / "api.md"
SHOWN = re.compile(r"^::: ([\w.]+)(?:\n {4}options:\n {6}members: \[(.*?)\])?", re.MULTILINE)


def public() -> Iterator[tuple[str, object]]:
    """The functions, classes and methods of the page, by their full names."""
    for name, members in SHOWN.findall(API.read_text()):
        try:
            held = importlib.import_module(name)
        except ModuleNotFoundError:
            module, _, name = name.rpartition(".")
            held = importlib.import_module(module)
            members = name
        wanted = members.split(", ") if members else [one for one in vars(held) if not one.startswith("_")]
        for one in wanted:
            found = getattr(held, one)
            if not callable(found) or (not members and found.__module__ != held.__name__):
                continue
            yield f"{held.__name__}.{one}", found
            if inspect.isclass(found):
                for part, method in vars(found).items():
                    if not part.startswith("_") and inspect.isfunction(method):
                        yield f"{held.__name__}.{one}.{part}", method


EVERYTHING = dict(public())
FUNCTIONS = {name: held for name, held in EVERYTHING.items() if inspect.isfunction(held)}
SHAPE = re.compile(r"\([A-Z]\w*( \w+)*,[^()]*\)|any shape")
"""A shape such as (N, C, H, W) or (B,)."""


def own(held: object) -> str:
    """The docstring that stands in the source, not an inherited one nor what a dataclass makes of its fields."""
    said = vars(held).get("__doc__") if inspect.isclass(held) else held.__doc__
    return "" if not said or said.startswith(f"{held.__name__}(") else said


def raised(function: object, seen: set[object] | None = None) -> set[str]:
    """The errors that a function raises in its own body, and in the functions of its module that it calls."""
    seen = set() if seen is None else seen
    seen.add(function)
    found: set[str] = set()
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.Raise) and node.exc is not None:
            what = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            found.add(ast.unparse(what))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called = inspect.unwrap(vars(sys.modules[function.__module__]).get(node.func.id, len))
            if inspect.isfunction(called) and called.__module__ == function.__module__ and called not in seen:
                found |= raised(called, seen)
    return found - {"NotImplementedError"}  # of an abstract one, which says so


def test_the_page_shows_much():
    assert len(EVERYTHING) > 120
    assert "raylens.load" in EVERYTHING
    assert "raylens.predictor.Predictor.explain" in EVERYTHING


@pytest.mark.parametrize("name", EVERYTHING)
def test_what_is_public_says_what_it_does_and_takes(name):
    held = EVERYTHING[name]
    assert own(held), "no docstring"
    if not inspect.isfunction(held):
        return
    signature = inspect.signature(held)
    untyped = [
        one.name
        for one in signature.parameters.values()
        if one.annotation is inspect.Parameter.empty and one.name not in ("self", "cls")
    ]
    assert not untyped
    assert signature.return_annotation is not inspect.Signature.empty, "what it returns is not typed"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_raises_says_so(name):
    assert not {
        error for error in raised(inspect.unwrap(FUNCTIONS[name])) if error not in own(FUNCTIONS[name])
    }


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_takes_arrays_tells_their_shapes(name):
    arrays = [
        argument
        for argument, kind in FUNCTIONS[name].__annotations__.items()
        if argument != "return" and re.search("ndarray|Tensor|ArrayLike", str(kind))
    ]
    assert not arrays or SHAPE.search(own(FUNCTIONS[name])), arrays


def test_an_inherited_docstring_counts_as_none():
    class Silent(nn.Module):
        def forward(self, pixels):
            return pixels

    assert Silent.__doc__ is None
    assert not own(Silent)
    assert not own(Silent.forward)


def test_an_error_is_found_in_what_a_function_calls():
    assert raised(metrics.multiclass) == {"DataError"}
    assert raised(metrics.interval) == {"ConfigError", "DataError"}
    assert raised(metrics.explain) == {"ConfigError"}


def test_the_types_of_every_module_of_the_page_are_checked():
    root = API.parents[1]
    checked = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["mypy"]["files"]
    shown = {sys.modules[held.__module__].__file__ for held in FUNCTIONS.values()}
    shown |= {importlib.import_module(name).__file__ for name in ("raylens.errors", "raylens.validators")}
    assert {str(Path(file).relative_to(root)) for file in shown} == {*checked}
    assert "uv run mypy" in (root / ".ci" / "run").read_text()
