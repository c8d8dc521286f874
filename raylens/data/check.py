"""The same image in two sets or two splits: what makes a test score worthless.

Exact copies have the same bytes. Near copies, shifted, re-encoded, resized, noisier, flipped or turned, are found in
two steps. Perceptual hashes (pHash: the lowest cosine terms, in eight orientations) within DISTANCE bits make
candidates; round galaxies are candidates of each other. Then one of two signatures decides, both of which see a
patch of sky and its noise rather than the galaxy in it: the speckle of the power spectrum, which a shift does not
change, and the fine structure on 32 x 32, which survives other pixels and JPEG.

TEXTURE and STRUCTURE lie between what different images and what copies reached in small samples of CFHTLS, HSC and
DES cutouts and of simulated images; they were set on those samples, and how many copies they miss elsewhere is not
known. Copies with another stretch, of one band out of three, or cropped by a tenth are mostly missed.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy.fft import dctn, rfft2
from scipy.ndimage import uniform_filter

from raylens import storage
from raylens.data.preprocess import preprocess
from raylens.data.shards import Manifest, read_manifest, read_split
from raylens.errors import ConfigError, first_line
from raylens.progress import track

SIDE = 64
LEAST = 8
"""Cosine terms along each side of the perceptual hash."""
DISTANCE = 20
TEXTURE = 0.85
STRUCTURE = 0.8
CHUNK = 256
SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Match:
    """Two places of one image."""

    one: tuple[str, str, str]
    """Set, split and id."""
    other: tuple[str, str, str]
    similarity: float
    """1 for the same bytes, else the larger correlation of texture or structure."""
    exact: bool

    @property
    def leaks(self) -> bool:
        return self.one[:2] != self.other[:2]


@dataclass(kw_only=True)
class Checked:
    """What was found in which sets."""

    manifests: dict[str, Manifest]
    matches: list[Match] = field(default_factory=list)

    @property
    def leaks(self) -> list[Match]:
        return [match for match in self.matches if match.leaks]


def check(sets: list[str], *, distance: int = DISTANCE, similarity: float | None = None) -> Checked:
    """Compare every image of the sets with every other; `similarity` replaces TEXTURE and STRUCTURE.

    Of exact copies each is matched with the first in its own split and in every one before, so that none is left in two
    places when the `other` of each match is gone. Raises ConfigError for limits within which nothing could be found,
    and for images of fewer than LEAST pixels on a side.
    """
    if not 0 <= distance <= 64:
        raise ConfigError(f"--distance {distance} is no number of the hash's 64 bits; give 0 to 64")
    if similarity is not None and not 0 < similarity <= 1:
        raise ConfigError(f"--similarity {similarity:g} is no correlation; give a number above 0, up to 1")
    sets = list(dict.fromkeys(path.rstrip("/") for path in sets))
    manifests = {path: read_manifest(path) for path in sets}
    for path, held in manifests.items():
        if held.size < LEAST:
            raise ConfigError(
                f"{path}: images of {held.size} x {held.size} are too small to tell copies; convert it with --size "
                f"{LEAST} or more"
            )
    side = min(SIDE, *(held.size for held in manifests.values()))
    places, digests, smalls = [], [], []
    splits = [(path, split) for path, manifest in manifests.items() for split in manifest.splits]
    for path, split in track(splits, "reading"):
        rows = read_split(path, split, columns=("pixels", "id"))
        places += [(path, split, str(id)) for id in rows["id"]]
        digests += [sha256(image.tobytes()).digest() for image in rows["pixels"]]
        smalls.append(small(rows["pixels"], side))
    found = Checked(manifests=manifests)

    first: dict[bytes, dict[tuple[str, str], int]] = {}  # of each image, in each split that has it
    for j, digest in enumerate(digests):
        held = first.setdefault(digest, {})
        for i in held.values():
            found.matches.append(Match(one=places[i], other=places[j], similarity=1.0, exact=True))
        held.setdefault(places[j][:2], j)
    for (i, j), value in near(np.concatenate(smalls), distance, similarity).items():
        if digests[i] != digests[j]:
            found.matches.append(Match(one=places[i], other=places[j], similarity=value, exact=False))
    return found


def small(pixels: NDArray, side: int = SIDE) -> NDArray[np.float32]:
    """Images on side x side, bands averaged, 0 to 1."""
    parts = [preprocess(pixels[i : i + CHUNK], "minmax").mean(1) for i in range(0, len(pixels), CHUNK)]
    box = Image.Resampling.BOX
    return np.stack(
        [np.asarray(Image.fromarray(i).resize((side, side), box)) for part in parts for i in part]
    )


def texture(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The speckle of each image's power spectrum, as vectors; a shift of the image changes them little."""
    taper = np.sqrt(np.hanning(images.shape[1] + 2)[1:-1])
    speckle = np.sqrt(np.abs(rfft2(_fine(images) * (taper[:, None] * taper).astype(np.float32))))
    return speckle / np.maximum(uniform_filter(speckle, (0, 5, 5), mode="wrap"), 1e-9)


