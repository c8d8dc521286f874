"""Checkpoints: what is written is read back, a resumed run ends where an undisturbed one does, nothing is unpickled."""

import dataclasses
import json
import os
import pickle
import subprocess
from contextlib import closing

import numpy as np
import pytest
import torch

from raylens import checkpoint, config
from raylens.cluster.training import fits
from raylens.cluster.worker import build, work
from raylens.data.stream import Resident
from raylens.errors import ConfigError, RequestError

FILES = {
    "run.yaml",
    "model.safetensors",
    "state.safetensors",
    "state.json",
    "metrics.json",
    "data.json",
    "version.json",
}


@pytest.fixture
def saved(tiny, tmp_path):
    """A checkpoint after two steps of four."""
    run, folder = tiny.run(fit={"steps": 4, "report_every": 2}), tmp_path / "saved"
    with closing(work(run, tiny.facts(), tiny.resident())) as reports:
        next(reports).save(folder)
    return folder


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_checkpoint_explains_itself(saved):
    assert {path.name for path in saved.iterdir()} == FILES
    assert json.loads((saved / "metrics.json").read_text())["step"] == 2
    assert json.loads((saved / "data.json").read_text())["classes"] == ["nonlens", "lens"]
    assert json.loads((saved / "version.json").read_text()).keys() >= {"raylens", "torch", "python"}


@pytest.mark.parametrize("encoder", [{"dropout": 0.5}, {"name": "test_resnet"}])
def test_the_model_comes_back_as_it_was_in_evaluation_mode(tiny, tmp_path, encoder):
    run = config.build({"method": "supervised", "encoder": encoder})
    method = build(run, tiny.facts())
    checkpoint.save(tmp_path, run, tiny.facts(), method.result, {"objective": 0.5, "bad": np.nan})
    found = checkpoint.read(tmp_path)
    assert (found.run, found.facts) == (run, tiny.facts())
    assert found.metrics["objective"] == 0.5
    model = found.model()
    assert not any(module.training for module in model.modules())
    assert same(weights(model), weights(method.result))
    pixels = torch.rand(2, 1, 32, 32)
    assert torch.equal(model(pixels), method.result.eval()(pixels))


def test_facts_keep_several_classes_and_their_manifests(tiny, tmp_path):
    facts = checkpoint.Facts(("axion", "cdm", "no"), 3, 48, {"source": {"rows": np.int64(3), "bands": ["g"]}})
    run = tiny.run()
    checkpoint.save(tmp_path, run, facts, checkpoint.build_model(run, facts), {})
    found = checkpoint.read(tmp_path)
    assert found.facts == facts
    assert found.model().head.out_features == 3


def test_a_checkpoint_is_read_from_an_address_too(saved):
    found = checkpoint.read(f"file://{saved}")
    fetched = found.folder
    assert same(weights(found.model()), weights(checkpoint.read(saved).model()))
    del found
    assert not fetched.exists()
    with pytest.raises(RequestError, match="cannot open nowhere:"):
        checkpoint.read("nowhere://bucket/best")


VIEWS = {"data": {"views": "strong", "balance": 0.5, "target_batch": 6}, "encoder": {"dropout": 0.3}}
RUNS = [
    ("supervised", {}),
    ("supervised", {**VIEWS, "optimizer": {"name": "sgd"}}),
    ("supervised", {"optimizer": {"name": "sgd", "betas": [0, 0]}, "fit": {"precision": "bf16"}}),
    ("adda", VIEWS),
    (
        "adda",
        {**VIEWS, "method": {"source_weight": 0.3, "batch_norm": "source", "target_prior": 0.1, "gate": 0}},
    ),
    ("self_ensembling", {**VIEWS, "method": {"balance": 0.1, "target_prior": 0.1}}),
    *(("adamatch", {**VIEWS, "method": {"batch_norm": by}}) for by in ("own", "joint")),
    *((name, VIEWS) for name in ("cdan", "wdgrl", "mcc")),
    ("adabn", {"data": {"views": "strong"}}),
    *((name, {}) for name in ("contrastive", "byol", "twin", "dino", "mae")),
    ("twin", {"method": {"kind": "simsiam"}}),
]


