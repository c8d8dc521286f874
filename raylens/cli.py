"""The command line -> a Run. Flags are the settings' dotted paths; help comes from the fields' docstrings."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import yaml

from raylens import config, find
from raylens import grid as grids
from raylens.config import Run
from raylens.errors import ConfigError, RequestError
from raylens.grid import Grid
from raylens.space import Choice, LogUniform, Range
from raylens.storage import exists

if TYPE_CHECKING:
    from raylens.checkpoint import Checkpoint
    from raylens.data.pieces import Reader


RAISED = re.compile(r"([\w.]+\.)?(\w+): (.+)")
"""The line of a trace that says what was raised."""


WIDTH, HELP_AT = 110, 34
"""Of a help: the length of its lines, and where in them the meaning of a flag starts."""


class Layout(argparse.HelpFormatter):
    """Wraps what a help says, and leaves commands, which are indented, on their lines."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=HELP_AT, width=WIDTH)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(
            line if line.startswith("    ") else textwrap.fill(line, width) for line in text.splitlines()
        )


SHORT = {
    "oracle": "search.oracle",
    "task": "task.name",
    "target-prior": "method.target_prior",
    "encoder": "encoder.name",
}
"""Settings that may be named without their section."""


USUAL = {
    "task.name",
    *(f"data.{name}" for name in ("source", "target", "test", "bands", "transform", "batch", "labels")),
    *("optimizer.lr", "fit.steps", "fit.report_every", "fit.precision", "scale.workers", "scale.gpus"),
    *(f"search.{name}" for name in ("trials", "scheduler", "validator", "oracle")),
}
"""What a help shows, beside the settings of method, encoder and run, that does not show all."""
TOGETHER = dict.fromkeys(("task", "optimizer", "fit", "scale"), "training")
"""Sections that are one group there."""
ABOUT = {
    "tune": "Search a method's settings on Ray, keep the best trials, and release a model that was chosen without "
    "target labels.",
    "train": "Train a method once, with the settings that are given, on one worker or several.",
    "pretrain": "Pretrain an encoder once, on images without labels, on one worker or several.",
}
PRETRAINING = "pretraining on images without labels"


class Parser(argparse.ArgumentParser):
    """Refuses in one line, and guesses what a flag that it does not know was meant to be."""

    def __init__(self, *, example: str | None = None, **settings: Any) -> None:
        settings = {"formatter_class": Layout, "allow_abbrev": False, **settings}
        if example:
            settings["epilog"] = "\n".join(filter(None, [settings.get("epilog"), f"Example:\n    {example}"]))
        super().__init__(**settings)

    def error(self, message: str) -> None:
        raise ConfigError(message)

    @property
    def flags(self) -> list[str]:
        """The long names of what it knows."""
        return [flag for flag in self._option_string_actions if flag.startswith("--")]

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:
        """As ArgumentParser's, which would tell what is missing before what is misspelled."""
        self.refuse_unknown(sys.argv[1:] if args is None else args)
        return super().parse_args(args, namespace)

    def refuse_unknown(self, words: Sequence[str]) -> None:
        """Raises ConfigError for a word that looks like a flag and is none, and for a verb that there is not."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                return _refuse_verb(action.choices, words)
        for before, word in zip(("", *words), words, strict=False):
            flag, equals, value = word.partition("=")
            if not word.strip() or (flag in self.flags and equals and not value):
                name = flag or (before if before in self.flags else "an argument")
                raise ConfigError(f"{name} was given nothing; give a value, or leave it out")
            if flag.startswith("--") and flag != "--" and flag not in self.flags:
                hint = find.guess(flag, self.flags)
                raise ConfigError(f"unknown flag {flag}{hint}; {self.prog} --help lists all")
        return None


def _refuse_verb(verbs: Mapping[str, Parser], words: Sequence[str]) -> None:
    first = words[0] if words else ""
    if first in verbs:
        verbs[first].refuse_unknown(words[1:])
    elif first not in ("-h", "--help"):
        given = f"unknown verb {first!r}{find.guess(first, list(verbs))}" if first else "the verb is missing"
        raise ConfigError(f"{given}; known here: {', '.join(verbs)}")


def main(act: Callable[[Sequence[str]], str | None]) -> None:
    """Run a verb: prints what it returns, the path of what was made, last. Exits 0, 1 or 2."""
    with guarded("stopped; the same command goes on from the last checkpoints"):
        made = act(sys.argv[1:])
    if made:
        _leave()
        print(made)


@contextmanager
def guarded(stopped: str = "stopped") -> Iterator[None]:
    """What goes wrong inside is one line, and ends the process: with 2 a bad request, with 1 all else, stopped 130."""
    signal.signal(signal.SIGTERM, _stopped)
    sys.unraisablehook = _unraisable
    try:
        yield
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # a second one would leave Ray half shut down, and hang
        _leave()
        print(stopped, file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("RAYLENS_TRACEBACK"):
            raise
        _leave()
        print(f"failed: {reason(error)} (RAYLENS_TRACEBACK=1 shows where)", file=sys.stderr)
        sys.exit(1)


def reason(error: BaseException) -> str:
    """What went wrong, in a line; Ray's errors hold it among the traces of all processes on the way."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    raised = [found for line in lines if (found := RAISED.match(line)) and found[1] != "ray.exceptions."]
    if not hasattr(error, "cause") or not raised:
        return lines[0]
    module, kind, text = raised[-1].groups()
    return text if module and module.startswith("raylens.") else f"{kind}: {text}"


