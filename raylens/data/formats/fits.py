"""FITS cutouts: one image HDU, or several as bands; --hdu chooses."""

import warnings
from collections.abc import Iterator

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from raylens.data.formats import Options, Row, Unreadable, channels_first, opened
from raylens.errors import DataError

SUFFIXES = (".fits", ".fit", ".fz")  # and .fits.gz, .fit.gz


def rows(path: str, options: Options) -> Iterator[Row]:
    with warnings.catch_warnings(), opened(path) as source, fits.open(source, memmap=False) as file:
        warnings.simplefilter("error", AstropyWarning)  # a truncated file is only a warning there
        images = {str(i): hdu for i, hdu in enumerate(file) if hdu.is_image and hdu.shape}
        # Of HDUs of one name the first is meant.
        names = {hdu.name.lower(): number for number, hdu in reversed(images.items()) if hdu.name}
        numbers = [names.get(wanted.lower(), wanted) for wanted in options.hdu] or list(images)
        if absent := [number for number in numbers if number not in images]:
            raise DataError(f"no image HDU {absent[0]!r} in {path}; there are {', '.join([*images, *names])}")
        if not numbers:
            raise Unreadable("no image HDU")
        planes = [channels_first(np.asarray(images[number].data)) for number in numbers]
        yield Row(np.concatenate(planes))  # of the type, in native order, that holds all of them
