"""The cells of a benchmark."""

from __future__ import annotations

import pytest
import yaml

from raylens import config, grid
from raylens.errors import ConfigError
from raylens.grid import Cell


def built(**written):
    return grid.build((written, "a file"))


def test_every_method_meets_every_encoder_and_seed():
    made = built(methods=["adda", "mcc"], encoders=["small", "lcnet_050"], seeds=[3, 4])
    cells = made.cells()
    assert len(cells) == 3 * 2 * 2, "the source's own model among them"
    run = cells[Cell("mcc", "lcnet_050", 4)]
    assert (run.method.name, run.encoder.name, run.seed, run.search.trials) == ("mcc", "lcnet_050", 4, 4)


def test_without_a_word_all_methods_that_adapt_are_compared():
    made = grid.build()
    assert [*made.methods] == ["supervised", *grid.adaptations()]
    assert "adabn" in made.methods
    assert ([*made.encoders], made.seeds) == (["small"], (0, 1, 2))


def test_a_setting_goes_to_the_cells_that_know_it_and_a_closer_one_wins():
    made = built(
        methods={"adda": {"optimizer.lr": 1e-5}, "mcc": {}},
        encoders={"small": None, "ecnn": {"encoder": {"width": 3}, "fit.steps": 20}},
        seeds=[0],
        method={"target_prior": 0.02},
        optimizer={"lr": 1e-3},
        fit={"steps": 200},
    )
    cells = made.cells()
    small, narrow = cells[Cell("adda", "small", 0)], cells[Cell("adda", "ecnn", 0)]
    assert (small.fit.steps, narrow.fit.steps, narrow.encoder.width) == (200, 20, 3)
    assert narrow.fit.report_every == 20, "not more than there are steps"
    assert small.encoder.width == config.build({"method.name": "adda"}).encoder.width
    assert (small.optimizer.lr, cells[Cell("mcc", "small", 0)].optimizer.lr) == (1e-5, 1e-3)
    assert small.method.target_prior == 0.02
    assert not hasattr(cells[Cell("mcc", "small", 0)].method, "target_prior")


def test_a_name_may_stand_for_another_with_its_own_settings():
    made = built(
        methods={"adda": {}, "adda-alone": {"method.name": "adda", "method.target_prior": None}},
        encoders={"small": {}, "wide": {"encoder.name": "small", "encoder.width": 32}},
        seeds=[0],
    )
    cells = made.cells()
    assert len(cells) == 3 * 2
    alone = cells[Cell("adda-alone", "wide", 0)]
    assert (alone.method.name, alone.method.target_prior, alone.encoder.width) == ("adda", None, 32)
    assert cells[Cell("adda", "small", 0)].method.target_prior == 0.01


def test_what_is_given_is_not_searched_and_ranges_go_where_they_are_known():
    made = built(
        methods=["adda", "mcc"],
        seeds=[0],
        optimizer={"lr": 1e-4},
        search={"space": {"method.weight": {"log_uniform": [0.1, 1.0]}}},
    )
    spaces = {cell.method: config.space(run) for cell, run in made.cells().items()}
    assert "optimizer.lr" not in spaces["adda"]
    assert "optimizer.lr" not in spaces["mcc"]
    assert spaces["mcc"]["method.weight"].low == 0.1
    assert "method.weight" not in spaces["supervised"]


def test_a_grid_is_read_from_what_it_writes():
    made = built(methods={"adda": {"fit.clip": 1.0}}, encoders=["small"], seeds=[1], fit={"steps": 300})
    again = grid.build((yaml.safe_load(made.dump()), "grid.yaml"))
    assert again == made
    assert again.title == made.title


def test_the_name_follows_all_that_shapes_the_outcome_and_not_the_storage():
    titles = {built(storage=storage, seeds=seeds).title for storage in ("a", "b") for seeds in ([0], [1])}
    assert len(titles) == 2
    assert built(name="mine").title == "mine"


def test_ranges_of_all_cells_and_of_a_method_add_up():
    shared = {"optimizer.lr": {"log_uniform": [1e-5, 1e-4]}}
    made = built(
        methods={"mcc": {"search.space": {"method.weight": None}}}, seeds=[0], search={"space": shared}
    )
    space = config.space(made.cells()[Cell("mcc", "small", 0)])
    assert set(space) >= {"optimizer.lr"}
    assert space["optimizer.lr"].high == 1e-4
    assert "method.weight" not in space


def test_what_is_no_mapping_is_refused():
    with pytest.raises(ConfigError, match="a file should hold methods, encoders, seeds and settings"):
        grid.build((["adda"], "a file"))


def test_later_layers_win():
    made = grid.build(
        ({"seeds": [5], "fit": {"steps": 300}}, "a file"), ({"seeds": None, "fit.steps": 200}, "flags")
    )
    assert made.seeds == (5,)
    assert made.settings["fit.steps"] == 200


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"methods": ["supervised"]}, "nothing to compare"),
        ({"methods": []}, r"methods is \[\]; give names"),
        ({"methods": ["addda"]}, "did you mean adda"),
        ({"encoders": [3]}, "encoders is"),
        ({"seeds": []}, "seeds is"),
        ({"seeds": [0, 0]}, "different whole numbers"),
        ({"seeds": [True]}, "different whole numbers"),
        ({"seeds": [-1]}, "different whole numbers"),
        ({"seed": 3}, "seed in a file is no setting of a benchmark: give seeds"),
        ({"start": "runs/x/best"}, "start in a file"),
        ({"search": {"oracle": True}}, "search.oracle in a file"),
        ({"fit": {"stepz": 3}}, "did you mean fit.steps"),
        ({"methods": ["mcc"], "method": {"gate": 0.6}}, "unknown key 'method.gate'"),
        ({"methods": {"adda": {"weigth": 3}}}, "unknown key 'weigth' in methods.adda"),
        ({"methods": {"adda": {}, "mcc": {"method.gate": 0.6}}}, "unknown key 'method.gate' in methods.mcc"),
        ({"methods": {"adda": {"search.space": {"method.gaate": None}}}}, "search.space of methods.adda"),
        ({"methods": {"adda": {"data.target_lenses": 0.1}}}, "shared with the model that methods start from"),
        ({"methods": {"adda": {"data.transform": "log"}}}, "shared with the model that methods start from"),
        ({"methods": {"adda": {"encoder.width": 32}}}, "shared with the model that methods start from"),
        ({"methods": {"adda": {"fit.start_steps": 5}}}, "shared with the model that methods start from"),
        ({"methods": {"adda": {"seed": 5}}}, "seed in methods.adda is no setting of a benchmark"),
        ({"search": {"searcher": "tpe"}}, "draws at random"),
        ({"data": {"mode": "streaming"}}, "keeps its sets in memory"),
        ({"where": [3]}, "where is"),
        (
            {"encoders": {"small": {"scale.cpus": 2}}},
            "scale.cpus in encoders.small is the same for all cells",
        ),
        ({"search": {"space": {"method.gaate": None}}}, "search.space of a file"),
        ({"fit": {"steps": "many"}}, "fit.steps"),
    ],
)
def test_what_cannot_be_is_refused(written, said):
    with pytest.raises(ConfigError, match=said):
        built(**written)
