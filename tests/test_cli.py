"""The command line -> a Run."""

import subprocess
import sys

import pytest

from raylens import cli, config, find
from raylens.config import build, dump
from raylens.errors import ConfigError
from raylens.evaluate import evaluate


def run(*words):
    return cli.run("tune", words)


def refusal(*words):
    with pytest.raises(ConfigError) as refused:
        run(*words)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "job.yaml").write_text("method: adda\nfit: {steps: 300}\nsearch: {trials: 5}\n")
    return str(tmp_path / "job.yaml")


class InTask(Exception):
    """As Ray's, which has the traces of a task in its text."""

    cause = None


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("first\nsecond"), "first"),
        (KeyError(), "KeyError"),
        (InTask("ray::f() (pid=1)\n  File 1\n    raise\nKeyError: 'a'\n"), "KeyError: 'a'"),
        (
            InTask(
                "ray::f()\nOSError: curl: 7\n\nThe above exception was the direct cause:\n\n"
                "raylens.data.formats.Unreached: x: no answer\nFailed to apply UDF, once.\n"
            ),
            "x: no answer",
        ),
        (
            InTask(
                "ray::f()\nraylens.errors.DataError: torn\n\nray.exceptions.UserCodeException: UDF failed\n"
            ),
            "torn",
        ),
        (InTask("The worker died."), "The worker died."),
    ],
)
def test_what_went_wrong_is_a_line_wherever_it_did(error, told):
    assert cli.reason(error) == told


def test_a_method_alone_is_a_run_with_its_defaults():
    assert run("adda") == build({"method.name": "adda"})


@pytest.mark.parametrize("words", [["--fit.steps", "200"], ["--fit.steps=200"]])
def test_flags_are_settings(words):
    assert run("adda", *words) == build({"method.name": "adda", "fit.steps": 200})


def test_values_are_read_as_yaml():
    found = run(
        "adda",
        "--optimizer.lr=1e-4",
        "--optimizer.betas=[0.5, 0.9]",
        "--search.space={optimizer.lr: null}",
        "--method.target_prior=null",
    )
    assert (found.optimizer.lr, found.optimizer.betas) == (1e-4, (0.5, 0.9))
    assert found.search.space == {"optimizer.lr": None}
    assert found.method.target_prior is None


@pytest.mark.parametrize("name", ["2026-01-01", "no", "007", "1e5", "12:30", "a: b", "[x"])
def test_words_for_text_stay_as_they_were_typed(name):
    assert run("adda", "--name", name).name == name


def test_short_words_stand_for_settings():
    assert run("adda", "--oracle").search.oracle is True
    assert run("adda", "--target-prior", "0.05").method.target_prior == 0.05
    assert run("adda", "--task", "classification").task.name == "classification"


def test_a_switch_alone_is_true_and_may_be_spelled_out():
    assert run("adda", "--search.oracle").search.oracle is True
    assert run("adda", "--oracle", "--fit.steps", "200").search.oracle is True
    assert run("adda", "--search.oracle=false").search.oracle is False
    assert run("adda", "--search.oracle", "true").search.oracle is True


def test_a_negative_number_is_a_value():
    assert "seed in the command line is -1" in refusal("adda", "--seed", "-1")


