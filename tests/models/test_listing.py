"""`python -m raylens.models`: what there is, how large and how fast."""

from __future__ import annotations

import io
import re

from rich.console import Console

from raylens import progress
from raylens.models import __main__ as listing


def test_encoders_are_listed_with_parameters_and_speed(monkeypatch, capsys):
    monkeypatch.setattr(listing, "TIMM", ("resnet34",))
    monkeypatch.setattr(listing, "seconds", lambda work: work() or 0.5)
    assert listing.main(["--size", "32", "--batch", "4", "--channels", "3"]) == 0
    said = capsys.readouterr().out
    lines = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line}
    assert {"small", "ecnn", "resnet34"} <= set(lines)
    parameters, forward, backward = (float(word.replace(",", "")) for word in lines["resnet34"])
    assert 21e6 < parameters < 22e6
    assert (forward, backward) == (8, 8)
    assert "images/s for 4 images of 3 x 32 x 32" in said


def test_an_encoder_is_named_before_it_is_measured_and_the_time_left_is_told(monkeypatch, capsys):
    told = []

    def measured(work):
        told.append(capsys.readouterr())
        return 0.5

    monkeypatch.setattr(listing, "TIMM", ())
    monkeypatch.setattr(listing, "seconds", measured)
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    names = ["small", "vit", "small"]
    listing.models(names, channels=1, size=32, batch=2)
    assert [said.out.split()[-1] for said in told[::2]] == names
    assert "measuring small 0/3" in told[0].err
    assert "measuring small 2/3, 0:00:" in told[4].err


def test_a_terminal_shows_whole_rows_beside_the_bar(monkeypatch, capsys):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr(progress, "Console", lambda **_: terminal)
    monkeypatch.setattr(listing.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(listing, "seconds", lambda work: 0.5)
    listing.models(["small"], channels=1, size=32, batch=2)
    assert re.search(r"small +[\d,]+ +4 +4", screen.getvalue())
    assert "measuring small" in screen.getvalue()


def test_an_encoder_that_cannot_take_the_images_says_why_and_the_others_follow(monkeypatch, capsys):
    monkeypatch.setattr(listing, "TIMM", ())
    monkeypatch.setattr(listing, "seconds", lambda work: 0.5)
    assert listing.main(["--size", "16", "--batch", "2"]) == 0
    said = capsys.readouterr().out
    assert "cannot take images of 16 pixels" in said
    assert "small" in said


def test_what_is_no_number_is_refused_in_a_line(capsys):
    assert listing.main(["--size", "large"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: argument --size")


def test_timms_names_are_found_by_a_pattern(capsys):
    assert listing.main(["--match", "resnet3*"]) == 0
    assert "resnet34" in capsys.readouterr().out.splitlines()
