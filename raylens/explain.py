"""Show what a checkpoint looks at: `python -m raylens.explain CHECKPOINT IMAGES --out DIR`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raylens import checkpoint, cli, saliency
from raylens.checkpoint import Checkpoint
from raylens.data.convert import counted
from raylens.data.pieces import Reader
from raylens.errors import ConfigError
from raylens.find import guess
from raylens.loop import collect
from raylens.measure import folder, resolved
from raylens.saliency import maps
from raylens.storage import write

__all__ = ["explain", "maps"]


def explain(argv: Sequence[str]) -> str:
    """Write explained.png of what `argv` names; returns its folder."""
    parser = cli.Parser(
        prog="python -m raylens.explain",
        usage="python -m raylens.explain CHECKPOINT IMAGES --out DIR [--FLAG VALUE ...]",
        description=(
            "Show where in images a checkpoint has found what it says: explained.png, each image beside itself with "
            "the places that speak for the class, by Grad-CAM, or by attention rollout for transformers."
        ),
        example="python -m raylens.explain runs/adda/best cutouts/ --out seen --class lens",
    )
    cli.model(parser)
    cli.images(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the picture")
    shown = parser.add_argument_group("picture")
    shown.add_argument("--class", dest="target", metavar="NAME", help="class to explain [the likeliest]")
    shown.add_argument(
        "--rows", type=int, default=16, metavar="N", help="images to show, the first that can be read [16]"
    )
    cli.device(parser.add_argument_group("model"))
    asked = parser.parse_args(argv)
    if asked.rows < 1:
        raise ConfigError(f"--rows {asked.rows} shows nothing; give 1 or more")
    found = checkpoint.read(asked.checkpoint)
    device, target = resolved(asked.device), wanted(found, asked.target)
    model = found.model(device)
    saliency.check(model, target)
    reader = cli.reader(asked, found)
    pixels, ids = first(reader, asked.images, asked.split, asked.rows)
    if remark := reader.remark(asked.images):
        print(remark)
    said = found.facts.task(found.run.task).predict(collect(model, pixels, None, device=device).logits)
    if "://" not in asked.out:
        folder(Path(asked.out))

    from raylens import pictures

    how = "attention rollout" if saliency.attentions(model) else "Grad-CAM"
    what = "arrives in the features" if saliency.attentions(model) else "speaks for what stands above"
    note = f"{how}: the brighter, the more of a place {what}; each image on its own scale"
    shown = labels(found, said, target, ids)
    seen, transform = maps(model, pixels, target), found.run.data.transform
    picture = pictures.explained(pixels, seen, shown, note, transform, found.facts.bands)
    write(f"{asked.out.rstrip('/')}/explained.png", picture)
    alike = saliency.likeness_to_random(model, pixels, target)
    print(
        f"{len(pixels)} images by {how}; rank correlation with maps of shuffled weights {alike:.2f}, 1 if all alike"
    )
    if alike > saliency.ALIKE:
        print(
            "warning: the maps say little about this model, since with shuffled weights they are nearly the same: "
            "they tell of the images and of the network's build"
        )
    return asked.out


def wanted(found: Checkpoint, name: str | None) -> int | None:
    """The number of the class that is to be explained. Raises ConfigError when there is none of that name."""
    classes = found.facts.classes if found.run.task.name == "classification" else ()
    if name is not None and name not in classes:
        known = f"known here: {', '.join(classes)}" if classes else "leave --class out"
        raise ConfigError(f"{found.address} knows no class {name!r}{guess(name, classes)}; {known}")
    return None if name is None else classes.index(name)


def first(reader: Reader, images: str, split: str | None, rows: int) -> tuple[np.ndarray, list[str]]:
    """Pixels (N, C, H, W), preprocessed, and ids of the first `rows` images. Raises DataError when none can be read."""
    pixels, ids, unfit = [], [], []
    blocks = (block for piece in reader.pieces(images, split) for block in reader.blocks(piece))
    each = (one for block in blocks for one in zip(block.pixels, block.ids, block.reasons, strict=True))
    for image, name, why in each:
        if why:
            unfit.append((name, why))
            continue
        pixels.append(image.copy())
        ids.append(name)
        if len(ids) == rows:
            break
    if not ids:
        raise reader.unreadable(images, unfit)
    if unfit:
        print(f"left out {len(unfit)}: {counted(unfit)}")
    return np.stack(pixels), ids


def labels(found: Checkpoint, said: np.ndarray, target: int | None, ids: Sequence[str]) -> list[str]:
    """What stands above each image: the explained class and its probability, or the number; and its id."""
    if found.run.task.name == "regression":
        return [f"{found.run.task.target} {value:.4g}\n{name}" for value, name in zip(said, ids, strict=True)]
    from raylens.pictures import chance

    of = said.argmax(1) if target is None else np.full(len(said), target)
    classes = found.facts.classes
    return [f"{classes[k]} {chance(row[k])}\n{name}" for k, row, name in zip(of, said, ids, strict=True)]


if __name__ == "__main__":
    cli.main(explain)
