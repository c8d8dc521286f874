"""Names: what is there, what is not, and what belongs to somebody else."""

import pytest

from raylens import find
from raylens.errors import ConfigError
from raylens.methods.base import Method

FOREIGN = """
from raylens.methods.supervised import Supervised

class Theirs(Supervised):
    '''A method from elsewhere.'''

class Other:
    pass
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "theirpackage").mkdir()
    (tmp_path / "theirpackage" / "__init__.py").write_text("")
    (tmp_path / "theirpackage" / "method.py").write_text(FOREIGN)
    (tmp_path / "theirpackage" / "needy.py").write_text("import surely_not_installed")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("folder", ["methods", "models", "tasks", "validators"])
def test_names_are_the_files_of_a_folder(folder):
    found = find.names(folder)
    assert found == sorted(found)
    assert "base" not in found
    assert not [name for name in found if name.startswith("_")]


def test_each_name_carries_what_it_should():
    for name in find.names("methods"):
        assert issubclass(find.method(name), Method)
        assert find.method(name).Config().name == name
    for name in find.names("tasks"):
        assert find.task(name)(("a", "b")).classes == ("a", "b")
    for name in find.names("validators"):
        assert callable(find.validator(name))
    for name in find.names("models"):
        assert find.encoder(name).Encoder


@pytest.mark.parametrize(
    ("kind", "name", "guess"),
    [
        (find.method, "ada", "adda"),
        (find.method, "base", None),
        (find.method, "", None),
        (find.task, "clasification", "classification"),
        (find.validator, "sndd", "snd"),
        (find.validator, "_domains", None),
    ],
)
def test_an_unknown_name_is_one_line_with_a_guess(kind, name, guess):
    with pytest.raises(ConfigError) as refused:
        kind(name)
    message = str(refused.value)
    assert message.startswith(f"unknown {kind.__name__} {name!r}")
    assert "known here: " in message
    assert "\n" not in message
    assert guess is None or f"(did you mean {guess}?)" in message


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("wieght", ["gate", "hidden", "source_weight"], "source_weight"),
        ("weight", ["target_weight", "weights"], "weights"),
        ("--frozn", ["--labels", "--frozen"], "--frozen"),
        ("knd", ["kind", "ring"], "kind"),
        ("--x", ["--labels", "--frozen"], None),
        ("anything", [], None),
    ],
)
def test_the_nearest_name_is_like_it_as_a_whole_or_in_a_word(name, known, meant):
    assert find.nearest(name, known) == meant


def test_a_misspelled_name_that_others_use_is_understood():
    assert find.guess("mean_techer", ["adda", "self_ensembling"]) == " (did you mean self_ensembling?)"


def test_a_name_with_no_file_of_its_own_is_timms():
    assert find.encoder("resnet34").__name__ == "raylens.models.timm"
    assert find.encoder("small").__name__ == "raylens.models.small"


def test_somebody_elses_method_is_found_by_module_and_class(package):
    assert find.method("theirpackage.method:Theirs").__name__ == "Theirs"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("theirpackage.method:Other", "is no Method"),
        ("theirpackage.method:Nobody", "is no Method"),
        ("theirpackage.nothing:Theirs", "there is no module 'theirpackage.nothing'"),
        ("nowhere.at.all:Theirs", "there is no module 'nowhere.at.all'"),
        (":Theirs", "there is no module ''"),
    ],
)
def test_a_foreign_name_that_does_not_fit_is_refused(package, name, said):
    with pytest.raises(ConfigError, match=said):
        find.method(name)


def test_what_a_foreign_module_misses_is_not_hidden(package):
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        find.method("theirpackage.needy:Theirs")