def test_the_encoder_decides_which_settings_there_are():
    assert run("adda", "--encoder", "test_resnet", "--encoder.pretrained=true").encoder.pretrained is True
    assert run("adda", "--encoder.name", "test_resnet").encoder.name == "test_resnet"
    assert "unknown key 'encoder.pretrained'" in refusal("adda", "--encoder.pretrained", "true")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["addda"], "unknown method 'addda' (did you mean adda?)"),
        (
            ["adda", "--fit.stepps", "3"],
            "unknown key 'fit.stepps' in the command line (did you mean fit.steps?)",
        ),
        (["adda", "--fit.stepps"], "unknown key 'fit.stepps' in the command line (did you mean fit.steps?)"),
        (["adda", "--fit.steps", "3", "4"], "'4' on the command line belongs to no setting"),
        (["adda", "-x"], "'-x' on the command line belongs to no setting"),
        (["adda", "--fit.steps"], "--fit.steps needs a value, optimizer steps"),
        (["adda", "--data.source", "--oracle"], "--data.source needs a value"),
        (["adda", "--fit.steps", "many"], "fit.steps in the command line is 'many'"),
        (["adda", "--from"], "--from: expected one argument"),
        (["adda", "--from", "nowhere.yaml"], "there is no run file nowhere.yaml"),
        (["--fit.steps", "3", "adda"], "the method comes first"),
        (["adda", "--task", "regresion"], "unknown task 'regresion' (did you mean regression?)"),
        (["adda", "--optimizer.learning_rate", "1"], "(did you mean optimizer.lr?)"),
        (["adda", "--fit.step", "3"], "(did you mean fit.steps?)"),
        (["adda", "--lr", "3"], "(did you mean optimizer.lr?)"),
        (["adda", "--fit.lr", "3"], "(did you mean optimizer.lr?)"),
        (["adda", "--epochs", "3"], "(did you mean fit.steps?)"),
        (["adda", "--batch-size", "3"], "(did you mean data.batch?)"),
        (["adda", "--gate", "0.5"], "(did you mean method.gate?)"),
        (["adda", "--method.wieght", "1"], "(did you mean method.source_weight?)"),
        (["adda", "--optimiser.lrr", "1"], "(did you mean optimizer.lr?)"),
        (["adda", "--form", "x"], "(did you mean --from?)"),
        (["adda", "--resum", "x"], "(did you mean --resume?)"),
        (["adda", "--orcale"], "(did you mean --oracle?)"),
        (["--form", "x"], "unknown flag --form (did you mean --from?)"),
        (["--resum", "x"], "unknown flag --resum (did you mean --resume?)"),
        (["adda", "--label", "3"], "(did you mean data.labels?)"),
        (["adda", "--nam", "x"], "(did you mean name?)"),
        (["simclr"], "unknown method 'simclr' (did you mean contrastive?)"),
    ],
)
def test_bad_words_are_refused_in_one_line(words, said):
    assert said in refusal(*words)


def test_a_word_that_is_like_no_setting_is_given_no_guess():
    assert "did you mean" not in refusal("adda", "--zzz", "3")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metods", "adda"], "(did you mean --methods?)"),
        (["--wher", "kind=a"], "(did you mean --where?)"),
        (["--fit.stps", "3"], "(did you mean fit.steps?)"),
    ],
)
def test_a_misspelled_flag_of_a_benchmark_is_met_with_its_own(words, said):
    with pytest.raises(ConfigError) as refused:
        cli.grid(words)
    assert said in str(refused.value)


def test_settings_that_one_encoder_has_are_settings_of_a_benchmark():
    assert cli.grid(["--encoders", "test_resnet", "--encoder.pretrained", "false"]).encoders == {
        "test_resnet": {}
    }


def test_a_run_file_gives_the_method_and_flags_win_over_it(file):
    found = run("--from", file, "--search.trials", "8")
    assert (found.method.name, found.fit.steps, found.search.trials) == ("adda", 300, 8)
    assert run("adda", "--search.trials", "8", "--from", file) == found


def test_the_method_on_the_command_line_wins_over_the_files(file):
    assert run("supervised", "--from", file).method.name == "supervised"


def test_a_file_without_a_method_needs_one(tmp_path):
    (tmp_path / "job.yaml").write_text("fit: {steps: 300}")
    assert "names no method" in refusal("--from", str(tmp_path / "job.yaml"))
    assert run("adda", "--from", str(tmp_path / "job.yaml")).fit.steps == 300


def test_a_resumed_run_has_its_own_settings_and_the_place_where_it_lies(tmp_path):
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    made = build({"method": "adda", "fit.steps": 300, "seed": 4, "storage": "/elsewhere"})
    (folder / "run.yaml").write_text(dump(made))
    for words in ([], ["adda"]):
        found = run(*words, "--resume", f"{folder}/")
        assert found == made.replace(storage=str(tmp_path / "runs"), name="mine")
    assert run("--resume", f"file://{folder}").seed == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fit.steps", "3"], "--fit.steps cannot be changed on the way"),
        (["--from", "job.yaml"], "--from cannot be changed on the way"),
        (["--encoder", "resnet34"], "--encoder cannot be changed on the way"),
        (["again"], "again cannot be changed on the way"),
    ],
)
def test_a_resumed_run_takes_no_other_settings(words, said):
    assert said in refusal("adda", "--resume", "runs/mine", *words)


def test_what_is_no_run_cannot_be_resumed(tmp_path):
    assert "is no run to resume" in refusal("--resume", str(tmp_path))
    (tmp_path / "run.yaml").write_text("method: [adda")
    assert "run.yaml is no YAML" in refusal("--resume", str(tmp_path))
    (tmp_path / "run.yaml").write_text(dump(build({"method": "adda"})))
    assert "is a run of adda, not of supervised" in refusal("supervised", "--resume", str(tmp_path))


