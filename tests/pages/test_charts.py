"""What charts hold; how they look is looked at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from raylens import config
from raylens.pages import charts, runs


def test_every_trial_is_a_line_and_a_menu_chooses_what_is_drawn(searched):
    trials = runs.read(searched).trials
    figure = charts.curves(trials)
    first = [trace for trace in figure.data if trace.meta == "objective"]
    assert len(first) == 9
    assert all(trace.visible for trace in first)
    assert [trace.marker.symbol[-1] for trace in first][6:] == ["circle", "x", "triangle-down"]
    assert [button.label for button in figure.layout.updatemenus[0].buttons] == ["objective", "source/auroc"]


def test_rungs_are_dotted_lines_and_an_unfinished_trial_is_open(searched):
    trial = replace(runs.read(searched).trials[7], over=False)
    figure = charts.curves([trial], rungs=(1, 2))
    assert [(line.x0, line.line.dash) for line in figure.layout.shapes] == [(1, "dot"), (2, "dot")]
    assert figure.data[0].marker.symbol[-1] == "circle-open"


def test_parallel_coordinates_are_logarithmic_where_the_range_is(searched):
    found = runs.read(searched)
    (figure,) = charts.parallel(found.trials, config.space(found.run)).data
    lr, objective = figure.dimensions
    assert lr.label == "lr"
    np.testing.assert_allclose(10 ** lr.values[0], found.trials[0].settings["optimizer.lr"])
    assert tuple(lr.range) == (-5, -2)
    assert len(objective.values) == 9


def test_the_setting_that_matters_is_told_and_few_trials_tell_nothing(searched):
    found = runs.read(searched)
    space = config.space(found.run)
    table = charts.importances(found.trials, space)
    assert table["setting"].tolist() == ["optimizer.lr"]
    assert table["importance"][0] == pytest.approx(1)
    assert charts.importances(found.trials[:7], space) is None


def test_of_two_settings_the_one_that_matters_comes_first(searched):
    from raylens.space import LogUniform, Uniform

    found, random = runs.read(searched), np.random.default_rng(1)
    trials = [
        runs.Trial(
            f"{number}", {"a": random.uniform(), "b": 10 ** random.uniform(-5, -2)}, trial.reports.copy(), 4
        )
        for number, trial in enumerate(found.trials * 3)
    ]
    for trial in trials:
        trial.reports["objective"] = np.log10(trial.settings["b"])
    table = charts.importances(trials, {"a": Uniform(0, 1), "b": LogUniform(1e-5, 1e-2)})
    assert table["setting"].tolist() == ["b", "a"]
    assert (table["low"] <= table["high"]).all()
    assert table["low"][0] > table["high"][1]


def test_histograms_are_shares_of_their_group():
    figure = charts.histograms({"after": {"source lens": np.array([0.1, 0.1, 0.9, 0.9])}})
    assert sorted(figure.data[0].y)[-2:] == [50, 50]
    assert sum(figure.data[0].customdata) == 4


def test_domains_have_colours_in_an_embedding_and_classes_symbols():
    looks = charts.spots(["source", "target"], ("nonlens", "lens"))
    assert looks["source lens"].colour == looks["source nonlens"].colour
    assert looks["source lens"].colour != looks["target lens"].colour
    assert looks["source lens"].symbol == looks["target lens"].symbol == "circle"
    assert looks["source nonlens"].symbol == looks["target nonlens"].symbol == "circle-open"
    assert looks["target"].colour == looks["target lens"].colour
    points, names = np.zeros((3, 2)), ["target", "source lens", "source lens"]
    figure = charts.scatter(points, names, ["a", "b", "c"], looks, "after")
    assert [(trace.name, len(trace.x)) for trace in figure.data] == [("source lens", 2), ("target", 1)]
    assert figure.data[0].marker.color == charts.DOMAINS[0]
    assert figure.layout.title.text == "after"


def test_classes_have_the_colours_where_there_is_one_domain():
    looks = charts.spots([""], ("nonlens", "lens"))
    assert looks["lens"].colour != looks["nonlens"].colour
