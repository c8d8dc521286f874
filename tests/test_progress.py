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
    monkeypatch.setattr(progress, "EVERY", 0.0)
    assert list(progress.track("abc", "reading")) == ["a", "b", "c"]
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[0].startswith("reading 1/3")
    assert said.err.splitlines()[-1].startswith("reading 3/3, 0:00:00 left")
