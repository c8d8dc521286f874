"""Bad input: one clear line, exit code 2, before Ray is started."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from raylens import checkpoint, cli
from raylens.benchmark import benchmark
from raylens.cluster import launch, nodes
from raylens.data.shards import ShardWriter
from raylens.evaluate import evaluate
from raylens.finetune import finetune
from raylens.train import train
from raylens.tune import tune


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs a verb that must refuse; returns the one line it says."""

    def run(verb, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["raylens", *words])
        with pytest.raises(SystemExit) as stopped:
            cli.main(verb)
        assert stopped.value.code == 2
        said = capsys.readouterr()
        assert said.out == ""
        (line,) = said.err.strip().splitlines()
        assert line.startswith("error: ")
        return line

    return run


def write(
    out: str, *, size: int = 32, bands: str = "i", splits=("train", "val", "test"), one_class=()
) -> str:
    channels = len(bands)
    with ShardWriter(out, bands=tuple(bands), arcsec_per_pixel=0.2) as writer:
        for split in splits:
            labels = np.zeros(8, np.int64) if split in one_class else np.arange(8) % 2
            pixels = np.random.default_rng(0).random((8, channels, size, size), dtype=np.float32)
            writer.add(split, pixels, labels, [f"{split}-{row}" for row in range(8)])
    return out


def test_an_unknown_method_is_named_with_a_guess(refused):
    line = refused(tune, "adaa")
    assert "adaa" in line
    assert "did you mean adda?" in line


def test_an_unknown_setting_is_named_with_those_known(refused):
    line = refused(tune, "adda", "--optimizer.lrr", "1")
    assert "optimizer.lrr" in line
    assert "weight_decay" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--encoders", "smal"], "close to it: small"),
        (["--methods", "addaa"], "did you mean adda?"),
        (["--seeds", "one"], "invalid int value: 'one'"),
        (["--resume", "nowhere"], "nowhere is no benchmark to resume: it has no grid.yaml"),
        (["--resume", "nowhere", "--seeds", "1"], "--seeds cannot be changed"),
        (["--data.target", "nowhere"], "no data set at"),
        (["adda"], "'adda' on the command line"),
    ],
)
def test_a_benchmark_that_cannot_be_is_refused(refused, words, said):
    assert said in refused(benchmark, *words)


def test_names_of_a_benchmark_that_make_one_folder_are_refused(refused, tmp_path):
    file = tmp_path / "two.yaml"
    file.write_text("methods: {'adda, a': {method.name: adda}, 'adda; a': {method.name: adda}}")
    assert "make the same folder" in refused(benchmark, "--from", str(file), "--storage", str(tmp_path))


def test_a_benchmark_needs_labels_to_measure_by(refused, tmp_path):
    source, target = write(f"{tmp_path}/source"), f"{tmp_path}/target"
    with ShardWriter(target, bands=("i",), arcsec_per_pixel=0.2) as writer:
        for split in ("train", "val", "test"):
            pixels = np.random.default_rng(0).random((8, 1, 32, 32), dtype=np.float32)
            writer.add(split, pixels, None, [f"{split}-{row}" for row in range(8)])
    words = ["--data.source", source, "--data.target", target, "--storage", str(tmp_path)]
    assert "has no labels there" in refused(benchmark, *words)


def test_a_mistyped_setting_is_named_with_what_was_given(refused):
    assert "'many'" in refused(tune, "adda", "--fit.steps", "many")


def test_an_unknown_validator_is_refused(refused):
    assert "known here: " in refused(tune, "adda", "--search.validator", "luck")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--label", "1%"], "did you mean --labels?"),
        (["--frozn"], "did you mean --frozen?"),
        (["--optimizer.lrr", "1"], "did you mean optimizer.lr?"),
    ],
)
def test_a_misspelled_flag_of_a_finetuning_is_met_with_a_guess(refused, tiny, tmp_path, words, said):
    run, facts = tiny.run(), tiny.facts()
    checkpoint.save(tmp_path / "model", run, facts, checkpoint.build_model(run, facts), {})
    assert said in refused(finetune, str(tmp_path / "model"), "classification", *words)


def test_views_that_there_are_not_are_met_with_a_guess(refused, tmp_path):
    words = ("--data.views", "dihedrl", "--storage", f"{tmp_path}/runs")
    assert "unknown data.views 'dihedrl' (did you mean dihedral?)" in refused(tune, "adda", *words)


