"""A bar where there is a terminal, and lines where there is none."""

from __future__ import annotations

import io

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
