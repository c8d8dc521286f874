"""PNG, JPEG and TIFF pictures; a palette or an alpha channel is resolved, any depth of TIFF is kept."""

from collections.abc import Iterator

import numpy as np
import tifffile
from PIL import Image

from raylens.data.formats import Options, Row, Unreadable, channels_first, opened

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def rows(path: str, options: Options) -> Iterator[Row]:
    if path.lower().endswith((".tif", ".tiff")):
        with opened(path) as source:
            yield Row(channels_first(tifffile.imread(source)))
        return
    with opened(path) as source, Image.open(source) as picture:
        if picture.mode not in ("I", "I;16") and any(";16" in str(tile[3]) for tile in picture.tile):
            raise Unreadable("16 bits a colour, of which PNG's reader keeps 8: give TIFF or FITS")
        if picture.mode not in ("L", "I", "I;16", "F", "RGB"):
            picture = picture.convert("L" if picture.mode in ("1", "LA") else "RGB")
        image = channels_first(np.asarray(picture))
    yield Row(image, bands=("red", "green", "blue") if len(image) == 3 else ())
