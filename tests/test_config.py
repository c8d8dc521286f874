"""Settings: layers, checks, and the way to YAML and back."""

import os
import subprocess
import sys

import pytest
import yaml

from raylens import config, find
from raylens.config import build, dump, flat, read, settings, space
from raylens.errors import ConfigError, RequestError
from raylens.methods.adda import ADDA
from raylens.space import LogUniform, Uniform

ADDA_RUN = {"method.name": "adda"}


def refusal(*layers):
    with pytest.raises(ConfigError) as refused:
        build(*layers)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_later_layers_win():
    assert build(ADDA_RUN).fit.steps == 600  # the section's default
    assert build(ADDA_RUN).optimizer.lr == ADDA.suggests["optimizer.lr"]  # what the method suggests
    file = ({"optimizer": {"lr": 0.1}, "fit": {"steps": 500}}, "run.yaml")
    assert build(ADDA_RUN, file).optimizer.lr == 0.1
    run = build(ADDA_RUN, file, {"optimizer.lr": 0.2})
    assert (run.optimizer.lr, run.fit.steps) == (0.2, 500)


def test_what_one_method_suggests_is_no_business_of_another():
    assert build({"method.name": "supervised"}).optimizer.betas == (0.9, 0.999)
    assert build(ADDA_RUN).optimizer.betas == (0.5, 0.999)


def test_a_word_is_short_for_a_sections_name():
    run = build({"method": "adda", "encoder": "test_resnet", "task": "classification"})
    assert (run.method.name, run.encoder.name, run.task.name) == ("adda", "test_resnet", "classification")


def test_nested_and_dotted_settings_are_the_same():
    assert build({"method": {"name": "adda", "gate": 0.6}}) == build({**ADDA_RUN, "method.gate": 0.6})


def test_an_unknown_key_is_named_with_its_origin_a_guess_and_what_is_known():
    message = refusal(ADDA_RUN, ({"optimizer": {"lrr": 1}}, "jobs/x.yaml"))
    assert message == (
        "unknown key 'optimizer.lrr' in jobs/x.yaml (did you mean optimizer.lr?); "
        "known here: betas, lr, name, schedule, warmup, weight_decay"
    )


@pytest.mark.parametrize("key", ["lr", "methods.gate", "nothing", "data.source.path", ""])
def test_unknown_keys_anywhere_are_refused(key):
    assert f"unknown key {key!r} in the settings" in refusal(ADDA_RUN, {key: 1})


def test_a_setting_of_another_encoder_is_unknown():
    assert "unknown key 'encoder.width'" in refusal(ADDA_RUN, {"encoder": {"name": "resnet34", "width": 3}})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("fit.steps", "many"),
        ("fit.steps", 1.5),
        ("fit.steps", 0),
        ("fit.steps", None),
        ("data.batch", -1),
        ("data.balance", 1.0),
        ("data.mode", "sometimes"),
        ("data.transform", "sqrt"),
        ("optimizer.lr", -1e-3),
        ("optimizer.lr", "fast"),
        ("optimizer.lr", float("inf")),
        ("name", ".."),
        ("name", "runs/../.."),
        ("optimizer.betas", 0.9),
        ("optimizer.betas", [0.9, 1.5]),
        ("fit.precision", 8),
        ("method.gate", 2),
        ("method.batch_norm", True),
        ("search.space", [1]),
        ("search.oracle", "perhaps"),
        ("seed", -1),
        ("data.source", 2.5j),
    ],
)
def test_a_wrong_value_is_named_with_its_origin(path, value):
    message = refusal(ADDA_RUN, ({path: value}, "jobs/x.yaml"))
    assert message.startswith(f"{path} in jobs/x.yaml is ")


@pytest.mark.parametrize("precision", [32, "32", 16, "bf16"])
def test_precision_is_understood_as_yaml_reads_it(precision):
    assert build(ADDA_RUN, {"fit.precision": precision}).fit.precision == str(precision)


@pytest.mark.parametrize("written", [3, "adda", [1, 2]])
def test_what_is_no_mapping_is_refused(written):
    assert "should hold settings" in refusal((written, "jobs/x.yaml"))


@pytest.mark.parametrize("written", [{"fit": 3}, {"fit": None}, {"method": 3}, {"data": "shards"}])
def test_a_section_that_is_no_section_is_refused(written):
    assert "is a section; write" in refusal(ADDA_RUN, written)


def test_no_method_lists_those_there_are():
    assert refusal({"fit.steps": 3}).endswith(f"known here: {', '.join(find.names('methods'))}")


