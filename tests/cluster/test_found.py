"""What is made of a trial that ended, and how the leaderboard shows it."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest

from raylens.cluster.board import Board
from raylens.cluster.found import of_result


def search(tiny, method="adda", **search):
    return tiny.run(method, fit={"steps": 400, "report_every": 20}, search=search, scale={"gpus": 0})


def ended(path: str, **reports: list) -> SimpleNamespace:
    table = pd.DataFrame(reports)
    last = {name: values[-1] for name, values in reports.items()}
    return SimpleNamespace(
        metrics=last, metrics_dataframe=table, checkpoint=None, path=path, config={}, error=None
    )


def test_what_was_warned_of_at_any_step_is_on_the_leaderboard(tiny):
    run = search(tiny)
    results = [
        ended("/t/a", step=[20, 40, 60], objective=[0.5, 0.6, 0.7], warnings=["cold; dark", "cold", ""]),
        ended("/t/b", step=[20], objective=[0.4], warnings=[""]),
    ]
    board = Board(run, [of_result(run, result) for result in results], {})
    assert board.table["warnings"].tolist() == ["cold; dark", ""]
    assert "target/auroc" not in board.table, "nothing was measured"


def test_collapsed_trials_are_counted_but_not_those_that_came_back(tiny, capsys):
    run, lens = search(tiny), "collapsed: all of the target is called lens"
    results = [
        ended("/t/a", step=[20, 40], objective=[0.5, 0.6], warnings=["", lens]),
        ended("/t/b", step=[20, 40], objective=[0.5, 0.7], warnings=[lens, "cold"]),
    ]
    board = Board(run, [of_result(run, result) for result in results], {})
    assert board.table["warnings"].tolist() == [lens, "cold"]
    board.show()
    assert "1 of 2 trials collapsed: all of the target is called lens" in capsys.readouterr().out


def test_an_error_with_brackets_is_shown_as_it_is(tiny, capsys):
    failed = ended("/t/a", step=[20], objective=[0.5], warnings=[""])
    failed.error = RuntimeError("[/gloo/pair.cc:545] Connection reset [bold]")
    Board(search(tiny), [of_result(search(tiny), failed)], {}).show()
    assert "[/gloo/pair.cc:545]" in "".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("storage", ["/now", "s3://bucket/now"])
def test_a_checkpoint_of_several_workers_is_found_where_the_run_lies_now(tiny, storage):
    run = search(tiny).replace(storage=storage, name="moved", **{"scale.workers": 2})
    result = ended("/then/a", step=[4], objective=[0.5], warnings=[""])
    result.metrics["checkpoint_path"] = "/then/moved/workers/a_00000/checkpoint_2026"
    assert of_result(run, result).checkpoint == f"{storage}/moved/workers/a_00000/checkpoint_2026"
