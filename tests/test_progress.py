"""A bar where there is a terminal, and lines where there is none."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from raylens import progress


def test_what_is_tracked_passes_through_and_files_stay_clean(capsys):
    assert list(progress.track(iter("abc"), "reading", 3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_how_many_of_how_many(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=screen, force_terminal=True, width=80))
    assert sum(progress.track([1, 2, 3], "reading")) == 6
    assert "reading" in screen.getvalue()
    assert "3/3" in screen.getvalue()


def test_a_file_gets_a_line_now_and_then_with_the_time_left(monkeypatch, capsys):
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    assert list(progress.track("abc", "reading")) == ["a", "b", "c"]
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[0].startswith("reading 1/3")
    assert said.err.splitlines()[-1].startswith("reading 3/3, 0:00:00 left")


def test_work_within_work_has_its_bar_below(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=screen, force_terminal=True, width=80))
    with progress.stages(2) as stage:
        stage("measures", 0)
        assert list(progress.track("ab", "intervals")) == ["a", "b"]
        stage("scores", 1)
        (shown,) = progress._shown
        assert [(task.description, task.completed) for task in shown.tasks] == [("scores", 1)]
    assert not progress._shown
    for words in ("measures", "intervals", "scores", "1/2"):
        assert words in screen.getvalue()


def test_a_file_is_told_of_both(monkeypatch, capsys):
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with progress.stages(2) as stage:
        stage("measures", 1)
        list(progress.track("ab", "intervals"))
    assert re.search(r"^measures 1/2.*; intervals 1/2", capsys.readouterr().err, flags=re.M)


def test_an_error_within_leaves_nothing_behind():
    with progress.stages(2), pytest.raises(ValueError, match="torn"), progress.counting("inner", 1):
        raise ValueError("torn")
    assert not progress._shown


def test_the_first_line_comes_after_two_seconds_and_the_others_every_fifteen(monkeypatch, capsys):
    now = 0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    for _ in progress.track(range(40), "reading"):
        now += 1
    told = [line.split()[1].rstrip(",") for line in capsys.readouterr().err.splitlines()]
    assert told == ["2/40", "17/40", "32/40"]


def test_what_is_printed_beside_a_bar_stays_in_the_file_it_goes_to(monkeypatch, capsys):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=screen, force_terminal=True, width=80))
    for _ in progress.track([1, 2], "reading"):
        print("a row of a table")
    assert capsys.readouterr().out == 2 * "a row of a table\n"
    assert "row" not in screen.getvalue()


def test_the_time_left_is_told_of_parts_that_take_a_minute_each(monkeypatch, capsys):
    now = 0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = progress.Lines()
    shown.get_time = lambda: now
    task = shown.add_task("measuring", total=4)
    for _ in range(3):
        now += 60
        shown.advance(task)
    assert capsys.readouterr().err.splitlines()[-1] == "measuring 3/4, 0:01:00 left"


def test_a_worker_that_is_hushed_says_nothing(monkeypatch, capsys):
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "_hushed", False)
    progress.hush()
    assert list(progress.track("abc", "reading")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")