@pytest.mark.parametrize("name", ["ada", 5])
def test_unknown_methods_are_refused(name):
    assert f"unknown method '{name}'" in refusal({"method": {"name": name}})


def test_unknown_tasks_are_refused_before_anything_starts():
    assert "unknown task 'clasification' (did you mean classification?)" in refusal(
        ADDA_RUN, {"task": "clasification"}
    )


def test_a_task_that_the_method_cannot_learn_is_refused(monkeypatch):
    monkeypatch.setattr(ADDA, "tasks", ("regression",))
    assert refusal(ADDA_RUN) == "adda cannot learn the task 'classification'; it can: regression"


def test_reports_rarer_than_steps_are_refused():
    assert "fit.report_every is 100, more than fit.steps, 50" in refusal(
        ADDA_RUN, {"fit.steps": 50, "fit.report_every": 100}
    )


RUNS = [
    {"method": "supervised"},
    {"method": "adda", "encoder": "resnet34", "optimizer": {"betas": [0.1, 0.2]}, "fit": {"precision": 16}},
    {"method": "adda", "search.space": {"optimizer.lr": None, "method.gate": {"uniform": [0.1, 0.9]}}},
    {
        "method": "adda",
        "name": "2026-01-01",
        "data.source": "s3://bucket/a",
        "start": "runs/x/best",
        "seed": 3,
    },
    {"method": "adda", "encoder": "ecnn", "data": {"views": "none", "balance": 0.5}},
]


@pytest.mark.parametrize("settings", RUNS)
def test_a_run_written_as_yaml_is_read_back_the_same(settings, tmp_path):
    run = build(settings)
    (tmp_path / "run.yaml").write_text(dump(run))
    again = build((read(tmp_path / "run.yaml"), "run.yaml"))
    assert again == run
    assert dump(again) == dump(run)
    assert again.title == run.title


@pytest.mark.parametrize("settings", RUNS)
def test_a_run_is_its_flat_settings(settings):
    run = build(settings)
    assert build(flat(run)) == run
    assert yaml.safe_load(yaml.safe_dump(flat(run))) == flat(run)


def test_replace_changes_what_it_names_and_nothing_else():
    run = build(ADDA_RUN)
    changed = run.replace(**{"optimizer.lr": 0.1, "seed": 4})
    differ = {path for path, value in flat(changed).items() if value != flat(run)[path]}
    assert differ == {"optimizer.lr", "seed"}
    assert run.optimizer.lr != 0.1
    with pytest.raises(ConfigError, match="unknown key"):
        run.replace(**{"optimizer.lrr": 1})
    with pytest.raises(ConfigError, match=r"optimizer\.lr in the settings is -1"):
        run.replace(**{"optimizer.lr": -1})


def test_sections_are_frozen():
    with pytest.raises(AttributeError):
        build(ADDA_RUN).fit.steps = 3


def test_a_title_is_the_same_in_every_process():
    code = "from raylens.config import build; print(build({'method': 'adda', 'seed': 1}).title)"
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert there.stdout.strip() == build({"method": "adda", "seed": 1}).title


def test_a_title_says_what_shapes_the_outcome_and_not_where_it_lies():
    run = build(ADDA_RUN)
    assert run.title.startswith("adda-")
    assert run.replace(storage="elsewhere").title == run.title
    assert run.replace(**{"optimizer.lr": 0.5}).title != run.title
    assert run.replace(name="mine").title == "mine"


def test_the_space_of_a_method_stands_beside_its_defaults():
    found = space(build(ADDA_RUN))
    assert found["optimizer.lr"] == ADDA.space["optimizer.lr"]
    assert found["method.gate"] == Uniform(0.5, 0.7)
    assert "fit.steps" not in found


@pytest.mark.parametrize("task", ["regression", "super-resolution"])
def test_what_changes_nothing_for_a_task_is_not_searched(task):
    asked = {"method.name": "supervised", "task.name": task}
    assert "method.label_smoothing" in config.space(config.build({"method.name": "supervised"}))
    assert "method.label_smoothing" not in config.space(config.build(asked))


def test_search_space_lies_over_the_methods_own_and_null_takes_out():
    overlay = {
        "optimizer.lr": {"log_uniform": ["1e-6", "1e-2"]},
        "method.gate": None,
        "data.batch": {"choice": [16, 32]},
    }
    own, found = space(build(ADDA_RUN)), space(build(ADDA_RUN, {"search.space": overlay}))
    assert found["optimizer.lr"] == LogUniform(1e-6, 1e-2)
    assert found["data.batch"].values == (16, 32)
    assert own.keys() - found.keys() == {"method.gate"}


