"""A name -> the class or function that carries it. A file in the folder is all it takes to be found."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from raylens.errors import ConfigError

if TYPE_CHECKING:
    from raylens.methods.base import Method
    from raylens.records import Outputs
    from raylens.tasks.base import Task

_HELPERS = {"base", "escnn_compat"}
ELSEWHERE = {
    "simclr": "contrastive",
    "barlow": "twin",
    "barlow_twins": "twin",
    "simsiam": "twin",
    "mean_teacher": "self_ensembling",
    "source_only": "supervised",
}
"""What others call what has another name here."""
WORDS = re.compile(r"[-_.]")
"""What stands between the words of a name."""


def names(folder: str) -> list[str]:
    """What `raylens/<folder>/` offers: its files' names."""
    package = importlib.import_module(f"raylens.{folder}")
    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in found if name not in _HELPERS and not name.startswith("_"))


def method(name: str) -> type[Method]:
    """The Method class called `name`, or written `package.module:Class`. Raises ConfigError when there is none."""
    from raylens.methods.base import Method

    if ":" in name:
        return _foreign(name, Method)
    module = _module("methods", name, "method")
    return next(
        thing
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, Method) and thing.__module__ == module.__name__
    )


def encoder(name: str) -> ModuleType:
    """The module with `Config` and `Encoder` for `name`; a name with no file of its own is timm's."""
    own = [found for found in names("models") if found != "timm"]
    return importlib.import_module(f"raylens.models.{name if name in own else 'timm'}")


def task(name: str) -> type[Task]:
    """The task class called `name`. Raises ConfigError when there is none."""
    return _module("tasks", name.replace("-", "_"), "task").Task


def validator(name: str) -> Callable[[Outputs, Outputs], float]:
    """The function `score(source, target)` of the validator called `name`. Raises ConfigError when there is none."""
    return _module("validators", name, "validator").score


def _module(folder: str, name: str, kind: str) -> ModuleType:
    known = names(folder)
    if name not in known:
        raise ConfigError(f"unknown {kind} {name!r}{guess(name, known)}; known here: {', '.join(known)}")
    return importlib.import_module(f"raylens.{folder}.{name}")


def _foreign(name: str, base: type) -> type:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except (ModuleNotFoundError, ValueError) as error:
        missing = getattr(error, "name", None) or module
        if not f"{module}.".startswith(f"{missing}."):
            raise  # the module is there, but something that it imports is not
        raise ConfigError(f"{name}: there is no module {module!r} to import") from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(
            f"{name} is no {base.__name__}: it must be a subclass of {base.__module__}.{base.__name__}"
        )
    return found


def guess(name: str, known: Sequence[str]) -> str:
    """` (did you mean adda?)` where one of the known names is meant or near, else nothing."""
    others = {other: here for other, here in ELSEWHERE.items() if here in known}
    close = nearest(name.lower(), others) or nearest(name, known)
    return f" (did you mean {others.get(close, close)}?)" if close else ""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like `name`, or has a word like it, as source_weight has; None if none is near."""
    bare = {one: one.lstrip("-") for one in known}
    name = name.lstrip("-")
    alike = {one: (_nearness(name, other), _ratio(name, other)) for one, other in bare.items()}
    best = max(alike, key=alike.__getitem__, default=None)
    return best if best is not None and alike[best][0] >= NEAR else None


NEAR = 0.6
"""Likeness, from 0 to 1, from which a name is taken for a misspelling of another."""


def _nearness(name: str, known: str) -> float:
    words = WORDS.split(known)
    by_word = max(_ratio(name, word) for word in words) if len(words) > 1 and not WORDS.search(name) else 0.0
    return max(_ratio(name, known), 0.9 * by_word if by_word > 0.75 else 0.0)


def _ratio(name: str, known: str) -> float:
    return difflib.SequenceMatcher(None, known, name).ratio()