def _leave() -> None:
    """Leave Ray, if it was reached, so that what its workers still say comes before our last line."""
    if launch := sys.modules.get("raylens.cluster.launch"):
        launch.leave()


def run(verb: str, argv: Sequence[str]) -> Run | None:
    """The Run that `python -m raylens.<verb> METHOD ...` asks for; None when it asked for a list. Raises ConfigError.

    Later wins: defaults, what the method suggests, --from, flags. --resume takes a run's folder in place of all.
    """
    about = f"python -m raylens.{verb}"
    first = Parser(prog=about, add_help=False)
    first.add_argument("--from", dest="file")
    first.add_argument("--resume")
    first.add_argument("--encoder", "--encoder.name", dest="encoder")
    first.add_argument("-h", "--help", action="store_true")
    first.add_argument("--help-all", action="store_true")
    # The method is the first word; left to argparse, a flag's value could be taken for it.
    named = argv[0] if argv and not argv[0].startswith("-") else None
    asked, rest = first.parse_known_args(argv[1:] if named else argv)
    if asked.resume:
        given = {"--from": asked.file, "--encoder": asked.encoder}
        return _resumed(asked.resume, named, [*(flag for flag, value in given.items() if value), *rest])
    layers = [(config.read(asked.file), asked.file)] if asked.file else []
    if named is None and not layers:
        if rest:
            flag = rest[0].partition("=")[0]
            if flag.startswith("--") and (meant := find.nearest(flag, first.flags)):
                raise ConfigError(f"unknown flag {flag} (did you mean {meant}?); {about} --help lists all")
            raise ConfigError(f"the method comes first: {about} METHOD {' '.join(argv)}")
        print(_methods(verb))
        return None
    if named is not None:
        layers.append(({"method.name": named}, "the command line"))
    if asked.encoder is not None:
        layers.append(({"encoder.name": asked.encoder}, "the command line"))
    together = {path: value for values, _ in layers for path, value in values.items()}
    if "method.name" not in together:
        raise ConfigError(f"{asked.file} names no method; give one: {', '.join(find.names('methods'))}")
    method = str(together["method.name"])
    encoder = str(together.get("encoder.name", config.default_encoder(method)))
    known = config.settings(method, encoder)
    if asked.help or asked.help_all:
        print(_parser(verb, method, known, whole=asked.help_all).format_help())
        return None
    layers.append((flags(rest, known, first.flags), "the command line"))
    made = config.build(*layers)
    given = {path for values, _ in layers for path in values}
    return config.hold(made, given) if verb == "tune" else made


