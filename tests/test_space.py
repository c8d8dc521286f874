"""Ranges, as they stand beside defaults and as they are written in run files."""

import pytest

from raylens.errors import ConfigError
from raylens.space import Choice, LogUniform, Uniform, holds, parse


@pytest.mark.parametrize(
    ("written", "span"),
    [
        ({"uniform": [0, 1]}, Uniform(0.0, 1.0)),
        ({"log_uniform": [1e-5, 1e-2]}, LogUniform(1e-5, 1e-2)),
        ({"choice": ["a", 2, None]}, Choice("a", 2, None)),
        (None, None),
    ],
)
def test_a_range_is_parsed_as_it_is_written(written, span):
    assert parse("optimizer.lr", written) == span


def test_numbers_may_be_written_as_yaml_reads_them_without_a_point():
    assert parse("optimizer.lr", {"log_uniform": ["1e-5", 1]}) == LogUniform(1e-5, 1.0)


@pytest.mark.parametrize(
    ("span", "inside", "outside"),
    [
        (Uniform(0.0, 1.0), [0, 0.5, 1.0], [-0.1, 2, None, "a"]),
        (LogUniform(1e-5, 1e-2), [1e-5, 1e-3], [0, 1, None]),
        (Choice("a", 2, None), ["a", 2, None], ["b", 3]),
    ],
)
def test_a_range_holds_what_lies_in_it(span, inside, outside):
    assert all(holds(span, value) for value in inside)
    assert not any(holds(span, value) for value in outside)


def test_null_takes_a_setting_out_of_the_search():
    assert parse("optimizer.lr", None) is None


@pytest.mark.parametrize(
    "wrong",
    [
        3,
        [0, 1],
        {},
        {"uniform": [0, 1], "choice": [1]},
        {"normal": [0, 1]},
        {"uniform": 0.5},
        {"uniform": []},
        {"uniform": [0]},
        {"uniform": [0, 1, 2]},
        {"uniform": ["low", "high"]},
        {"uniform": [1, 0]},
        {"uniform": [0, float("inf")]},
        {"log_uniform": [0, 1]},
        {"choice": []},
    ],
)
def test_what_is_no_range_is_refused_with_its_path(wrong):
    with pytest.raises(ConfigError, match=r"^search\.space\.optimizer\.lr: ") as refusal:
        parse("optimizer.lr", wrong)
    assert "\n" not in str(refusal.value)
