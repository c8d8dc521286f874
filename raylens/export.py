"""Take a model along: `python -m raylens.export CHECKPOINT --out DIR`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from raylens import checkpoint, cli, standalone
from raylens.card import card, given
from raylens.errors import ConfigError
from raylens.measure import folder
from raylens.predictor import Predictor
from raylens.progress import track


def export(argv: Sequence[str]) -> str:
    """Write the model that `argv` names as files that need no raylens, and its card; returns their folder."""
    parser = cli.Parser(
        prog="python -m raylens.export",
        usage="python -m raylens.export CHECKPOINT --out DIR [--FLAG VALUE ...]",
        description=(
            "Write a checkpoint as files that need no raylens, raw images in and probabilities out: model.onnx for "
            "ONNX Runtime, model.pt2 for torch.export.load, and model-card.md. Each is compared with the checkpoint "
            "first, and nothing is written if one differs."
        ),
        example="python -m raylens.export runs/adda/best --out released --format onnx",
    )
    cli.model(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the files")
    files = parser.add_argument_group("files")
    files.add_argument(
        "--format",
        dest="formats",
        nargs="+",
        default=[*standalone.FORMATS],
        choices=[*standalone.FORMATS],
        help="which files [both]",
    )
    told = parser.add_argument_group("model card")
    told.add_argument(
        "--metrics",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="metrics.json of raylens.evaluate to tell too; those beside the checkpoint are told",
    )
    asked = parser.parse_args(argv)
    if "://" in asked.out:
        raise ConfigError(f"--out {asked.out} is not on this machine; name a folder here, and copy it there")
    out = Path(asked.out)
    if out.is_file():
        raise ConfigError(f"--out {out} is a file; name a folder")
    found = checkpoint.read(asked.checkpoint)
    more = [given(found, path) for path in asked.metrics]
    ready = Predictor(found, device="cpu", batch=16)
    folder(out.absolute().parent)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.absolute().parent) as partial:
        differences = {
            form: standalone.write(ready, form, Path(partial, standalone.FORMATS[form]))
            for form in track([*dict.fromkeys(asked.formats)], "writing and comparing")
        }
        Path(partial, "model-card.md").write_text(card(found, ready, differences, more))
        folder(out)
        left: set[str] = set()  # of the model that was there, which would lie under the card of this one
        if (out / "model-card.md").exists():
            print(f"the model that was in {out} is replaced")
            left = {*standalone.FORMATS.values()} - {standalone.FORMATS[form] for form in differences}
        for file in sorted(Path(partial).iterdir()):
            os.replace(file, out / file.name)
        for name in left:
            (out / name).unlink(missing_ok=True)
    for form, worst in differences.items():
        print(f"{standalone.FORMATS[form]} differs from the checkpoint by at most {worst:.1g}")
    return asked.out


if __name__ == "__main__":
    cli.main(export)