def test_an_unknown_path_in_the_space_is_refused():
    message = refusal(ADDA_RUN, ({"search": {"space": {"optimizer.lrr": None}}}, "jobs/x.yaml"))
    assert message.startswith("unknown key 'optimizer.lrr' in search.space of jobs/x.yaml (did you mean")


def test_a_wrong_range_in_the_space_is_refused():
    assert "search.space.optimizer.lr:" in refusal(ADDA_RUN, {"search.space": {"optimizer.lr": [1, 2]}})


@pytest.mark.parametrize("method", find.names("methods"))
def test_every_setting_has_a_meaning_and_a_default_within_its_range(method):
    run = build({"method": method})
    known = settings(method, run.encoder.name)
    assert known.keys() == flat(run).keys()
    for path, setting in known.items():
        assert setting.meaning, path
        if isinstance(setting.range, Uniform | LogUniform):
            assert setting.range.low <= setting.default <= setting.range.high, path


def test_read_says_what_is_wrong_with_a_file(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("method: [adda\nfit: {")
    for path, said in (
        (tmp_path / "none.yaml", "there is no run file"),
        (broken, "is no YAML"),
        (tmp_path, "cannot"),
    ):
        with pytest.raises(ConfigError, match=said) as refused:
            read(path)
        assert "\n" not in str(refused.value)


def test_read_takes_addresses_too(tmp_path):
    (tmp_path / "run.yaml").write_text("method: adda")
    assert read(f"file://{tmp_path}/run.yaml") == {"method.name": "adda"}
    with pytest.raises(ConfigError, match="there is no run file"):
        read(f"file://{tmp_path}/none.yaml")
    with pytest.raises(RequestError, match="cannot open nowhere:"):
        read("nowhere://bucket/run.yaml")


def test_an_empty_file_holds_no_settings(tmp_path):
    (tmp_path / "run.yaml").write_text("# nothing yet\n")
    assert read(tmp_path / "run.yaml") == {}


def test_sections_of_a_setting_are_the_classes_of_a_run():
    run = build(ADDA_RUN)
    for name, cls in config.classes("adda", "small").items():
        assert type(getattr(run, name)) is cls


@pytest.mark.parametrize(
    ("method", "path", "span", "said"),
    [
        ("supervised", "data.transform", {"choice": ["asinh"]}, "trials share their data"),
        ("supervised", "fit.steps", {"choice": [10]}, "trials share their data"),
        ("supervised", "encoder.name", {"choice": ["resnet34"]}, "trials share their data"),
        ("adda", "encoder.width", {"choice": [8]}, "trials of adda start from one model"),
        ("supervised", "method.label_smoothing", {"uniform": [0, 2]}, "less than 1"),
        ("supervised", "optimizer.name", {"choice": ["adamw", "lion"]}, "'lion'"),
    ],
)
def test_a_range_that_no_trial_could_mean_is_refused(method, path, span, said):
    with pytest.raises(ConfigError, match=rf"search.space.{path}: .*{said}"):
        build({"method.name": method, "search.space": {path: span}})


def test_a_whole_number_is_searched_among_whole_numbers():
    run = build({"method.name": "supervised", "search.space": {"data.batch": {"log_uniform": [16, 64]}}})
    assert config.space(run)["data.batch"] == LogUniform(16, 64, whole=True)
    assert not config.space(run)["optimizer.lr"].whole


def test_a_short_run_reports_once():
    assert config.build({"method.name": "adda", "fit.steps": 50}).fit.report_every == 50
    assert config.build({"method.name": "adda", "fit.steps": "50"}).fit.report_every == 50
    assert config.build({"method.name": "adda", "fit.steps": 5000}).fit.report_every == 100


@pytest.mark.parametrize(
    ("steps", "every", "search"),
    [
        (60, 5, {}),
        (4000, 250, {"reduction": 3}),
        (1000, 100, {"grace": 7, "reduction": 4}),
        (4, 4, {}),
        (64, 1, {"grace": 1}),
    ],
)
def test_rungs_are_those_of_rays_asha(tiny, steps, every, search):
    from ray.tune.schedulers import ASHAScheduler

    run = tiny.run("adda", fit={"steps": steps, "report_every": every}, search=search)
    asha = ASHAScheduler(
        max_t=steps + 1, grace_period=config.grace(run), reduction_factor=run.search.reduction
    )
    held = sorted(step for step, _ in asha._brackets[0]._rungs)
    assert config.rungs(run) == tuple(step for step in held if step < steps)


def test_without_asha_there_are_no_rungs(tiny):
    assert config.rungs(tiny.run("adda", search={"scheduler": "none"})) == ()
