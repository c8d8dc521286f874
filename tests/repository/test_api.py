"""What docs/api.md shows is typed, and says what it does."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def test_the_page_shows_much():
    assert len(EVERYTHING) > 120
    assert "raylens.load" in EVERYTHING
    assert "raylens.predictor.Predictor.explain" in EVERYTHING


@pytest.mark.parametrize("name", EVERYTHING)
def test_what_is_public_says_what_it_does_and_takes(name):
    held = EVERYTHING[name]
    assert inspect.getdoc(held), "no docstring"
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
