"""The same image in two sets or two splits: what makes a test score worthless.

Exact copies have the same bytes. Near copies, shifted, re-encoded, resized, noisier, flipped or turned, are found in
two steps. Perceptual hashes (pHash: the lowest cosine terms, of each orientation) within DISTANCE bits make
candidates; round galaxies are candidates of each other. Texture then decides: the speckle of the power spectrum,
which is that of one patch of sky and its noise, wherever the patch lies in the cutout. Copies correlate by more than
SIMILARITY.

Measured on real cutouts (CFHTLS, HSC, DES): MEASURED
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
from scipy.fft import dctn, rfft2
from scipy.ndimage import uniform_filter

from raylens.data.preprocess import preprocess
from raylens.data.shards import Manifest, read_manifest, read_split

SIDE = 64
DISTANCE = 16
SIMILARITY = 0.8
BITS = 64
CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class Match:
    """Two places of one image."""

    one: tuple[str, str, str]
    """Set, split and id."""
    other: tuple[str, str, str]
    similarity: float
    """1 for the same bytes, else the correlation of texture."""
    exact: bool

    @property
    def leaks(self) -> bool:
        return self.one[:2] != self.other[:2]


@dataclass(kw_only=True)
class Checked:
    """What was found, and from what similarity on."""

    manifests: dict[str, Manifest]
    similarity: float
    matches: list[Match] = field(default_factory=list)

    @property
    def leaks(self) -> list[Match]:
        return [match for match in self.matches if match.leaks]


def check(sets: list[str], *, distance: int = DISTANCE, similarity: float = SIMILARITY) -> Checked:
    """Compare every image of the sets with every other."""
    sets = list(dict.fromkeys(path.rstrip("/") for path in sets))
    manifests = {path: read_manifest(path) for path in sets}
    side = min(SIDE, *(held.size for held in manifests.values()))
    places, digests, smalls = [], [], []
    for path, manifest in manifests.items():
        for split in manifest.splits:
            rows = read_split(path, split, columns=("pixels", "id"))
            places += [(path, split, str(id)) for id in rows["id"]]
            digests += [sha256(image.tobytes()).digest() for image in rows["pixels"]]
            smalls.append(small(rows["pixels"], side))
    found = Checked(manifests=manifests, similarity=similarity)

    first: dict[bytes, int] = {}
    for j, digest in enumerate(digests):
        if (i := first.setdefault(digest, j)) != j:
            found.matches.append(Match(one=places[i], other=places[j], similarity=1.0, exact=True))
    for i, j, value in near(np.concatenate(smalls), distance, similarity):
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


def texture(images: NDArray[np.float32]) -> NDArray[np.float16]:
    """Unit vectors of the speckle of each image's power spectrum; a shift of the image changes them little."""
    side = images.shape[1]
    window = np.sqrt(np.hanning(side + 2)[1:-1, None] * np.hanning(side + 2)[None, 1:-1]).astype(np.float32)
    vectors = []
    for start in range(0, len(images), CHUNK):
        part = images[start : start + CHUNK]
        fine = part - uniform_filter(part, (0, 3, 3), mode="nearest")
        speckle = np.sqrt(np.abs(rfft2(fine * window)))
        speckle /= np.maximum(uniform_filter(speckle, (0, 5, 5), mode="wrap"), 1e-9)
        speckle = (speckle - speckle.mean((1, 2), keepdims=True)).reshape(len(part), -1)
        length = np.linalg.norm(speckle, axis=1, keepdims=True)
        vectors.append((speckle / np.maximum(length, 1e-9)).astype(np.float16))
    return np.concatenate(vectors)


def phash(images: NDArray[np.float32]) -> NDArray[np.uint64]:
    """64-bit perceptual hash: which of the 8 x 8 lowest cosine terms exceed their median."""
    low = dctn(images, axes=(1, 2))[:, :8, :8].reshape(len(images), 64)
    return _packed(low > np.median(low, axis=1, keepdims=True))


def _packed(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def near(images: NDArray[np.float32], distance: int, similarity: float) -> Iterator[tuple[int, int, float]]:
    """Pairs i < j of small images that are near copies in some orientation, and how alike their texture is."""
    # Signs of random projections bound the correlation, so that few candidates need their vectors compared.
    vectors = texture(images)
    projections = np.random.default_rng(0).standard_normal((vectors.shape[1], BITS)).astype(np.float32)
    chance = np.arccos(np.clip(similarity, -1, 1)) / np.pi
    allowed = BITS * chance + 3 * np.sqrt(BITS * chance * (1 - chance))
    hashes, signs = phash(images), _packed(vectors @ projections > 0)
    best: dict[tuple[int, int], float] = {}
    for turned in (images, images[:, ::-1], images.swapaxes(1, 2), images.swapaxes(1, 2)[:, ::-1]):
        others = vectors if turned is images else texture(turned)
        # Half a turn keeps the power spectrum, not the hash.
        their_hashes, half_turned = phash(turned), phash(turned[:, ::-1, ::-1])
        their_signs = _packed(others @ projections > 0)
        for start in range(0, len(images), CHUNK):
            mine = hashes[start : start + CHUNK, None]
            candidates = np.bitwise_count(signs[start : start + CHUNK, None] ^ their_signs[start:]) <= allowed
            candidates &= (np.bitwise_count(mine ^ their_hashes[start:]) <= distance) | (
                np.bitwise_count(mine ^ half_turned[start:]) <= distance
            )
            pairs = np.argwhere(candidates) + start
            pairs = pairs[pairs[:, 0] < pairs[:, 1]]
            for part in np.array_split(pairs, -(-len(pairs) // 4096)) if len(pairs) else ():
                i, j = part.T
                values = np.einsum("np,np->n", vectors[i], others[j], dtype=np.float32)
                for k in np.flatnonzero(values >= similarity):
                    pair = int(i[k]), int(j[k])
                    best[pair] = max(best.get(pair, -1.0), float(values[k]))
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