def grid(argv: Sequence[str]) -> Grid | None:
    """The Grid that `python -m raylens.benchmark ...` asks for; None when it asked for help. Raises ConfigError."""
    about = "python -m raylens.benchmark"
    parser = Parser(
        example=f"{about} --methods adda mcc --encoders small ecnn --seeds 0 1 2",
        prog=about,
        description=(
            "Train every method with every encoder and seed, as one search on Ray, choose in each cell without target "
            "labels, and write what the choices are worth beside the model that was never adapted, and what the "
            "choosing gave away: table.md, table.csv, table.png, regret.md, trials.csv."
        ),
        epilog=(
            "Other settings, as of raylens.tune, are those of all cells that know them: --fit.steps 400, "
            "--search.trials 4, --target-prior 0.01."
        ),
        usage=f"{about} [--FLAG VALUE ...] [--SETTING VALUE ...]",
    )
    files = parser.add_argument_group("where the settings come from")
    files.add_argument("--from", dest="file", metavar="FILE", help="benchmark file, YAML; flags win")
    files.add_argument(
        "--resume", metavar="RUN", help="folder of a benchmark to go on with, with its settings"
    )
    compared = parser.add_argument_group("what is compared")
    compared.add_argument("--methods", nargs="+", metavar="METHOD", help=f"[{' '.join(grids.adaptations())}]")
    compared.add_argument(
        "--encoders", nargs="+", metavar="ENCODER", help="python -m raylens.models lists them [small]"
    )
    compared.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="[0 1 2]")
    compared.add_argument(
        "--where",
        nargs="+",
        metavar="COLUMN=VALUE[,VALUE...]",
        help="parts of the target's test split to measure each by itself",
    )
    if any(word in ("-h", "--help") for word in argv):
        print(parser.format_help())
        return None
    asked, rest = parser.parse_known_args(argv)
    if asked.resume:
        given = [f"--{name}" for name in ("from", *grids.OWN) if getattr(asked, name, asked.file)] + rest
        if given:
            raise ConfigError(
                f"--resume takes all settings from {asked.resume}; {given[0]} cannot be changed"
            )
        folder = asked.resume.rstrip("/")
        storage, _, name = folder.rpartition("/")
        if not exists(f"{folder}/grid.yaml"):
            raise ConfigError(f"{asked.resume} is no benchmark to resume: it has no grid.yaml")
        file = (config.written(f"{folder}/grid.yaml"), f"{folder}/grid.yaml")
        return grids.build(file, ({"storage": storage or ".", "name": name}, "--resume"))
    layers = [(config.written(asked.file), asked.file)] if asked.file else []
    own = {name: getattr(asked, name) for name in grids.OWN}
    known = {
        path: setting
        for method in find.names("methods")
        for path, setting in config.settings(method, "small").items()
    }
    return grids.build(*layers, ({**own, **flags(rest, known, parser.flags)}, "the command line"))


