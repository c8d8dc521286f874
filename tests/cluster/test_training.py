"""What a run is refused for before Ray is reached."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest

from raylens import checkpoint, config, find
from raylens.cluster import training
from raylens.cluster.training import check_same, fits, started
from raylens.cluster.worker import build
from raylens.data import sets
from raylens.data.shards import ShardWriter
from raylens.errors import ConfigError, DataError
from raylens.storage import write


def write_set(out, *, classes=("a", "b"), lacking=None, labelled=True, size=32, bands=("i",)) -> str:
    """A set of three splits; `lacking` is a split without the last class."""
    rng = np.random.default_rng(0)
    with ShardWriter(str(out), bands=bands, classes=classes) as writer:
        for split in ("train", "val", "test"):
            kinds = len(classes) - (split == lacking)
            labels = np.arange(8) % kinds if labelled else None
            writer.add(
                split, rng.random((8, 1, size, size), np.float32), labels, [f"{split}{i}" for i in range(8)]
            )
    return str(out)


def check(run, *, test=True):
    return sets.facts(run, ("source", "target"), test=test)


@pytest.mark.parametrize(
    ("name", "split", "said"),
    [("source", "train", "learned"), ("source", "val", "learned"), ("target", "test", "measured")],
)
def test_a_split_without_a_class_is_refused(tiny, tmp_path, name, split, said):
    paths = {
        f"data.{one}": write_set(tmp_path / one, lacking=split if one == name else None)
        for one in ("source", "target")
    }
    with pytest.raises(
        DataError, match=rf"the {split} split of .*{name} has no row of b \(8 a, 0 b\).*{said} there"
    ):
        check(tiny.run("adda").replace(**paths))


def test_a_target_without_any_label_is_taken(tiny, tmp_path):
    paths = {
        "data.source": write_set(tmp_path / "source"),
        "data.target": write_set(tmp_path / "target", labelled=False),
    }
    run = tiny.run("adda").replace(**paths)
    assert check(run).classes == ("a", "b")
    with pytest.raises(DataError, match=r"the val split of .*target has no row of a or b"):
        check(run.replace(**{"search.oracle": True}))


def test_other_names_of_bands_are_told(tiny, tmp_path):
    paths = {
        "data.source": write_set(tmp_path / "source"),
        "data.target": write_set(tmp_path / "target", bands=("F814W",)),
    }
    run = tiny.run("adda").replace(**paths)
    check(run)
    (remark,) = sets.remarks(run, ("source", "target"), test=True)
    assert remark.endswith(
        "has the bands F814W, " + paths["data.source"] + " i; they are taken for the same, each "
        "for that at its place"
    )


def test_a_set_smaller_than_a_step_is_told(tiny, tmp_path):
    paths = {f"data.{one}": write_set(tmp_path / one) for one in ("source", "target")}
    run = tiny.run("adda", data={"batch": 8, "target_batch": 16}).replace(**paths)
    (remark,) = sets.remarks(run, ("source", "target"))
    assert "target has 8 images to learn from, fewer than a step takes, 16" in remark


def test_another_set_may_be_measured_on_and_is_checked_as_the_target_would_be(tiny, tmp_path):
    paths = {
        "data.source": write_set(tmp_path / "source"),
        "data.target": write_set(tmp_path / "target", labelled=False),
        "data.test": write_set(tmp_path / "labelled"),
    }
    run = tiny.run("adda").replace(**paths)
    assert check(run).classes == ("a", "b")
    assert sets.labelled(sets.tested(run), "test")
    one_class = write_set(tmp_path / "one", lacking="test")
    with pytest.raises(DataError, match=r"the test split of .*one has no row of b"):
        check(run.replace(**{"data.test": one_class}))
    with pytest.raises(DataError, match=r"other has 1 channel\(s\) of 24 x 24"):
        check(run.replace(**{"data.test": write_set(tmp_path / "other", size=24)}))
    with pytest.raises(DataError, match="no data set at"):
        check(run.replace(**{"data.test": str(tmp_path / "nowhere")}))


def test_the_folder_of_a_benchmark_is_no_run(tiny, tmp_path):
    run = tiny.run("adda", storage=str(tmp_path), name="table")
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "grid.yaml").write_text("seeds: [0]")
    for search in (True, False):
        with pytest.raises(ConfigError, match="table is a benchmark: go on with it by"):
            check_same(run, search=search)


def test_an_estimated_share_is_of_two_classes(tiny):
    run = tiny.run("mcc", data={"prior": "estimate"})
    fits(run, tiny.facts())
    with pytest.raises(ConfigError, match="estimate is of a share of lenses"):
        fits(run, tiny.facts(("no_sub", "cdm", "axion")))


def test_what_will_be_simulated_is_checked_before_it_is(tiny, tmp_path):
    run = tiny.run("adda").replace(
        **{"data.source": write_set(tmp_path / "source"), "storage": str(tmp_path)}
    )
    with pytest.raises(DataError, match=r"simulated target has 1 channel.* of 64 x 64"):
        check(run)
    facts = check(tiny.run("adda", storage=str(tmp_path), data={"bands": "gri"}))
    assert (facts.channels, facts.size, facts.classes) == (3, 64, ("nonlens", "lens"))
    assert not (tmp_path / "data").exists()


def test_a_given_target_is_looked_at_even_by_a_method_that_does_not_learn_from_it(tiny):
    run = tiny.run("supervised")
    assert sets.streams(run, find.method("supervised")) == ("source",)
    assert sets.streams(run.replace(**{"data.target": "there"}), find.method("supervised")) == (
        "source",
        "target",
    )


@pytest.mark.parametrize("name", find.names("methods"))
def test_every_method_is_validated_on_the_source_and_can_train_its_start(tiny, name):
    run, cls = tiny.run(name), find.method(name)
    assert sets.streams(run, cls)[0] == "source"
    assert set(sets.trained(run, cls)) == {*cls.streams, *(("source",) if cls.start else ())}
    assert sets.trained(run.replace(start="there"), cls) == cls.streams


def test_what_bounds_the_trials_of_a_search_bounds_its_starts(tiny):
    run = tiny.run("adda", search={"concurrent": 1, "retries": 5})
    start = training.start_run(run, "supervised")
    assert (start.search.concurrent, start.search.retries) == (1, 5)


def test_a_name_belongs_to_one_run(tiny, tmp_path):
    run = tiny.run("adda", storage=str(tmp_path), name="mine")
    check_same(run, search=True)
    write(f"{tmp_path}/mine/run.yaml", config.dump(run))
    check_same(run, search=True)
    check_same(run.replace(**{"scale.gpus": 1, "search.retries": 0}), search=True)
    with pytest.raises(
        ConfigError, match=r"mine is a run with seed 0, and 1 was given; .*--name, or .*--resume"
    ):
        check_same(run.replace(seed=1), search=True)


@pytest.mark.parametrize(
    ("left", "search", "said"),
    [
        ("trials", False, "is a search: go on with it by raylens.tune"),
        ("workers", True, "is a training: go on"),
    ],
)
def test_a_name_belongs_to_one_verb(tiny, tmp_path, left, search, said):
    run = tiny.run("adda", storage=str(tmp_path), name="mine")
    (tmp_path / "mine" / left).mkdir(parents=True)
    check_same(run, search=not search)
    with pytest.raises(ConfigError, match=said):
        check_same(run, search=search)
    (tmp_path / "mine" / "trials").mkdir(exist_ok=True)
    (tmp_path / "mine" / "workers").mkdir(exist_ok=True)
    check_same(run, search=True)  # trials of several workers leave both


@pytest.fixture
def first(tiny, tmp_path) -> str:
    """A checkpoint with an encoder and a transform of its own."""
    run = tiny.run(encoder={"width": 6}, data={"transform": "asinh"})
    checkpoint.save(tmp_path / "first", run, tiny.facts(), build(run, tiny.facts()).model, {})
    return str(tmp_path / "first")


def test_a_start_brings_its_encoder_and_its_preprocessing(tiny, first, capsys):
    run = started(tiny.run("adda", start=first))
    assert (run.encoder.width, run.data.transform) == (6, "asinh")
    said = capsys.readouterr().out.splitlines()
    assert f"encoder.width is 6, as in {first}" in said
    assert f"data.transform is 'asinh', as in {first}" in said
    fits(run, tiny.facts())
    model, start = build(run, tiny.facts()).model.state_dict(), checkpoint.read(first).model().state_dict()
    assert all(model[name].equal(value) for name, value in start.items())


@pytest.mark.parametrize("facts", [{"size": 48}, {"channels": 3}, {"classes": ("a", "b")}])
def test_a_start_of_other_images_or_classes_is_refused(tiny, first, facts):
    run = started(tiny.run("adda", start=first, method={"target_prior": None}))
    with pytest.raises(
        ConfigError, match=r"the start .*first knows 1 channel\(s\) of 32 x 32 and .*nonlens, lens"
    ):
        fits(run, dataclasses.replace(tiny.facts(), **facts))


def test_a_start_that_is_not_there_is_refused(tiny, tmp_path):
    with pytest.raises((ConfigError, DataError), match="nowhere"):
        started(tiny.run("adda", start=f"{tmp_path}/nowhere"))


@pytest.mark.parametrize(
    ("scale", "search", "said"),
    [
        ({"workers": 2, "gpus": 0.5}, False, "NCCL lets no two workers"),
        ({"workers": 2, "min_workers": 3}, False, "min_workers is 3, more than scale.workers, 2"),
        ({"workers": 2, "min_workers": 1}, True, "trials of a search wait for all of their workers"),
    ],
)
def test_workers_that_cannot_be_are_refused(tiny, scale, search, said):
    with pytest.raises(ConfigError, match=said):
        training.check(tiny.run("supervised", scale=scale), search=search)


def test_a_run_is_held_by_one_process_at_a_time(tmp_path):
    from raylens.cluster.folders import hold, releases

    held = f"hold({str(tmp_path / 'run')!r}); print('held', flush=True); input()"
    script = f"from raylens.cluster.folders import hold; {held}"
    other = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=r"another process is at work on .*run; wait for its end"):
        hold(str(tmp_path / "run"))
    other.kill()
    other.wait()

    @releases
    def twice():
        hold(str(tmp_path / "run"))
        hold(str(tmp_path / "run"))

    twice()
    twice()


@pytest.mark.parametrize(
    ("mode", "fits", "refused"),
    [("auto", False, True), ("streaming", True, True), ("resident", False, False), ("auto", True, False)],
)
def test_a_part_of_the_labels_is_of_a_set_in_memory(tiny, mode, fits, refused):
    run = tiny.run(data={"labels": 0.1, "mode": mode})
    with pytest.raises(ConfigError, match=r"data\.labels 0\.1 is a part") if refused else nullcontext():
        training.check_amount(run, fits)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"optimizer.name": {"choice": ["adamw", "sgd"]}}, "optimizer.name makes others"),
        ({"method.hidden": {"choice": [64, 128]}}, "method.hidden makes others"),
        ({"optimizer.lr": {"log_uniform": [1e-4, 1e-2]}}, None),
    ],
)
def test_a_population_shares_weights_and_optimizer(tiny, space, said):
    run = tiny.run("adda", search={"scheduler": "pbt", "space": space})
    with pytest.raises(ConfigError, match=said) if said else nullcontext():
        training.fits(run, tiny.facts())


def test_each_of_several_views_is_known(tiny):
    run = tiny.run("adda", search={"space": {"data.views": {"choice": ["dihedral", "strnog"]}}})
    with pytest.raises(ConfigError, match=r"unknown data\.views 'strnog' \(did you mean strong\?\)"):
        training.check(run, search=True)


def test_a_finetuning_is_no_search(tiny, tmp_path):
    run = tiny.run(name="run").replace(storage=str(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.json").write_text("{}")
    with pytest.raises(ConfigError, match="is a finetuning: go on with it by"):
        training.check_same(run, search=True)
    training.check_same(run, search=True, finetunes=True)