@pytest.mark.parametrize(("name", "sections"), RUNS)
def test_a_run_that_was_killed_ends_with_the_same_bits_as_one_that_was_not(tiny, tmp_path, name, sections):
    run = tiny.run(name, **{**sections, "fit": {**sections.get("fit", {}), "steps": 6, "report_every": 3}})
    data, facts = tiny.resident(), tiny.facts()
    if run.task.name == "pretraining":
        data = Resident(data.train, {"source": data.validation["source"]})
    first, undisturbed = work(run, facts, data)
    assert (first.metrics["step"], undisturbed.metrics["step"]) == (3, 6)
    with closing(work(run, facts, data)) as reports:
        next(reports).save(tmp_path / "half")
    torch.manual_seed(12345)  # another process, another state
    (resumed,) = work(run, facts, data, resume=tmp_path / "half")
    assert resumed.metrics["step"] == 6
    assert same(weights(resumed.method), weights(undisturbed.method))
    assert not same(weights(resumed.method), weights(build(run, facts)))
    one, other = undisturbed.optimizer.state_dict(), resumed.optimizer.state_dict()
    assert one["param_groups"] == other["param_groups"]
    for index, state in one["state"].items():
        for key, value in state.items():
            there = other["state"][index][key]
            assert torch.equal(value, there) if isinstance(value, torch.Tensor) else value == there
    timeless = {key for key in undisturbed.metrics if not key.startswith("time/")}
    assert {key: resumed.metrics[key] for key in timeless} == {
        key: undisturbed.metrics[key] for key in timeless
    }


def test_a_resumed_run_is_at_its_step_and_has_nothing_to_do_at_the_end(tiny, saved, tmp_path):
    run, data, facts = checkpoint.read(saved).run, tiny.resident(), tiny.facts()
    (report,) = work(run, facts, data, resume=saved)
    report.save(tmp_path / "end")
    assert [*work(run, facts, data, resume=tmp_path / "end")] == []


def test_a_run_starts_from_another_ones_model(tiny, saved):
    run = tiny.run("adda", start=str(saved))
    method = build(run, tiny.facts())
    start = checkpoint.read(saved).model()
    assert same(weights(method.result), weights(start))
    assert same(weights(method.source_encoder), weights(start.encoder))
    assert method.result.encoder.training


def test_a_head_of_numbers_goes_on_saying_them_where_their_spread_is_another(tiny, tmp_path):
    run = tiny.run(task={"name": "regression"})
    facts = [dataclasses.replace(tiny.facts(), scale=scale) for scale in ((-23.0, 0.6), (-22.5, 0.2))]
    first = build(run, facts[0]).model.eval()
    checkpoint.save(tmp_path / "first", run, facts[0], first, {})
    on = checkpoint.start_model(run.replace(start=str(tmp_path / "first")), facts[1]).eval()
    images = torch.rand(4, 1, 32, 32)
    with torch.no_grad():
        before, after = (
            one.task(run.task).told(m(images)) for one, m in zip(facts, (first, on), strict=True)
        )
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize(
    "name", ["metrics.json", "state.json", "data.json", "model.safetensors", "state.safetensors"]
)
def test_what_was_cut_off_is_not_whole(saved, name):
    assert checkpoint.whole(str(saved))
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[:-1])
    assert not checkpoint.whole(str(saved))
    (saved / name).unlink()
    assert not checkpoint.whole(str(saved))


@pytest.mark.parametrize("name", ["run.yaml", "model.safetensors"])
def test_a_folder_without_run_or_weights_is_no_checkpoint(saved, name):
    (saved / name).unlink()
    with pytest.raises(ConfigError, match="is no checkpoint: it has no") as refused:
        checkpoint.read(saved)
    assert "\n" not in str(refused.value)


def test_the_folder_above_is_met_with_a_guess(saved):
    saved.rename(saved.parent / "best")
    with pytest.raises(ConfigError, match=r"did you mean .*/best\?"):
        checkpoint.read(saved.parent)


@pytest.mark.parametrize(
    ("name", "text"),
    [(name, text) for name in ("run.yaml", "data.json") for text in ("{", "[1, 2]", "{}", "")]
    + [("metrics.json", "{")],
)
def test_broken_files_are_met_with_a_line(saved, name, text):
    (saved / name).write_text(text)
    with pytest.raises(ConfigError) as refused:
        checkpoint.read(saved)
    assert "\n" not in str(refused.value)
    assert str(saved) in str(refused.value) or "no method was given" in str(refused.value)


@pytest.mark.parametrize("name", ["data.json", "metrics.json"])
def test_missing_files_are_met_with_a_line(saved, name):
    (saved / name).unlink()
    with pytest.raises(ConfigError, match="is broken"):
        checkpoint.read(saved)


@pytest.mark.parametrize("content", [b"", b"\x00" * 50, pickle.dumps({"a": 1})])
def test_broken_weights_are_met_with_a_line(saved, content):
    found = checkpoint.read(saved)
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read") as refused:
        found.model()
    assert "\n" not in str(refused.value)


def test_weights_of_a_training_that_diverged_are_met_with_a_line(tiny, tmp_path):
    run, facts = tiny.run(), tiny.facts()
    model = build(run, facts).model
    model.head.bias.data[0] = float("nan")
    checkpoint.save(tmp_path / "diverged", run, facts, model, {})
    with pytest.raises(ConfigError, match="diverged are not finite: its training diverged"):
        checkpoint.read(tmp_path / "diverged").model()
    onward = tiny.run(start=str(tmp_path / "diverged"))
    with pytest.raises(ConfigError, match="are not finite"):
        fits(onward, facts)  # before any training


