"""The same image in two sets or two splits: what makes a test score worthless.

Exact copies have the same bytes. Near copies, re-encoded, rescaled, resized, noisier, flipped or turned, are
found in two steps. Perceptual hashes (pHash: signs of the lowest cosine terms, of each orientation) within
DISTANCE bits make candidates; all round galaxies are candidates of each other. Fine structure then decides: an
image on 32 x 32 less its 3 x 3 average is mostly its own noise and clumps. It must correlate more than rivals do,
by MARGIN in arctanh; an image's rival is its third best partner, which is no copy. On real cutouts of three
surveys (CFHTLS, HSC, DES) different images stay below 0.80 and copies are above 0.84; on noise-free simulations,
where different images reach 0.995, only copies better than that are told.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy.fft import dctn
from scipy.ndimage import uniform_filter

from raylens.data.preprocess import preprocess
from raylens.data.shards import Manifest, read_manifest, read_split

SIDE = 32
DISTANCE = 8
MARGIN = 0.88
LEAST = 0.80
SAMPLE = 1500
CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class Match:
    """Two places of one image."""

    one: tuple[str, str, str]
    """Set, split and id."""
    other: tuple[str, str, str]
    similarity: float
    """1 for the same bytes, else the correlation of fine structure."""
    exact: bool

    @property
    def leaks(self) -> bool:
        return self.one[:2] != self.other[:2]


@dataclass(kw_only=True)
class Checked:
    """What was found, and with what threshold."""

    manifests: dict[str, Manifest]
    similarity: float
    matches: list[Match] = field(default_factory=list)

    @property
    def leaks(self) -> list[Match]:
        return [match for match in self.matches if match.leaks]


def check(sets: list[str], *, distance: int = DISTANCE, similarity: float | None = None) -> Checked:
    """Compare every image of the sets with every other; `similarity` overrides the measured threshold."""
    sets = list(dict.fromkeys(path.rstrip("/") for path in sets))
    manifests = {path: read_manifest(path) for path in sets}
    places, digests, smalls = [], [], []
    for path, manifest in manifests.items():
        for split in manifest.splits:
            rows = read_split(path, split, columns=("pixels", "id"))
            places += [(path, split, str(id)) for id in rows["id"]]
            digests += [sha256(image.tobytes()).digest() for image in rows["pixels"]]
            smalls.append(small(rows["pixels"]))
    pixels = np.concatenate(smalls)
    fine = fine_structure(pixels)
    similarity = threshold(fine) if similarity is None else similarity
    found = Checked(manifests=manifests, similarity=similarity)

    first: dict[bytes, int] = {}
    for j, digest in enumerate(digests):
        if (i := first.setdefault(digest, j)) != j:
            found.matches.append(Match(one=places[i], other=places[j], similarity=1.0, exact=True))
    for i, j, value in near(pixels, fine, distance, similarity):
        if digests[i] != digests[j]:
            found.matches.append(Match(one=places[i], other=places[j], similarity=value, exact=False))
    return found


def small(pixels: NDArray) -> NDArray[np.float32]:
    """Images on SIDE x SIDE, bands averaged, 0 to 1."""
    grey = [preprocess(pixels[i : i + CHUNK], "minmax").mean(1) for i in range(0, len(pixels), CHUNK)]
    box = Image.Resampling.BOX
    return np.stack(
        [np.asarray(Image.fromarray(image).resize((SIDE, SIDE), box)) for part in grey for image in part]
    )


def fine_structure(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is left of small images without their local average, as unit vectors still in two dimensions."""
    fine = pixels - uniform_filter(pixels, (0, 3, 3), mode="nearest")
    fine -= fine.mean((1, 2), keepdims=True)
    return fine / np.maximum(np.linalg.norm(fine, axis=(1, 2), keepdims=True), 1e-9)


