"""What the verbs say of themselves, and of words that they do not know."""

from __future__ import annotations

import re
import shlex

import pytest

from raylens import cli, config, find
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


def groups(text: str) -> dict[str, list[str]]:
    """The flags of each group of a help, in a group's order."""
    found: dict[str, list[str]] = {}
    title = ""
    for line in text.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            title = line[:-1]
        elif line.startswith("  --"):
            found.setdefault(title, []).append(line.split()[0].rstrip(","))
    return found


@pytest.mark.parametrize("verb", ["explain", "report", "export"])
def test_a_help_says_first_what_a_verb_needs_and_groups_what_it_takes(verb, capsys):
    text = said(capsys, VERBS[verb], "--help")
    first = text.splitlines()[0]
    assert re.fullmatch(
        rf"usage: python -m raylens\.{verb}( [A-Z]+| \[[A-Z]+ \.\.\.\])+ --out DIR \[--FLAG VALUE \.\.\.\]",
        first,
    )
    assert groups(text)["options"] == ["--out"]
    places = {"--device": ("model", "models"), "--class": ("picture",), "--format": ("files",)}
    for flag, titles in places.items():
        assert all(title in titles for title, flags in groups(text).items() if flag in flags), flag


@pytest.mark.parametrize("method", find.names("methods"))
@pytest.mark.parametrize("verb", ["tune", "train"])
def test_the_help_of_a_method_has_its_settings_and_the_most_used_ones_on_a_page(verb, method, capsys):
    text = said(capsys, VERBS[verb], method, "--help")
    lines = text.rstrip().splitlines()
    assert len(lines) <= 75
    assert max(map(len, lines[:-1])) <= 110  # all but the example, which is to be copied
    assert len(groups(text)) >= 5
    listed = {flag for flags in groups(text).values() for flag in flags}
    assert {"--data.source", "--optimizer.lr", "--fit.steps", "--seed", "--help-all"} <= listed
    assert ("--search.trials" in listed) == (verb == "tune")
    known = config.settings(method, config.default_encoder(method))
    shorter = {path: short for short, path in cli.SHORT.items()}
    named = {path for path in known if path.startswith(("method.", "encoder."))} - {"method.name"}
    assert {shorter.get(path, path) for path in named} <= {flag[2:] for flag in listed}
    wrapped = sum(line.startswith(" " * 20) for line in lines)
    assert wrapped < len(listed) / 2


@pytest.mark.parametrize("verb", ["tune", "train", "pretrain"])
def test_all_settings_of_a_method_are_in_groups_a_line_or_two_for_each(verb, capsys):
    method = "contrastive" if verb == "pretrain" else "adda"
    text = said(capsys, VERBS[verb], method, "--help-all")
    assert len(groups(text)) >= 7
    settings = sum(line.startswith("  --") for line in text.splitlines())
    assert len(text.splitlines()) < 3 * settings
    assert max(map(len, text.splitlines())) <= 110
    assert example(text)[0] == f"raylens.{verb}"


@pytest.mark.parametrize("verb", ["tune", "train", "pretrain"])
@pytest.mark.parametrize("words", [[], ["--help"], ["--help-all"]])
def test_without_a_method_a_verb_says_what_it_does_and_lists_methods_by_what_they_learn(verb, words, capsys):
    text = said(capsys, VERBS[verb], *words)
    assert cli.ABOUT[verb] in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 110
    _, *parts = re.split(r"^(adaptation .*|pretraining .*):$", text, flags=re.MULTILINE)
    listed = {
        title.split()[0]: re.findall(r"^  (\w+)  ", part, re.MULTILINE)
        for title, part in zip(parts[::2], parts[1::2], strict=True)
    }
    for name in find.names("methods"):
        kind = "pretraining" if "pretraining" in find.method(name).tasks else "adaptation"
        for title, names in listed.items():
            assert (name in names) == (title == kind), name
    assert list(listed) == (["pretraining"] if verb == "pretrain" else ["adaptation", "pretraining"])


def test_what_is_too_long_for_a_line_of_a_help_is_its_first_part(capsys):
    assert "below which the encoder waits [0.55, searched" in said(capsys, tune, "adda", "--help")
    assert "below which the encoder waits; 0 never waits." in said(capsys, tune, "adda", "--help-all")


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