def test_weights_of_another_model_are_met_with_a_line(saved):
    text = (saved / "run.yaml").read_text()
    (saved / "run.yaml").write_text(text.replace("width: 4", "width: 5"))
    with pytest.raises(ConfigError, match=r"do not fit its run\.yaml") as refused:
        checkpoint.read(saved).model()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("text", [None, "{"])
def test_a_state_that_is_missing_or_broken_is_met_with_a_line(tiny, saved, name, text):
    (saved / name).unlink() if text is None else (saved / name).write_text(text)
    with pytest.raises(ConfigError, match=r"cannot be (read|resumed from)") as refused:
        next(work(checkpoint.read(saved).run, tiny.facts(), tiny.resident(), resume=saved))
    assert "\n" not in str(refused.value)


def test_the_state_of_another_method_is_met_with_a_line(tiny, saved):
    with pytest.raises(ConfigError, match="do not fit"):
        next(work(tiny.run("adda"), tiny.facts(), tiny.resident(), resume=saved))


def test_nothing_is_unpickled(tiny, saved, monkeypatch):
    def refuse(*given, **named):
        raise AssertionError("a checkpoint was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    found = checkpoint.read(saved)
    found.model()
    with closing(work(found.run, tiny.facts(), tiny.resident(), resume=saved)) as reports:
        assert next(reports).metrics["step"] == 4


def test_no_module_of_a_downloaded_folder_is_imported(saved, monkeypatch):
    """A method of the user's own is, which lies elsewhere."""
    monkeypatch.syspath_prepend(saved.parents[1])
    monkeypatch.chdir(saved.parents[1])
    inside = f"{saved.parent.name}.{saved.name}.evil"
    (saved / "evil.py").write_text("raise SystemExit('it ran')")
    written = (saved / "run.yaml").read_text()
    (saved / "run.yaml").write_text(written.replace("name: supervised", f"name: {inside}:Evil"))
    with pytest.raises(ConfigError, match=rf"names a method of its own, {inside}:Evil"):
        checkpoint.read(saved)


def test_no_yaml_tag_makes_an_object(saved):
    (saved / "run.yaml").write_text("method: !!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="is no YAML"):
        checkpoint.read(saved)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in a git checkout of its own."""
    folder = tmp_path / "checkout" / "package"
    folder.mkdir(parents=True)
    (folder / "one.py").write_text("1\n")
    monkeypatch.setenv("GIT_DIR", "elsewhere")  # as a hook of another checkout has it
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "-c", "user.name=a", "-c", "user.email=b", "commit", "--quiet", "-m", "first")
    return folder


def git(folder, *words):
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", *words], cwd=folder.parent, env=env, check=True, capture_output=True, text=True
    ).stdout


def test_the_commit_of_a_checkout_is_kept_and_whether_it_was_changed(package):
    head = git(package, "rev-parse", "HEAD").strip()[:8]
    assert checkpoint.commit(package) == head
    (package.parent / "notes.md").write_text("beside it\n")
    checkpoint.commit.cache_clear()
    assert checkpoint.commit(package) == head
    (package / "two.py").write_text("2\n")  # a method of one's own is a file that git does not know
    assert checkpoint.commit(package) == head, "it is read once"
    checkpoint.commit.cache_clear()
    assert checkpoint.commit(package) == f"{head}+changes"


def test_outside_of_a_checkout_there_is_no_commit_unless_one_is_told(package, monkeypatch):
    inside = package.parent / ".venv" / "package"  # installed for a project that is a checkout
    inside.mkdir(parents=True)
    monkeypatch.delenv("RAYLENS_COMMIT", raising=False)
    assert checkpoint.commit(inside) is None
    checkpoint.commit.cache_clear()
    monkeypatch.setenv("RAYLENS_COMMIT", "0a1b2c3d")
    assert checkpoint.commit(inside) == "0a1b2c3d"


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 5)])
def test_without_an_answer_of_git_there_is_no_commit(package, monkeypatch, error):
    def run(*_, **__):
        raise error

    monkeypatch.setattr(checkpoint.subprocess, "run", run)
    assert checkpoint.commit(package) is None


def test_the_commit_stands_beside_the_version(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "commit", lambda: "0a1b2c3d+changes")
    run, facts = tiny.run(), tiny.facts()
    checkpoint.save(tmp_path, run, facts, checkpoint.build_model(run, facts), {})
    assert [*checkpoint.read(tmp_path).versions.items()][1] == ("commit", "0a1b2c3d+changes")