def threshold(fine: NDArray[np.float32]) -> float:
    """The similarity that different images of these sets do not reach."""
    some = fine[:: -(-len(fine) // SAMPLE)].reshape(-1, SIDE * SIDE)
    if len(some) < 4:
        return LEAST
    likeness = some @ some.T
    np.fill_diagonal(likeness, -1)
    rival = np.quantile(np.sort(likeness, axis=1)[:, -3], 0.95)
    return max(LEAST, float(np.tanh(np.arctanh(min(rival, 1 - 1e-6)) + MARGIN)))


def orientations(images: NDArray) -> Iterator[NDArray]:
    """The images turned and flipped in the eight ways."""
    for turned in (images, images.swapaxes(1, 2)):
        for flipped in (turned, turned[:, ::-1]):
            yield flipped
            yield flipped[:, :, ::-1]


def phash(pixels: NDArray[np.float32]) -> NDArray[np.uint64]:
    """64-bit perceptual hash: which of the 8 x 8 lowest cosine terms exceed their median."""
    low = dctn(pixels, axes=(1, 2))[:, :8, :8].reshape(len(pixels), 64)
    return _packed(low > np.median(low, axis=1, keepdims=True))


def _packed(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def near(
    pixels: NDArray[np.float32], fine: NDArray[np.float32], distance: int, similarity: float
) -> Iterator[tuple[int, int, float]]:
    """Pairs i < j whose hashes are near in some orientation and whose fine structure is the same."""
    # Signs of random projections bound the correlation, so that few candidates need their pixels compared.
    projections = np.random.default_rng(0).standard_normal((SIDE * SIDE, 64)).astype(np.float32)
    chance = np.arccos(min(similarity, 1.0)) / np.pi
    allowed = 64 * chance + 4 * np.sqrt(64 * chance * (1 - chance)) + 1
    flat = fine.reshape(len(fine), -1)
    hashes, signs = phash(pixels), _packed(flat @ projections > 0)
    best: dict[tuple[int, int], float] = {}
    for turned, turned_fine in zip(orientations(pixels), orientations(fine), strict=True):
        other = turned_fine.reshape(len(fine), -1)
        other_hashes, other_signs = phash(turned), _packed(other @ projections > 0)
        for start in range(0, len(pixels), CHUNK):
            here = slice(start, start + CHUNK)
            candidates = np.bitwise_count(hashes[here, None] ^ other_hashes[None, start:]) <= distance
            i, j = np.nonzero(candidates)
            i, j = i + start, j + start
            keep = (i < j) & (np.bitwise_count(signs[i] ^ other_signs[j]) <= allowed)
            i, j = i[keep], j[keep]
            for part in range(0, len(i), 1 << 14):
                left, right = i[part : part + (1 << 14)], j[part : part + (1 << 14)]
                values = np.einsum("np,np->n", flat[left], other[right])
                for a, b, value in zip(left, right, values, strict=True):
                    if value >= similarity:
                        best[int(a), int(b)] = max(best.get((int(a), int(b)), -1.0), float(value))
    yield from ((i, j, value) for (i, j), value in sorted(best.items()))


def tell(found: Checked, console: Console | None = None) -> int:
    """Print what was found; 1 if an image is in two sets or two splits, else 0."""
    console = console or Console()
    from raylens.data.describe import table

    table(list(found.manifests.values()), console)
    for path, manifest in found.manifests.items():
        for warning in _uneven(manifest):
            console.print(f"[yellow]{path}: {warning}")
    inside = Counter(match.one[0] for match in found.matches if not match.leaks)
    for path, count in inside.items():
        console.print(f"{path}: {count} repeated image(s) within a split, which is waste but no leak")
    total = sum(manifest.rows for manifest in found.manifests.values())
    if not found.leaks:
        console.print(
            f"[green]clean: none of {total} images is in two sets or two splits[/] "
            f"(similarity {found.similarity:.3f} and more counts)"
        )
        return 0
    places = Counter((match.one[:2], match.other[:2], match.exact) for match in found.leaks)
    console.print(f"\n[bold white on red] LEAK [/] [bold red]{len(found.leaks)} pair(s) of the same image\n")
    for (one, other, exact), count in places.most_common():
        kind = "the same bytes" if exact else "near copies"
        console.print(f"[red]  {count:5d}  {kind:14s}  {' '.join(one)}  =  {' '.join(other)}", soft_wrap=True)
    listed = Table("similarity", "one", "other", title="the first of them", title_justify="left")
    for match in sorted(found.leaks, key=lambda match: -match.similarity)[:10]:
        kind = "exact" if match.exact else f"{match.similarity:.3f}"
        listed.add_row(kind, *(f"{split}: {id}" for _, split, id in (match.one, match.other)))
    console.print(listed)
    console.print(
        "a score on one of these splits after training on the other means nothing; remove one of each pair"
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
        elif rates and max(rates.values()) > 2 * min(rates.values()) and min(counts.values()) >= 10:
            yield f"the rate of {label} differs: " + ", ".join(
                f"{name} {rate:.1%}" for name, rate in rates.items()
            )
