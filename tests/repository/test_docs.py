"""The documentation builds, and says what the code does."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from raylens import cli, config, find
from raylens.errors import ConfigError
from raylens.metrics import METRICS
from raylens.space import Choice, LogUniform, Range

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
METHOD_PAGES = sorted({*(DOCS / "methods").glob("*.md")} - {DOCS / "methods" / "index.md"})
FENCED = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, code in FENCED.findall(page.read_text()) if kind == language]


def together() -> str:
    return "\n".join(page.read_text() for page in PAGES)


def test_the_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "NO_MKDOCS_2_WARNING": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.strip()) == (0, "")
    assert not list((tmp_path / "site").rglob("__pycache__"))  # of the hook, which Python compiles in docs/
    page = (tmp_path / "site" / "methods" / "adda" / "index.html").read_text()
    assert "<math" in page
    assert "arithmatex" not in page
    for shown in (tmp_path / "site").rglob("*.html"):
        drawn = "".join(re.findall(r"<math.*?</math>", shown.read_text()))
        assert "\\" not in drawn, shown  # a command of TeX that was not understood
        fetched = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', shown.read_text())
        assert not fetched, shown
    assert "raylens.checkpoint.read" in (tmp_path / "site" / "api" / "index.html").read_text()


def test_every_method_has_a_page_of_its_own_with_the_same_parts():
    assert [page.stem for page in METHOD_PAGES] == find.names("methods")
    for page in METHOD_PAGES:
        text = page.read_text()
        assert text.startswith(f"# {page.stem}\n")
        headings = re.findall(r"^## (.*)", text, re.MULTILINE)
        assert len(headings) == 6, page
        assert headings[:3] == ["Formula", "Settings", "What to watch"]
        assert re.fullmatch("Differences from (the paper|the papers|a paper)", headings[3]), page
        parts = re.split(r"^## .*$", text, flags=re.MULTILINE)
        assert all(part.strip() for part in parts), page
        assert headings[4:] == ["Results", "When to pick it"]
        arxiv = set(re.findall(r"\d{4}\.\d{5}", sys.modules[find.method(page.stem).__module__].__doc__))
        assert not arxiv or arxiv & set(re.findall(r"\d{4}\.\d{5}", text)), page


@pytest.mark.parametrize("folder", ["methods", "validators", "models", "tasks"])
def test_every_name_is_mentioned(folder):
    text = together().replace("super-resolution", "super_resolution")
    assert not [name for name in find.names(folder) if not re.search(rf"\b{name}\b", text)]


def test_every_metric_is_explained_as_in_the_code():
    text = (DOCS / "metrics.md").read_text()
    for name, metric in METRICS.items():
        assert f"| `{name}` | {metric.meaning} | {metric.source} |".replace("|y - p|", "") in text.replace(
            "&#124;", "|"
        ), name


@pytest.mark.parametrize("page", METHOD_PAGES, ids=lambda page: page.stem)
def test_settings_have_the_defaults_and_ranges_that_a_page_tells(page):
    known = config.settings(page.stem, config.default_encoder(page.stem))
    rows = re.findall(
        r"^\| `([a-z_]+\.[a-z_]+)` \| (.*?) \| (.*?) \| (.*) \|$", page.read_text(), re.MULTILINE
    )
    assert rows
    for path, default, searched, meaning in rows:
        assert (default, searched) == (number(known[path].default), span(known[path].range)), path
        assert meaning == " ".join(known[path].meaning.split()), path


def number(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def span(of: Range | None) -> str:
    if of is None:
        return "not searched"
    if isinstance(of, Choice):
        *first, last = map(number, of.values)
        return f"{', '.join(first)} or {last}"
    return f"{float(of.low):g} to {float(of.high):g}{', log' if isinstance(of, LogUniform) else ''}"


@pytest.mark.parametrize("page", METHOD_PAGES, ids=lambda page: page.stem)
def test_what_a_page_calls_reported_is_reported(page):
    """Its monitors and terms are in the method's file, or are every method's."""
    source = "".join(path.read_text() for path in (ROOT / "raylens").rglob("*.py"))
    own = Path(sys.modules[find.method(page.stem).__module__].__file__).read_text()
    base = (ROOT / "raylens" / "methods" / "base.py").read_text()
    for name in re.findall(r"`monitor/([a-z_]+)`", page.read_text()):
        assert f'"{name}"' in own + base or f"monitor/{name}" in source, name
    for name in re.findall(r"`loss/([a-z_]+)`", page.read_text()):
        assert f'"{name}"' in own, name


def test_no_figure_is_told_that_the_results_do_not_have():
    told = "".join((DOCS / page).read_text() for page in ("results.md", "earlier-results.md"))
    measured = " ".join(told.replace("**", "").split())
    pattern = re.compile(r"[+-]?\d\.\d+ \[[+-]?\d\.\d+,\s+[+-]?\d\.\d+\]")
    for page in METHOD_PAGES:
        for figure in pattern.findall(" ".join(page.read_text().split())):
            assert figure in measured, (page.name, figure)


@cache
def messages() -> list[tuple[re.Pattern, int]]:
    """What raylens may print: every text in its source, its values as wildcards, and how many letters are fixed."""
    found = []
    for path in (ROOT / "raylens").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            fixed = [part.value if isinstance(part, ast.Constant) else None for part in parts]
            if all(part is None or isinstance(part, str) for part in fixed):
                pattern = "".join(".*?" if part is None else re.escape(part) for part in fixed)
                found.append((re.compile(pattern), sum(len(part or "") for part in fixed)))
    return found


def printed(line: str) -> bool:
    """Whether raylens prints such a line: of what it says, a fifth at least is fixed."""
    line = line.removeprefix("collapsed: ").removeprefix("not released: ")
    return any(5 * letters >= len(line) and pattern.fullmatch(line) for pattern, letters in messages())


def test_a_line_that_raylens_does_not_print_is_found_out():
    assert printed("--fit.steps needs a value, optimizer steps")
    assert not printed("the discriminator has gone home")
    assert not printed("shards/sky has 1 channel(s) of 64 x 64, shards/sim 1 of 32 x 32; set data.size")


@pytest.mark.parametrize("line", "".join(blocks(DOCS / "troubleshooting.md", "text")).splitlines())
def test_a_quoted_message_is_one_that_raylens_prints(line):
    assert printed(line)


@pytest.mark.parametrize("page", METHOD_PAGES, ids=lambda page: page.stem)
def test_a_quoted_warning_is_one_that_raylens_prints(page):
    source = "".join(path.read_text() for path in (ROOT / "raylens").rglob("*.py"))
    for line in page.read_text().splitlines():
        for quoted in re.findall(r'"([^"]+)"', line if line.startswith("|") else ""):
            assert quoted in source


def test_the_method_of_the_page_is_found_and_learns(tmp_path, monkeypatch):
    """The block of docs/add-a-method.md, as a file in the folder where methods are looked for."""
    import raylens.methods
    from raylens.checkpoint import Facts, build_model
    from raylens.records import Images

    (code,) = blocks(DOCS / "add-a-method.md", "python")
    (tmp_path / "coral.py").write_text(code)
    monkeypatch.setattr(raylens.methods, "__path__", [*raylens.methods.__path__, str(tmp_path)])
    monkeypatch.setattr(raylens.methods, "coral", None, raising=False)
    try:
        assert "coral" in find.names("methods")
        words = ["coral", "--encoder.width", "4", "--encoder.features", "8", "--method.weight", "2"]
        run = cli.run("tune", words)
        facts = Facts(("nonlens", "lens"), channels=1, size=32, manifests={})
        torch.manual_seed(0)
        method = find.method("coral")(run.method, build_model(run, facts), facts.task(run.task))
        pixels = torch.rand(2, 16, 1, 32, 32)
        source = Images({"view": pixels[0]}, torch.arange(16) % 2)
        losses = method({"source": source, "target": Images({"view": 3 * pixels[1]})}, progress=0.5)
        losses.total.backward()
        assert losses.terms["covariance"] == 2 * losses.monitors["covariance"]
        assert all(parameter.grad is not None for parameter in method.parameters())
        assert {"method.weight", "optimizer.lr"} <= config.space(cli.run("tune", ["coral"])).keys()
    finally:
        sys.modules.pop("raylens.methods.coral", None)


def test_the_readme_is_short_and_links_to_what_a_newcomer_reads_next():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 150
    links = re.findall(r"(?<!!)\[[^\]]+\]\((?!https?://)([^)#]+)", text)
    assert all((ROOT / link).exists() for link in links)
    pages = (
        "tutorial",
        "first-hour",
        "own-data",
        "methods/index",
        "troubleshooting",
        "add-a-method",
        "results",
    )
    assert {f"docs/{page}.md" for page in pages} <= {*links}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_tells_no_machine_and_its_pictures_are_there(page):
    text = page.read_text()
    assert "/work/" not in text
    assert "/tmp/h_" not in text
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert (page.parent / picture).is_file(), picture
    for link in re.findall(r"(?<!!)\[[^\]]+\]\((?!https?://)([^)#]+)", text):
        assert (page.parent / link).exists(), link


def commands() -> list[tuple[str, str]]:
    """Every command line of raylens in the documentation and the README: its verb, and the rest."""
    found = []
    for page in (*PAGES, ROOT / "README.md", ROOT / "jobs" / "README.md"):
        text = page.read_text().replace("\\\n", " ")
        for verb, words in re.findall(r"^    .*?python -m raylens\.(\w+) ?(.*)$", text, re.MULTILINE):
            found.append((verb, re.sub(r"\s+#.*", "", words)))
    return list(dict.fromkeys(found))


@pytest.mark.parametrize(("verb", "words"), commands())
def test_a_command_is_understood(verb, words, tmp_path, monkeypatch):
    """A run is made of it; or it is refused for the checkpoint or run that is not there, and for nothing else."""
    from raylens.data.__main__ import parser
    from raylens.models.__main__ import main as models

    given = shlex.split(words.replace("...", ""))
    if "--resume" in given or "coral" in given:
        pytest.skip("of a run, or of a method, that the reader is to make first")
    if verb == "data":
        parser().parse_args(given)
    elif verb in ("tune", "train", "pretrain"):
        monkeypatch.chdir(ROOT)
        assert cli.run(verb, given)
    elif verb == "benchmark":
        monkeypatch.chdir(ROOT)
        assert cli.grid(given)
    elif verb == "models":
        assert models(given) == 0
    else:
        monkeypatch.chdir(tmp_path)
        act = getattr(importlib.import_module(f"raylens.{verb}"), verb)
        with pytest.raises(ConfigError, match=re.escape(given[0])):
            act(given)


def test_commands_of_every_verb_are_in_the_documentation():
    said = {verb for verb, _ in commands()}
    assert said >= {"data", "tune", "pretrain", "finetune", "benchmark", "evaluate", "predict"}
    assert said >= {"report", "explain", "export"}