@pytest.mark.parametrize("bands", ["gx", "ii"])
def test_bands_that_cannot_be_simulated_are_refused(refused, tmp_path, bands):
    words = ("--data.bands", bands, "--storage", f"{tmp_path}/runs")
    assert f"bands {bands!r} are not known; give some of g, r, i" in refused(tune, "adda", *words)


def test_a_part_of_a_test_split_that_there_is_not_is_refused_before_ray_starts(
    refused, toy_sets, tmp_path, monkeypatch
):
    monkeypatch.setattr(launch, "connect", None)
    sets = [word for name, path in toy_sets.items() for word in (f"--{name}", path)]
    line = refused(benchmark, *sets, "--storage", f"{tmp_path}/runs", "--where", "hlf=odd")
    assert "--where 'hlf=odd' is not COLUMN=VALUE" in line
    assert "(did you mean half?)" in line


def test_missing_data_is_named(refused, tmp_path):
    assert f"{tmp_path}/nothing" in refused(tune, "adda", "--data.source", f"{tmp_path}/nothing")


@pytest.mark.parametrize(("kind", "setting"), [({"size": 48}, "--size"), ({"bands": "gri"}, "--bands")])
def test_source_and_target_must_have_one_shape(refused, tmp_path, kind, setting):
    source, target = write(f"{tmp_path}/source"), write(f"{tmp_path}/target", **kind)
    line = refused(
        tune, "adda", "--data.source", source, "--data.target", target, "--storage", f"{tmp_path}/runs"
    )
    assert setting in line
    assert source in line
    assert target in line


def test_bands_in_another_order_are_refused(refused, tmp_path):
    source, target = write(f"{tmp_path}/source", bands="gri"), write(f"{tmp_path}/target", bands="irg")
    words = ["--data.source", source, "--data.target", target, "--storage", f"{tmp_path}/runs"]
    assert f"{target} has the bands i, r, g, {source} g, r, i" in refused(tune, "adda", *words)


def test_an_empty_split_is_named(refused, tmp_path):
    source, target = write(f"{tmp_path}/source"), write(f"{tmp_path}/target", splits=("train", "test"))
    line = refused(
        tune, "adda", "--data.source", source, "--data.target", target, "--storage", f"{tmp_path}/runs"
    )
    assert "'val'" in line


def test_a_target_with_one_class_in_test_is_refused(refused, tmp_path):
    source, target = write(f"{tmp_path}/source"), write(f"{tmp_path}/target", one_class=("test",))
    line = refused(
        tune, "adda", "--data.source", source, "--data.target", target, "--storage", f"{tmp_path}/runs"
    )
    assert "nothing can be measured" in line


def test_a_storage_that_cannot_be_written_is_refused(refused, tmp_path):
    (tmp_path / "file").touch()
    line = refused(tune, "adda", "--storage", f"{tmp_path}/file/runs")
    assert "set storage" in line


def test_a_gpu_that_is_not_there_is_refused(refused, tmp_path, ray_cluster, monkeypatch):
    monkeypatch.setattr(nodes, "capacity", lambda: {"CPU": 2.0, "GPU": 0.0})
    source, target = write(f"{tmp_path}/source"), write(f"{tmp_path}/target")
    words = (
        "--data.source",
        source,
        "--data.target",
        target,
        "--storage",
        f"{tmp_path}/runs",
        "--scale.gpus",
        "1",
    )
    line = refused(train, "adda", *words)
    assert "set scale.gpus" in line


def test_more_gpus_than_there_are_are_refused(refused, tmp_path, ray_cluster):
    source, target = write(f"{tmp_path}/source"), write(f"{tmp_path}/target")
    sets = ("--data.source", source, "--data.target", target, "--storage", f"{tmp_path}/runs")
    line = refused(tune, "adda", *sets, "--scale.gpus", "4")
    assert (
        "1 worker(s) with 1 CPUs and 4 GPUs on one node, the cluster's 2 CPUs and 1 GPUs have room for 0"
        in line
    )
    assert not list((tmp_path / "runs").glob("*"))


def test_what_is_no_checkpoint_is_refused(refused, tmp_path):
    assert "no checkpoint" in refused(evaluate, str(tmp_path), "--data", str(tmp_path))


def test_a_run_that_is_none_cannot_be_resumed(refused, tmp_path):
    assert "no run.yaml" in refused(tune, "--resume", str(tmp_path))
