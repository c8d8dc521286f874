"""`python -m raylens.data convert | describe | check | simulate | resolve`."""

import argparse
import inspect
import shlex
import sys

from raylens.cli import Parser
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
    if min(found.values(), default=0) < 0 or abs(sum(found.values()) - 1) > 1e-6:
        raise argparse.ArgumentTypeError(f"{text!r} does not sum to 1")
    return found


def numbers(text: str) -> tuple[float, ...]:
    """`0.7,3` as numbers."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 0.7,3") from error


def words(text: str) -> tuple[str, ...]:
    """`g,r,i` and, if all are single letters, `gri`."""
    return tuple(part for part in text.split(",") if part) if "," in text or text.isdigit() else (text,)


def bands(text: str) -> tuple[str, ...]:
    return tuple(text) if text.isalpha() and "," not in text else words(text)


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="python -m raylens.data", description="Make, look at and check data sets.")
    verbs = top.add_subparsers(
        dest="verb", required=True, metavar="convert | describe | check | simulate | resolve"
    )

    verb = verbs.add_parser("convert", help="images of any format -> a data set")
    add = verb.add_argument
    add(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="folders, .npy, .npz, .csv, .fits, .h5, .png, .jpg, .tif; s3://",
    )
    add("--out", required=True, help="folder or s3:// gs:// of the set to make")
    add("--name", default="", help="its name; the folder's if not given")
    add("--domain", default="", help="source, target, or any word for where the images come from")
    add("--splits", type=fractions, help="such as train=0.7,val=0.15,test=0.15; drawn anew, class by class")
    add("--folds", type=pairs, help="fold of a table to split, such as 0=test,1=train,2=train")
    add("--seed", type=int, default=0, help="of the splits and the order of rows")
    add(
        "--classes",
        type=pairs,
        help="in order, each with its name in the input: nonlens=hsc,lens=hsc_lens_smooth",
    )
    add("--bands", type=bands, default=(), help="bands to keep, by name or number, in order: gri, or 0,2")
    add(
        "--band-names",
        type=bands,
        default=(),
        help="what the bands of the input are, if it does not say: riug",
    )
    add("--crop", type=int, help="keep the middle, so many pixels wide")
    add("--size", type=int, help="resize to so many pixels, after the crop")
    add("--masked", type=float, help="value of pixels that were not seen; they take the median of their band")
    add("--arcsec-per-pixel", type=float, help="of the input")
    add("--keep-columns", type=words, help="columns to keep beside the label; all if not given")
    add("--pixels-key", help="array with the images, in .npz and .h5")
    add("--label-key", help="array with the labels, in .npz and .h5")
    add("--labels", help=".npy file with the labels of a .npy stack")
    add("--hdu", type=words, default=(), help="FITS image HDUs to take as bands, by number or name: 1,3,5")
    add("--path-column", default="path", help="of a table (default: path)")
    add("--target-column", default="target", help="of a table (default: target)")
    add("--fold-column", default="fold", help="of a table (default: fold)")
    add("--strict", action="store_true", help="an image that cannot be taken is an error")
    add("--overwrite", action="store_true", help="replace the set at --out")

    verb = verbs.add_parser("describe", help="manifest, class rates, samples, histograms")
    verb.add_argument("sets", nargs="+", metavar="SET")
    verb.add_argument("--out", help="folder for the pictures (default: NAME-describe)")
    verb.add_argument("--views", metavar="METHOD", help="draw what a method's views do to the images")
    verb.add_argument(
        "--transform", default="asinh", help="what pixels are drawn with: minmax, asinh, log, none"
    )
    verb.add_argument("--seed", type=int, default=0, help="of the choice of samples, and of the views")

    verb = verbs.add_parser("check", help="the same image in two sets or two splits; exit 1 if there is one")
    verb.add_argument("sets", nargs="+", metavar="SET")
    verb.add_argument(
        "--distance", type=int, help="bits of 64 in which perceptual hashes may differ (default: 20)"
    )
    verb.add_argument(
        "--similarity",
        type=float,
        help="correlation from which images are the same",
    )

    verb = verbs.add_parser("simulate", help="a preset -> a data set")
    add = verb.add_argument
    add(
        "preset",
        metavar="PRESET",
        help="sim, survey, painted (arcs on real cutouts); model-i, model-ii, model-iii, common, sr-pairs",
    )
    add("--rows", type=int, default=2000)
    add("--seed", type=int, default=0)
    add("--out", required=True)
    add("--prior", type=float, help="fraction of lenses")
    add("--bands", help="i, the default, or gri")
    add(
        "--theta-e",
        type=numbers,
        metavar="LOW,HIGH",
        help="Einstein radii, arcsec; the preset's own without it",
    )
    add("--onto", metavar="SET", help="real cutouts to paint on, of galaxies that are no lenses")
    add("--noise-from", metavar="SET", help="real cutouts whose skies are the noise")
    add("--splits", type=fractions, help="such as train=0.7,val=0.15,test=0.15")
    add("--size", type=int, help="pixels; the preset's own, or 64, without it")
    add("--slope", type=float, help="of subhaloes' masses, dN/dm ~ m^SLOPE: -0.9 as published, -1.9 as meant")
    add("--discrete", type=int, metavar="POINTS", help="points that a vortex is made of; a rod without it")
    add("--as-published", action="store_true", default=None, help="with the faults of the published sets")
    add("--pixel", type=float, help="arcsec per pixel; the preset's own without it")
    add("--device", help="cpu or cuda")
    add("--overwrite", action="store_true", help="replace the set at --out")

    verb = verbs.add_parser("resolve", help="a data set -> the same at a higher resolution")
    add = verb.add_argument
    add("path", metavar="CHECKPOINT", help="of super-resolution, such as runs/<name>/best")
    add("data", metavar="SET")
    add("--out", required=True)
    add(
        "--by",
        default="model",
        choices=("model", "bicubic", "high"),
        help="who makes the images: the checkpoint, an enlargement, or the set's own twins [model]",
    )
    add("--device", default="cpu", help="cpu or cuda")
    add("--overwrite", action="store_true", help="replace the set at --out")
    return top


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
    options = Options(**{key: asked.pop(key) for key in Options.__dataclass_fields__})
    table([convert(inputs, out, options=options, command=command, say=print, **asked)])
    print(out)
    return 0


def run_describe(sets: list[str], command: str, **asked) -> int:
    from raylens.data.describe import describe

    print(describe(sets, **asked))
    return 0


def run_check(sets: list[str], command: str, **asked) -> int:
    from raylens.data.check import check, tell

    return tell(check(sets, **{key: value for key, value in asked.items() if value is not None}))


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
    sys.exit(main(sys.argv[1:]))