def structure(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What each image has beyond its local average on half as many pixels, bright peaks cut off."""
    half = images.shape[1] // 2
    fine = _fine(images[:, : 2 * half, : 2 * half].reshape(-1, half, 2, half, 2).mean((2, 4)))
    noise = 1.4826 * np.median(np.abs(fine), axis=(1, 2), keepdims=True)
    return np.clip(fine / np.maximum(noise, 1e-9), -1.5, 1.5)


SIGNATURES = ((texture, TEXTURE), (structure, STRUCTURE))


def _fine(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return images - uniform_filter(images, (0, 3, 3), mode="nearest")


class _Signed:
    """Unit vectors of a signature; the signs of random projections bound their correlation at 64 bits each."""

    def __init__(self, signature: Callable, images: NDArray[np.float32]) -> None:
        parts = [signature(images[i : i + CHUNK]) for i in range(0, len(images), CHUNK)]
        vectors = np.concatenate([part.reshape(len(part), -1) for part in parts]).astype(np.float32)
        vectors -= vectors.mean(1, keepdims=True)
        self.vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        projections = np.random.default_rng(0).standard_normal((vectors.shape[1], 64))
        self.signs = _packed(self.vectors @ projections.astype(np.float32) > 0)


def phash(images: NDArray[np.float32]) -> NDArray[np.uint64]:
    """64-bit perceptual hash: which of the 8 x 8 lowest cosine terms exceed their median."""
    low = dctn(images, axes=(1, 2))[:, :LEAST, :LEAST].reshape(len(images), LEAST**2)
    return _packed(low > np.median(low, axis=1, keepdims=True))


def _packed(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def near(
    images: NDArray[np.float32], distance: int = DISTANCE, similarity: float | None = None
) -> dict[tuple[int, int], float]:
    """Pairs i < j of small images that are near copies in some orientation, and how alike they are."""
    found: dict[tuple[int, int], float] = {}
    hashes, signed = phash(images), [_Signed(signature, images) for signature, _ in SIGNATURES]
    for turned in track(orientations(images), "comparing", 8):
        their_hashes = phash(turned)
        theirs = [_Signed(signature, turned) for signature, _ in SIGNATURES]
        for like in _alike(hashes, their_hashes, distance):
            for mine, other, (_, usual) in zip(signed, theirs, SIGNATURES, strict=True):
                least = usual if similarity is None else similarity
                chance = np.arccos(np.clip(least, -1, 1)) / np.pi  # that a projection's signs differ
                bits = 64 * chance + 3 * np.sqrt(64 * chance * (1 - chance))
                pairs = like[:, np.bitwise_count(mine.signs[like[0]] ^ other.signs[like[1]]) <= bits]
                for i, j in (pairs[:, k : k + 1024] for k in range(0, pairs.shape[1], 1024)):
                    values = np.einsum("np,np->n", mine.vectors[i], other.vectors[j])
                    for k in np.flatnonzero(values >= least):
                        pair = int(i[k]), int(j[k])
                        found[pair] = max(found.get(pair, -1.0), float(values[k]))
    return dict(sorted(found.items()))


def _alike(mine: NDArray[np.uint64], theirs: NDArray[np.uint64], distance: int) -> Iterator[NDArray[np.intp]]:
    """Pairs i < j of hashes within `distance` bits, in blocks that stay in a processor's cache."""
    rows, columns = 32, 4096
    for i in range(0, len(mine), rows):
        for j in range(i - i % columns, len(theirs), columns):
            block = mine[i : i + rows, None] ^ theirs[None, j : j + columns]
            pairs = np.argwhere(np.bitwise_count(block) <= distance).T + np.array([[i], [j]])
            yield pairs[:, pairs[0] < pairs[1]]


def orientations(images: NDArray) -> Iterator[NDArray]:
    """The images turned and flipped in the eight ways."""
    for turned in (images, images.swapaxes(1, 2)):
        for flipped in (turned, turned[:, ::-1]):
            yield flipped
            yield flipped[:, :, ::-1]


def write(found: Checked, path: str) -> None:
    """All matches as a table, CSV: of each the two places, the similarity, and whether it is a leak."""
    columns = [f"{which}_{name}" for which in ("one", "other") for name in ("set", "split", "id")]
    rows = [(*match.one, *match.other, match.similarity, match.exact, match.leaks) for match in found.matches]
    table = pd.DataFrame(rows, columns=[*columns, "similarity", "exact", "leaks"])
    try:
        storage.write(path, table.to_csv(index=False))
    except OSError as error:
        raise ConfigError(f"--out {path} cannot be written: {first_line(error)}") from None


def tell(found: Checked, console: Console | None = None) -> int:
    """Print what was found; 1 if an image is in two sets or two splits, else 0."""
    console = console or Console(markup=False)
    from raylens.data.describe import table

    table(list(found.manifests.values()), console)
    for path, manifest in found.manifests.items():
        for warning in _uneven(manifest):
            console.print(f"{path}: {warning}", style="yellow", soft_wrap=True)
    inside = Counter(match.one[0] for match in found.matches if not match.leaks)
    for path, count in inside.items():
        console.print(f"{path}: {count} repeated image(s) within a split, which is waste but no leak")
    total = sum(manifest.rows for manifest in found.manifests.values())
    if not found.leaks:
        console.print(f"clean: none of {total} images is in two sets or two splits", style="green")
        return 0
    places = Counter((match.one[:2], match.other[:2], match.exact) for match in found.leaks)
    console.print("\n LEAK ", style="bold white on red", end="")
    console.print(f" {len(found.leaks)} pair(s) of the same image\n", style="bold red")
    for (one, other, exact), count in places.most_common():
        kind = "the same bytes" if exact else "near copies"
        pair = f"{' '.join(one)}  =  {' '.join(other)}"
        console.print(f"  {count:5d}  {kind:14s}  {pair}", style="red", soft_wrap=True)
    title = "the most alike of them; --out lists all" if len(found.leaks) > SHOWN else "these are"
    listed = Table("similarity", "one", "other", title=title, title_justify="left")
    for match in sorted(found.leaks, key=lambda match: -match.similarity)[:SHOWN]:
        kind = "exact" if match.exact else f"{match.similarity:.3f}"
        places = ((found.manifests[path].name, split, id) for path, split, id in (match.one, match.other))
        listed.add_row(kind, *(f"{name} {split}: {id}" for name, split, id in places))
    console.print(listed)
    console.print(
        "a score on one of these splits after training on the other means nothing; remove the second of each pair"
    )
    return 1


def _uneven(manifest: Manifest) -> Iterator[str]:
    """Splits that lack a class, or hold it at twice the rate of another split or half of it."""
    for label in manifest.classes:
        counts = {name: split.labels.get(label, 0) for name, split in manifest.splits.items()}
        known = {
            name: sum(map(split.labels.get, manifest.classes)) for name, split in manifest.splits.items()
        }
        rates = {name: count / known[name] for name, count in counts.items() if known[name]}
        if lacking := [name for name, rate in rates.items() if not rate]:
            yield f"no {label} in {', '.join(lacking)}"
        elif rates and max(rates.values()) > 2 * min(rates.values()) and min(map(counts.get, rates)) >= 10:
            yield f"the rate of {label} differs: " + ", ".join(
                f"{name} {rate:.1%}" for name, rate in rates.items()
            )
