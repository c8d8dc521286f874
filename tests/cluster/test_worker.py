"""What a worker does before its first step."""

from __future__ import annotations

import numpy as np
import pytest

from raylens import checkpoint, find
from raylens.cluster.training import check
from raylens.cluster.worker import work
from raylens.data.stream import Resident
from raylens.errors import ConfigError
from raylens.loop import collect


@pytest.fixture
def told(monkeypatch):
    """The guesses that batches were made by."""
    found, made = [], Resident.batches

    def batches(self, *given, **named):
        found.append(self.guesses)
        return made(self, *given, **named)

    monkeypatch.setattr(Resident, "batches", batches)
    return found


def test_a_target_is_balanced_by_the_guesses_of_the_start(tiny, told, tmp_path):
    first, data = tiny.run(), tiny.resident()
    checkpoint.save(tmp_path, first, tiny.facts(), tiny.method(first).result, {})
    run = tiny.run("adda", start=str(tmp_path), data={"target_balance": 0.5})
    assert [*work(run, tiny.facts(), data)]
    (guesses,) = told
    said = collect(checkpoint.read(tmp_path).model(), data.train["target"].pixels, None).logits
    np.testing.assert_array_equal(guesses, said.argmax(1))


def test_nothing_is_guessed_that_is_not_asked_for(tiny, told):
    assert [*work(tiny.run("adda"), tiny.facts(), tiny.resident())]
    assert told == [None]


def test_without_a_start_there_is_nobody_to_guess(tiny, monkeypatch):
    for method in ("adda", "supervised"):
        check(tiny.run(method, data={"target_balance": 0.5}))
    monkeypatch.setattr(find.method("adda"), "start", None)
    with pytest.raises(ConfigError, match="needs a model to start from, whose guesses are balanced"):
        check(tiny.run("adda", data={"target_balance": 0.5}))
