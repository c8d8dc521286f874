"""What the verbs say of themselves, and of words that they do not know."""

from __future__ import annotations

import shlex

import pytest

from raylens import cli, find
from raylens.benchmark import benchmark
from raylens.data.__main__ import main, parser
from raylens.errors import ConfigError
from raylens.evaluate import evaluate
from raylens.explain import explain
from raylens.export import export
from raylens.finetune import finetune
from raylens.models.__main__ import main as models
from raylens.predict import predict
from raylens.pretrain import pretrain
from raylens.report import report
from raylens.train import train
from raylens.tune import tune

VERBS = {
    "tune": tune,
    "train": train,
    "pretrain": pretrain,
    "benchmark": benchmark,
    "finetune": finetune,
    "evaluate": evaluate,
    "predict": predict,
    "report": report,
    "explain": explain,
    "export": export,
    "data": main,
    "models": models,
}
DATA = ["convert", "describe", "check", "simulate", "resolve"]


def said(capsys, act, *words: str) -> str:
    try:
        act(list(words))
    except SystemExit as stopped:
        assert not stopped.code  # noqa: PT017
    return capsys.readouterr().out


def example(text: str) -> list[str]:
    """The words of the last example of a help, after `python -m`."""
    lines = text.rstrip().splitlines()
    assert lines[-2] == "Example:"
    words = shlex.split(lines[-1])
    assert words[:2] == ["python", "-m"]
    return words[2:]


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_ends_with_an_example_of_its_verb(verb, capsys):
    assert example(said(capsys, VERBS[verb], "--help"))[0] == f"raylens.{verb}"


@pytest.mark.parametrize("verb", ["tune", "train"])
@pytest.mark.parametrize("method", find.names("methods"))
def test_the_example_of_a_method_is_a_run_of_it(verb, method, capsys):
    module, *words = example(said(capsys, VERBS[verb], method, "--help"))
    assert module == f"raylens.{verb}"
    assert cli.run(verb, words).method.name == method


@pytest.mark.parametrize("verb", DATA)
def test_the_example_of_a_verb_of_data_is_understood(verb, capsys):
    text = said(capsys, main, verb, "--help")
    module, *words = example(text)
    assert module == "raylens.data"
    assert parser().parse_args(words).verb == verb
    assert len(text.splitlines()) < 60


@pytest.mark.parametrize("verb", ["evaluate", "predict", "finetune", "benchmark"])
def test_a_help_with_many_flags_is_in_groups_and_short(verb, capsys):
    text = said(capsys, VERBS[verb], "--help")
    groups = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert len(groups) >= 4
    assert len(text.splitlines()) < 50


@pytest.mark.parametrize("verb", ["report", "explain", "export"])
def test_a_help_with_few_flags_is_shorter(verb, capsys):
    assert len(said(capsys, VERBS[verb], "--help").splitlines()) < 45


@pytest.mark.parametrize("verb", ["tune", "train", "pretrain"])
def test_the_help_of_a_method_is_in_groups_a_line_or_two_for_each_setting(verb, capsys):
    text = said(capsys, VERBS[verb], "contrastive" if verb == "pretrain" else "adda", "--help")
    groups = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert len(groups) >= 7
    settings = sum(line.startswith("  --") for line in text.splitlines())
    assert len(text.splitlines()) < 3 * settings
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["simulat", "survey"], "unknown verb 'simulat' (did you mean simulate?)"),
        ([], "the verb is missing; known here: convert, describe"),
        (["simulate", "surve", "--out", "x"], "unknown preset 'surve' (did you mean survey?)"),
        (["simulate", "survey", "--out", "x", "--row", "5"], "unknown flag --row (did you mean --rows?)"),
        (["convert", "nowhere", "--out", "x"], "no such file or folder: nowhere"),
        (["describe", "nowhere"], "no data set at nowhere"),
    ],
)
def test_a_wrong_word_to_data_is_one_line_with_a_guess(words, told, capsys):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert told in line


@pytest.mark.parametrize(
    ("verb", "words", "told"),
    [
        ("evaluate", ["x", "--dat", "y"], "unknown flag --dat (did you mean --data?)"),
        ("evaluate", ["x", "--data=y", "--spilt=test"], "unknown flag --spilt (did you mean --split?)"),
        ("predict", ["a", "b", "--out", "c", "--prio", "1"], "unknown flag --prio (did you mean --prior?)"),
        ("finetune", ["x", "clasification"], "(did you mean classification?)"),
    ],
)
def test_a_flag_that_there_is_not_is_met_with_a_guess(verb, words, told):
    with pytest.raises(ConfigError) as refused:
        VERBS[verb](words)
    assert told in str(refused.value)


def test_a_pattern_that_no_encoder_has_is_an_error(capsys):
    assert models(["--match", "zzz*"]) == 2
    assert "'zzz*'" in capsys.readouterr().err