@pytest.mark.parametrize("method", find.names("methods"))
def test_help_lists_every_setting_with_its_meaning(method, capsys):
    assert run(method, "--help-all") is None
    shown = " ".join(capsys.readouterr().out.split())
    known = config.settings(method, config.default_encoder(method))
    for path, setting in known.items():
        assert f"--{path} " in shown
        assert " ".join(setting.meaning.split()) in shown, path
    ranged = any(setting.range for setting in known.values())
    assert (", searched " in shown) == ranged
    others = {"adda": "--method.gate", "supervised": "--method.label_smoothing"}
    assert all(flag not in shown for name, flag in others.items() if name != method)


def test_help_says_what_kind_of_value_a_setting_takes(capsys):
    run("adda", "--help-all")
    shown = " ".join(capsys.readouterr().out.split())
    for kind in ("data.balance FLOAT", "data.target_batch INT", "fit.precision {16,32,bf16}", "name STR"):
        assert f"--{kind} " in shown


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_without_a_method_the_methods_are_listed(words, capsys):
    assert run(*words) is None
    shown = capsys.readouterr().out
    for name in find.names("methods"):
        assert f"  {name} " in shown


def main(act, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["verb", *words])
    monkeypatch.setattr(cli.signal, "signal", lambda *given: None)
    monkeypatch.delenv("RAYLENS_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as left:
        cli.main(act)
    return left.value.code


def test_the_last_line_is_the_path_of_what_was_made(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["verb", "adda"])
    monkeypatch.setattr(cli.signal, "signal", lambda *given: None)
    cli.main(lambda words: f"runs/{words[0]}/best")
    assert capsys.readouterr().out == "runs/adda/best\n"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("no such thing"), 2, "error: no such thing\n"),
        (RuntimeError("it broke"), 1, "failed: it broke (RAYLENS_TRACEBACK=1 shows where)\n"),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on from the last checkpoints\n"),
    ],
)
def test_a_verb_that_does_not_end_well_says_so_in_a_line(error, code, said, monkeypatch, capsys):
    def act(words):
        raise error

    assert main(act, monkeypatch) == code
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize(("words", "name"), [(["--data.source", ""], "data.source"), (["--name="], "name")])
def test_a_setting_that_was_given_nothing_is_not_the_default(words, name):
    """As an unset variable of a shell gives it."""
    assert f"--{name} was given nothing" in refusal("adda", *words)
    assert run("adda", f"--{name}", "null").data.source is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runs/a/best", "--data", "", "--split", "test"], "--data was given nothing"),
        (["runs/a/best", "--data="], "--data was given nothing"),
        (["", "--data", "sky"], "an argument was given nothing"),
    ],
)
def test_a_flag_or_word_that_is_empty_is_refused(words, said):
    with pytest.raises(ConfigError, match=said):
        evaluate(words)


@pytest.mark.parametrize("words", [["tune", "addda"], ["train", "adda", "--optimizer.lrr", "1"]])
def test_a_wrong_request_is_one_line_on_stderr_and_exit_code_2(words):
    verb = [sys.executable, "-m", f"raylens.{words[0]}", *words[1:]]
    there = subprocess.run(verb, capture_output=True, text=True, check=False)
    assert there.returncode == 2
    assert there.stdout == ""
    assert there.stderr.startswith("error: unknown ")
    assert there.stderr.count("\n") == 1


def test_a_setting_that_was_given_is_not_searched():
    assert "optimizer.lr" in config.space(run("adda"))
    found = run("adda", "--optimizer.lr", "1e-5")
    assert found.optimizer.lr == 1e-5
    assert "optimizer.lr" not in config.space(found)
    assert "method.gate" in config.space(found)
    both = run("adda", "--optimizer.lr", "1e-5", "--search.space", "{optimizer.lr: {uniform: [0, 1]}}")
    assert "optimizer.lr" in config.space(both)


def test_a_checkpoint_cannot_be_resumed(tmp_path):
    (tmp_path / "run.yaml").write_text(dump(build({"method.name": "adda"})))
    (tmp_path / "model.safetensors").touch()
    assert "takes the run's folder, above it" in refusal("--resume", str(tmp_path))


def test_what_goes_wrong_is_told_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.delenv("RAYLENS_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as left, cli.guarded():
        raise RuntimeError("the node timed out")
    assert left.value.code == 1
    assert capsys.readouterr().err == "failed: the node timed out (RAYLENS_TRACEBACK=1 shows where)\n"


def test_a_stop_is_heard_where_python_raises_nothing():
    code = """
import os, signal, time, weakref
from raylens import cli
class Thing: pass
with cli.guarded():
    thing = Thing()
    held = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    del thing
    time.sleep(30)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (130, "stopped\n")
