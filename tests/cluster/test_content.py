"""Sets and checkpoints that were made anew at the same place."""

from __future__ import annotations

import shutil

import pytest
import torch

from raylens import checkpoint, find
from raylens.cluster import compare, content, finetune, training
from raylens.errors import ConfigError
from raylens.grid import Grid
from tests.conftest import write_toy


def remade(path: str, seed: int) -> None:
    """A toy set of as many rows and the same classes, at the same place."""
    shutil.rmtree(path)
    write_toy(path, shifted=False, rows=60, seed=seed)


@pytest.fixture
def source(tmp_path) -> str:
    return write_toy(f"{tmp_path}/source", shifted=False, rows=60)


@pytest.fixture
def start(tiny, tmp_path) -> str:
    return saved(tiny, tmp_path / "start", torch.nn.init.ones_)


def saved(tiny, folder, weights) -> str:
    run = tiny.run("supervised")
    model = checkpoint.build_model(run, tiny.facts())
    weights(next(model.parameters()))
    checkpoint.save(folder, run, tiny.facts(), model, {})
    return str(folder)


def test_other_images_and_other_weights_are_told_and_the_same_again_are_not(tiny, source, start, tmp_path):
    run, folder = tiny.run("supervised", data={"source": source}).replace(start=start), f"{tmp_path}/run"
    content.check(folder, content.of_runs([run]))
    content.keep(folder, content.of_runs([run]))
    content.check(folder, content.of_runs([run]))
    remade(source, 1)
    with pytest.raises(ConfigError, match=r"/source was made anew since .*run began; give another --name"):
        content.check(folder, content.of_runs([run]))
    remade(source, 0)
    content.check(folder, content.of_runs([run]))
    saved(tiny, start, torch.nn.init.zeros_)
    with pytest.raises(ConfigError, match="/start was made anew"):
        content.check(folder, content.of_runs([run]))


def test_what_was_noted_before_stays(tmp_path):
    folder = f"{tmp_path}/run"
    content.keep(folder, {"/a": "1"})
    content.keep(folder, {"/b": "2"})
    for path in ("/a", "/b"):
        with pytest.raises(ConfigError, match=f"^{path} was made anew"):
            content.check(folder, {path: "3"})


def test_a_training_does_not_go_on_with_other_images(tiny, source, tmp_path):
    """It is refused before Ray is reached."""
    run = tiny.run("supervised", data={"source": source}, name="mine", storage=str(tmp_path))
    content.keep(f"{tmp_path}/mine", content.of_runs([run]))
    remade(source, 1)
    with pytest.raises(ConfigError, match=r"/source was made anew since .*mine began"):
        training.ready(run, find.method("supervised"), ("source",))


def test_a_benchmark_does_not_go_on_with_other_images(source, tmp_path):
    target = write_toy(f"{tmp_path}/target", shifted=True, rows=60)
    held = {"data.source": source, "data.target": target, "storage": str(tmp_path), "name": "table"}
    grid = Grid(methods={"adabn": {}}, encoders={"small": {}}, seeds=(0,), settings=held)
    content.keep(f"{tmp_path}/table", content.of_runs(grid.cells().values()))
    remade(source, 1)
    with pytest.raises(ConfigError, match=r"/source was made anew since .*table began"):
        compare.ready(grid)


def test_a_finetuning_does_not_go_on_from_other_weights(tiny, source, start, tmp_path):
    run = tiny.run("supervised", data={"source": source}, name="fine", storage=str(tmp_path))
    plan = finetune.Plan(run, [finetune.Start("", "", {}, [start])], [None], [0], False, True)
    content.keep(f"{tmp_path}/fine", content.of_checkpoints([start]))
    saved(tiny, start, torch.nn.init.zeros_)
    with pytest.raises(ConfigError, match=r"/start was made anew since .*fine began"):
        finetune.finetune(plan)
