"""A search's table in a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from raylens.cluster.live import Row, drawn
from raylens.cluster.worker import WORST

STATES = ("running", "ended", "stopped early", "waiting", "failed")


def lines(rows: list[Row], width: int = 100, height: int = 24) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(drawn("[0:10] 1/9 trials ended", rows, width, height))
    return console.file.getvalue().splitlines()


def rows(count: int) -> list[Row]:
    return [
        Row(
            f"adda_trial_{number:05d}",
            STATES[number % 5],
            step=10 * number,
            steps=4000,
            objective=number / count,
            settings={f"method.setting_{place}": 10.0**-place for place in range(6)},
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 50), (60, 10)])
def test_a_hundred_trials_fit_into_any_terminal(width, height):
    shown = lines(rows(100), width, height)
    assert len(shown) < height
    assert max(map(len, shown)) <= width
    assert not any("…" in line for line in shown[:2])
    assert shown[-1].startswith(f"and {100 - (height - 7)} more: ")


def test_trials_at_work_come_first_then_the_best_of_the_others():
    told = [row for row in lines(rows(10), height=12) if "adda_trial" in row]
    assert [row.split()[0][-2:] for row in told] == ["05", "00", "09", "04", "06"]
    assert "60/4000" in told[-1]
    assert "0.6000" in told[-1]


def test_a_diverged_trial_has_no_number():
    told = lines([Row("adda_trial_00000", "ended", 10, 4000, WORST)])
    assert "diverged" in told[2]
    assert "1000000000" not in told[2]


def test_few_trials_are_all_there_with_settings_as_far_as_there_is_room():
    wide, narrow = (lines(rows(3), width) for width in (140, 90))
    assert "setting_5" in wide[1]
    assert "setting_1" in narrow[1]
    assert "setting_5" not in narrow[1]
    assert not any("more" in line for line in wide)
