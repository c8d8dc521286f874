"""`python -m raylens.data convert | describe | check | simulate | resolve`."""

import argparse
import inspect
import math
import shlex
import sys
from collections.abc import Callable
from typing import Any

from raylens.cli import Parser, guarded, kept, words
from raylens.errors import ConfigError, DataError, RequestError


def pairs(text: str, kind: type = str) -> dict:
    """`a=1,b=2` as a dict; a name alone is its own value."""
    try:
        return {
            key: kind(value or key)
            for key, _, value in (part.partition("=") for part in text.split(",") if part)
        }
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not like train=0.7,val=0.15,test=0.15") from error


def fractions(text: str) -> dict[str, float]:
    found = pairs(text, float)
    if not (abs(sum(found.values()) - 1) <= 1e-6 and min(found.values()) >= 0):  # nan compares with nothing
        raise argparse.ArgumentTypeError(f"{text!r} does not sum to 1")
    return found


def numbers(text: str) -> tuple[float, ...]:
    """`0.7,3` as numbers."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 0.7,3") from error


def bands(text: str) -> tuple[str, ...]:
    return tuple(text) if text.isalpha() and "," not in text else words(text)


CONVERT = "python -m raylens.data convert cutouts/ --bands gri --size 64 --domain target --out shards/sky"
DESCRIBE = "python -m raylens.data describe shards/source shards/sky --views adda --out pictures"
CHECK = "python -m raylens.data check shards/source shards/sky"
SIMULATE = "python -m raylens.data simulate survey --rows 10000 --bands gri --out shards/survey"
RESOLVE = "python -m raylens.data resolve runs/NAME/best shards/pairs --out shards/painted"


def parser() -> argparse.ArgumentParser:
    top = Parser(
        prog="python -m raylens.data",
        description="Make, look at and check data sets. VERB --help lists the flags of each.",
        usage="python -m raylens.data VERB ...",
        example=SIMULATE,
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB", title="verbs")

    def adds(name: str, about: str, words: str, example: str) -> Parser:
        """A verb with its help, whose first words are what it needs."""
        prog = f"python -m raylens.data {name}"
        usage = f"{prog} {words} [--FLAG VALUE ...]"
        said = f"{about[0].upper()}{about[1:]}."
        return verbs.add_parser(name, prog=prog, usage=usage, help=about, description=said, example=example)

    for flags in (convert_flags, describe_flags, check_flags, simulate_flags, resolve_flags):
        flags(adds)
    return top


def made(verb: Parser) -> Callable[..., Any]:
    """Adds where a verb makes a set of rows, and how they are shared out; returns what adds more about it."""
    place = "folder or s3:// gs:// of the set to make"
    verb.add_argument("--out", required=True, metavar="DIR", help=place)
    add = verb.add_argument_group("the set").add_argument
    add("--overwrite", action="store_true", help="replace the set at --out")
    shares = "such as train=0.7,val=0.15,test=0.15; drawn class by class"
    add("--splits", type=fractions, metavar="NAME=SHARE,...", help=shares)
    return add


def convert_flags(adds: Callable[..., Parser]) -> None:
    verb = adds("convert", "images of any format -> a data set", "INPUT [INPUT ...] --out DIR", CONVERT)
    verb.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="folders, .npy, .npz, .csv, .fits, .h5, .png, .jpg, .tif; s3://",
    )
    add = made(verb)
    add("--name", default="", help="its name; the folder's if not given")
    add("--domain", default="", help="source, target, or any word for where the images come from")
    add("--strict", action="store_true", help="an image that cannot be taken is an error")
    add = verb.add_argument_group("splits and classes").add_argument
    add("--seed", type=int, default=0, help="of the splits and the order of rows [0]")
    add(
        "--classes",
        type=pairs,
        metavar="CLASS=NAME,...",
        help="in order, each with its name in the input: nonlens=hsc,lens=hsc_lens_smooth",
    )
    add = verb.add_argument_group("pixels").add_argument
    add("--bands", type=bands, default=(), help="bands to keep, by name or number, in order: gri, or 0,2")
    add(
        "--band-names",
        type=bands,
        default=(),
        metavar="BANDS",
        help="what the bands of the input are, if it does not say: riug",
    )
    add("--crop", type=int, metavar="PIXELS", help="keep the middle, so many pixels wide")
    add("--size", type=int, metavar="PIXELS", help="resize to so many pixels, after the crop")
    add("--arcsec-per-pixel", type=float, metavar="ARCSEC", help="of the input")
    add = kept(verb)
    add("--label-key", metavar="KEY", help="array with the labels, in .npz and .h5")
    add("--labels", metavar="FILE", help=".npy file with the labels of a .npy stack")
    add = verb.add_argument_group("tables of paths").add_argument
    add("--target-column", metavar="COLUMN", help="class or number of each [target]")
    add("--fold-column", metavar="COLUMN", help="[fold]")
    add(
        "--folds",
        type=pairs,
        metavar="FOLD=SPLIT,...",
        help="fold of a table to split, such as 0=test,1=train,2=train",
    )
    add(
        "--keep-columns",
        type=words,
        metavar="COLUMNS",
        help="columns to keep beside the label; all if not given",
    )


def describe_flags(adds: Callable[..., Parser]) -> None:
    verb = adds("describe", "manifest, class rates, samples, histograms", "SET [SET ...]", DESCRIBE)
    verb.add_argument("sets", nargs="+", metavar="SET", help="data sets, each a row of the pictures")
    add = verb.add_argument_group("pictures").add_argument
    add("--out", metavar="DIR", help="folder for the pictures [NAME-describe]")
    add("--views", metavar="METHOD", help="draw what a method's views do to the images")
    about = "data.transform of a run, whose images are drawn: minmax, asinh, log, none [minmax]"
    add("--transform", default="minmax", help=about)
    add("--seed", type=int, default=0, help="of the choice of samples, and of the views [0]")


def check_flags(adds: Callable[..., Parser]) -> None:
    about = "the same image in two sets or two splits; exit 1 if there is one"
    verb = adds("check", about, "SET [SET ...]", CHECK)
    verb.add_argument("sets", nargs="+", metavar="SET", help="data sets, compared with each other and within")
    verb.add_argument("--out", metavar="FILE", help="table of all pairs, CSV")
    add = verb.add_argument_group("what counts as the same").add_argument
    add(
        "--distance",
        type=int,
        metavar="BITS",
        help="bits of 64 in which perceptual hashes may differ [20]",
    )
    add("--similarity", type=float, help="correlation from which images are the same")


def simulate_flags(adds: Callable[..., Parser]) -> None:
    verb = adds("simulate", "a preset -> a data set", "PRESET --out DIR", SIMULATE)
    verb.add_argument(
        "preset",
        metavar="PRESET",
        help="sim, survey, spacewarps, painted (arcs on real cutouts); model-i, model-ii, model-iii, common, sr-pairs",
    )
    add = made(verb)
    add("--rows", type=int, default=2000, help="images [2000]")
    add("--seed", type=int, default=0, help="of all that is drawn [0]")
    add = verb.add_argument_group("images").add_argument
    add("--size", type=int, metavar="PIXELS", help="pixels; the preset's own, or 64, without it")
    add(
        "--arcsec-per-pixel",
        type=float,
        metavar="ARCSEC",
        help="arcsec per pixel; the preset's own without it",
    )
    add("--device", help="cpu or cuda")
    add = verb.add_argument_group("lenses among galaxies: sim, survey, spacewarps, painted").add_argument
    add("--prior", type=float, metavar="SHARE", help="fraction of lenses")
    add("--bands", help="any of g, r and i, such as gri [i; of spacewarps gri]")
    add(
        "--theta-e",
        type=numbers,
        metavar="LOW,HIGH",
        help="Einstein radii, arcsec; the preset's own without it",
    )
    add("--onto", metavar="SET", help="real cutouts to paint on, of galaxies that are no lenses")
    add("--noise-from", metavar="SET", help="real cutouts whose skies are the noise, of pixels of any scale")
    add = verb.add_argument_group("substructure: model-i, model-ii, model-iii, common, sr-pairs").add_argument
    add("--slope", type=float, help="of subhaloes' masses, dN/dm ~ m^SLOPE: -0.9 as published, -1.9 as meant")
    add("--discrete", type=int, metavar="POINTS", help="points that a vortex is made of; a rod without it")
    about = "times the substructure's mass, which makes classes easier to tell: jobs/easier.sh"
    add("--heavier", type=float, metavar="FACTOR", help=about)
    about = "with the faults of the published sets; of sr-pairs with their pixels too, 0.05 arcsec"
    add("--as-published", action="store_true", default=None, help=about)


def resolve_flags(adds: Callable[..., Parser]) -> None:
    verb = adds(
        "resolve", "a data set -> the same at a higher resolution", "CHECKPOINT SET --out DIR", RESOLVE
    )
    verb.add_argument("path", metavar="CHECKPOINT", help="of super-resolution, such as runs/<name>/best")
    verb.add_argument("data", metavar="SET", help="data set to paint anew")
    verb.add_argument("--out", required=True, metavar="DIR", help="folder of the set to make")
    add = verb.add_argument_group("how").add_argument
    add(
        "--by",
        default="model",
        choices=("model", "bicubic", "high"),
        help="who makes the images: the checkpoint, an enlargement, or the set's own twins [model]",
    )
    add("--device", default="cpu", help="cpu or cuda [cpu]")
    add("--overwrite", action="store_true", help="replace the set at --out")


def main(arguments: list[str]) -> int:
    command = shlex.join(["python", "-m", "raylens.data", *arguments])
    try:
        asked = vars(parser().parse_args(arguments))
        verb = asked.pop("verb")
        return VERBS[verb](command=command, **asked)
    except RequestError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2


def run_convert(inputs: list[str], out: str, command: str, **asked) -> int:
    from raylens.data.convert import convert
    from raylens.data.describe import table
    from raylens.data.formats import Options

    for key in ("crop", "size"):
        if asked[key] is not None and asked[key] < 2:
            raise DataError(f"--{key} {asked[key]} is no size of an image in pixels")
    scale = asked["arcsec_per_pixel"]
    if scale is not None and not 0 < scale < math.inf:
        raise DataError(f"--arcsec-per-pixel {scale:g} is no scale; give arcsec such as 0.168")
    columns = {key: asked.pop(key) for key in ("target_column", "fold_column")}
    columns = {key: column for key, column in columns.items() if column is not None}
    options = Options(
        **{key: asked.pop(key) for key in Options.__dataclass_fields__ if key in asked},
        **columns,
        required={f"--{key.replace('_', '-')}": column for key, column in columns.items()},
    )
    table([convert(inputs, out, options=options, command=command, say=print, **asked)])
    print(out)
    return 0


def run_describe(sets: list[str], command: str, **asked) -> int:
    from raylens.data.describe import describe

    print(describe(sets, **asked))
    return 0


def run_check(sets: list[str], command: str, **asked) -> int:
    from raylens.data.check import check, tell, write

    out = asked.pop("out")
    found = check(sets, **{key: value for key, value in asked.items() if value is not None})
    if out:
        write(found, out)
    return tell(found)


def run_simulate(preset: str, command: str, **asked) -> int:
    from raylens.data.simulate import simulate, simulate_substructure, substructure

    given = {key: value for key, value in asked.items() if value is not None}
    draw = simulate_substructure if preset in substructure.RECIPES else simulate
    if other := sorted(given.keys() - inspect.signature(draw).parameters.keys()):
        raise ConfigError(f"preset {preset} has no --{other[0].replace('_', '-')}; leave it out")
    print(draw(preset, **given))
    return 0


def run_resolve(path: str, data: str, out: str, command: str, **asked) -> int:
    from raylens.data.resolve import resolve
    from raylens.data.simulate import check_device

    check_device(asked["device"])
    print(resolve(path, data, out, command=command, **asked))
    return 0


VERBS = {
    "convert": run_convert,
    "describe": run_describe,
    "check": run_check,
    "simulate": run_simulate,
    "resolve": run_resolve,
}

if __name__ == "__main__":
    with guarded():
        sys.exit(main(sys.argv[1:]))