def model(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint that a verb is about."""
    parser.add_argument("checkpoint", help="folder of a checkpoint, such as runs/<name>/best")


def more(group: argparse._ActionsContainer) -> None:
    """Add the flag that makes an ensemble of the checkpoint and others; see checkpoint.together."""
    group.add_argument(
        "--checkpoint",
        dest="more",
        nargs="+",
        default=[],
        metavar="DIR",
        help="more checkpoints: an ensemble",
    )


def dihedral(group: argparse._ActionsContainer) -> None:
    """Add the flag that averages what a model says over the turns and mirrors of each image; see models.Turned."""
    group.add_argument(
        "--dihedral",
        action="store_true",
        help="mean over each image's eight turns and mirrors: better, at eight times the work",
    )


def device(group: argparse._ActionsContainer) -> None:
    """Add the flag that says where a verb runs its models; see measure.resolved."""
    group.add_argument(
        "--device", default="auto", choices=["auto", "cpu", "cuda"], help="where models run [auto]"
    )


def images(parser: argparse.ArgumentParser) -> None:
    """Add the images that are given to a checkpoint, and what is taken of them; see `reader`."""
    parser.add_argument(
        "images", help="shard set, folder, table of paths or file, as raylens.data convert reads them"
    )
    taken = parser.add_argument_group("images")
    taken.add_argument("--split", help="of a shard set [all]")
    taken.add_argument(
        "--bands", default="", help="bands to take, numbers in the order of the model, such as 0,1,2"
    )
    taken.add_argument("--crop", type=int, help="middle of each image to take, pixels")
    taken.add_argument("--resize", action="store_true", help="scale images to the size that the model takes")
    kept(parser)


def kept(parser: argparse.ArgumentParser) -> Callable[..., Any]:
    """Add what tells how to read files that do not tell it themselves; returns what adds more of it."""
    add = parser.add_argument_group("where a file keeps what").add_argument
    add("--pixels-key", metavar="KEY", help="array with the images, in .npz and .h5")
    add(
        "--hdu",
        type=words,
        default=(),
        metavar="HDUS",
        help="FITS image HDUs to take as bands, by number or name: 1,3,5",
    )
    add("--path-column", default="path", metavar="COLUMN", help="column of a table of paths [path]")
    add(
        "--masked",
        type=float,
        metavar="VALUE",
        help="value of pixels that were not seen, such as 0 or nan; they take others of their band, at random",
    )
    return add


def words(text: str) -> tuple[str, ...]:
    """`1,3,5` as its parts."""
    return tuple(part for part in text.split(",") if part) if "," in text or text.isdigit() else (text,)


def reader(asked: argparse.Namespace, found: Checkpoint) -> Reader:
    """Reads images as the checkpoint wants them, and as the flags of `images` say. Raises ConfigError."""
    from raylens.data.convert import Shape
    from raylens.data.formats import Options
    from raylens.data.pieces import Reader

    if asked.bands and not re.fullmatch(r"[0-9]+(,[0-9]+)*", asked.bands):
        raise ConfigError(f"--bands {asked.bands!r} is no list of numbers; give such as 0,1,2")
    if asked.crop is not None and asked.crop < 2:
        raise ConfigError(f"--crop {asked.crop} is no size of an image in pixels; give 2 or more")
    facts = found.facts
    shape = Shape(
        bands=tuple(int(band) for band in asked.bands.split(",")) if asked.bands else None,
        crop=asked.crop,
        size=facts.size if asked.resize else None,
        masked=asked.masked,
        expected=(facts.channels, facts.size, facts.size),
        names=facts.bands,
    )
    options = Options(pixels_key=asked.pixels_key, hdu=asked.hdu, path_column=asked.path_column)
    return Reader(shape, found.run.data.transform, options)


def flags(rest: Sequence[str], known: dict[str, config.Setting], own: Sequence[str] = ()) -> dict[str, Any]:
    """Settings by path, of words `--a.b value`, `--a.b=value`, or `--a.b` alone for true. Raises ConfigError.

    What is no setting is left to those who know where settings belong, unless one of the verb's `own` flags is meant.
    """
    own = [*own, *(f"--{short}" for short in SHORT)]
    given: dict[str, Any] = {}
    words = list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise ConfigError(
                f"{word!r} on the command line belongs to no setting; settings look like --fit.steps 100"
            )
        name, equals, value = word[2:].partition("=")
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("--") else "true"
        if not value.strip():
            raise ConfigError(f"--{name} was given nothing; give a value, or null for none")
        path = "data.prior" if (name, value) == ("target-prior", "estimate") else SHORT.get(name, name)
        if path not in known and str(config.nearest(path, known, own)).startswith("--"):
            raise ConfigError(config.unknown(path, "the command line", known, own))
        if value == "true" and path in known and not equals and bool not in config.kinds(known[path].type):
            raise ConfigError(f"--{name} needs a value, {known[path].meaning.lower()}")
        try:
            given[path] = yaml.safe_load(value)
        except yaml.YAMLError:
            given[path] = value
        if path in known and str in config.kinds(known[path].type) and given[path] is not None:
            given[path] = value  # a folder called 2026-01-01 is no date
        if name == "target-prior" and path != "data.prior":
            given.setdefault("data.prior", "given")  # whatever a run file says
    return given


def _parser(
    verb: str, method: str, known: dict[str, config.Setting], *, whole: bool
) -> argparse.ArgumentParser:
    """What tells of a method and its settings: of the most used ones in a line each, or of the `whole`."""
    about = f"python -m raylens.{verb}"
    doc = _doc(method) if whole else _doc(method).partition("\n\nDiffers ")[0]
    listed = {path: setting for path, setting in known.items() if whole or _usual(verb, path)}
    parser = Parser(
        prog=f"{about} {method}",
        description="\n\n".join(textwrap.fill(part, WIDTH) for part in doc.split("\n\n")),
        epilog="raylens.tune searches a setting with a range unless a value is given; search.space sets ranges.",
        example=_example(verb, method),
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=HELP_AT, width=WIDTH
        ),
        usage=f"{about} {method} [--from FILE] [--resume RUN] [--SETTING VALUE ...]",
        add_help=False,
    )
    files = parser.add_argument_group("where the settings come from")
    files.add_argument("--from", metavar="FILE", help="run file, YAML; later settings win")
    files.add_argument("--resume", metavar="RUN", help="folder of a run to go on with, with its settings")
    if not whole:
        rest = f"list the other {len(known) - len(listed)} settings too, and say all about each"
        files.add_argument("--help-all", action="store_true", help=rest)
    groups = {}
    for path, setting in listed.items():
        head = path.partition(".")[0] if "." in path else "run"
        title = head if whole else TOGETHER.get(head, head)
        group = groups.setdefault(title, parser.add_argument_group(title))
        names = [*(f"--{short}" for short, full in SHORT.items() if full == path), f"--{path}"]
        text = _told(setting, within=None if whole else WIDTH - HELP_AT)
        group.add_argument(
            *(names if whole else names[:1]), metavar=_type(setting.type), help=text.replace("%", "%%")
        )
    return parser


def _doc(method: str) -> str:
    """What the method's file says of it."""
    return (sys.modules[find.method(method).__module__].__doc__ or "").strip()


def _usual(verb: str, path: str) -> bool:
    """Whether a help that is not the whole shows a setting."""
    head = path.partition(".")[0]
    if path == "method.name" or (head == "search" and verb != "tune"):
        return False
    return head in ("method", "encoder") or "." not in path or path in USUAL


def _told(setting: config.Setting, within: int | None) -> str:
    """A setting's meaning, default and range; of a meaning that is too long the first part, up to a semicolon."""
    facts = [] if setting.default in (None, {}) else [_brief(setting.default)]
    facts += [f"searched {_span(setting.range)}"] if setting.range else []
    end = f" [{', '.join(facts)}]" if facts else ""
    meaning = " ".join(setting.meaning.split())
    if within is not None and len(meaning + end) > within:
        meaning = re.split(r"[;.] ", meaning)[0]
    return (meaning if within is None else meaning.rstrip(".")) + end


def _span(of: Range) -> str:
    """A range in words: `3e-06 to 5e-05, log`."""
    if isinstance(of, Choice):
        *first, last = map(_brief, of.values)
        return f"{', '.join(first)} or {last}"
    return f"{_brief(of.low)} to {_brief(of.high)}{', log' if isinstance(of, LogUniform) else ''}"


def _example(verb: str, method: str) -> str:
    """A command that runs as it stands, with simulated images where the method does not need others."""
    steps = "--search.trials 4 --fit.steps 300" if verb == "tune" else "--fit.steps 300"
    source = " --data.source shards/model-i" if "pretraining" in find.method(method).tasks else ""
    return f"python -m raylens.{verb} {method}{source} {steps} --name first"


def _methods(verb: str) -> str:
    """What a verb does, and the methods that it takes, by what they learn."""
    about = f"python -m raylens.{verb}"
    lines = [
        f"usage: {about} METHOD [--from FILE] [--resume RUN] [--SETTING VALUE ...]",
        "",
        *textwrap.wrap(f"{ABOUT[verb]} METHOD --help lists a method's settings.", WIDTH),
    ]
    for title, pretraining in (("adaptation to a target without labels", False), (PRETRAINING, True)):
        held = [
            name
            for name in find.names("methods")
            if ("pretraining" in find.method(name).tasks) == pretraining
        ]
        if verb == "pretrain" and not pretraining:
            continue
        lines += ["", f"{title}:"]
        for name in held:
            lines += textwrap.wrap(
                f"{name:<17} {_doc(name).splitlines()[0]}",
                WIDTH,
                initial_indent="  ",
                subsequent_indent=20 * " ",
            )
    return "\n".join(
        [*lines, "", "Example:", f"    {_example(verb, 'contrastive' if verb == 'pretrain' else 'adda')}"]
    )


def _resumed(path: str, method: str | None, rest: Sequence[str]) -> Run:
    if rest:
        raise ConfigError(f"--resume takes all settings from {path}; {rest[0]} cannot be changed on the way")
    folder = path.rstrip("/")
    if not exists(f"{folder}/run.yaml"):
        raise ConfigError(f"{path} is no run to resume: it has no run.yaml")
    settings = config.read(f"{folder}/run.yaml")
    if exists(f"{folder}/model.safetensors"):
        raise ConfigError(f"{path} is a checkpoint; --resume takes the run's folder, above it")
    storage, _, name = folder.rpartition("/")
    run = config.build((settings, f"{folder}/run.yaml"), {"storage": storage or ".", "name": name})
    if method not in (None, run.method.name):
        raise ConfigError(f"{path} is a run of {run.method.name}, not of {method}")
    return run


def _type(hint: Any) -> str:
    named = [
        kind.__name__.upper()
        for kind in config.kinds(hint)
        if isinstance(kind, type) and kind is not type(None)
    ]
    literal = [str(kind) for kind in config.kinds(hint) if isinstance(kind, str)]
    return "{" + ",".join(sorted(literal)) + "}" if literal else (named[0] if named else "VALUE")


def _brief(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple | list):
        return ", ".join(map(_brief, value))
    return (
        str(value)
        if isinstance(value, str)
        else yaml.safe_dump(value, default_flow_style=True).split("\n")[0]
    )


def _stopped(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _unraisable(what: Any) -> None:
    """A stop that came where Python raises nothing, in the callback of a weak reference, comes again in a moment."""
    if isinstance(what.exc_value, KeyboardInterrupt):
        signal.signal(signal.SIGALRM, _stopped)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
    else:
        sys.__unraisablehook__(what)
