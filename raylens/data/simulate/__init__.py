"""Strong lenses and what is mistaken for them, simulated: a preset, a seed and a place make one image, always."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from raylens.data.shards import LENS_CLASSES, Manifest, ShardWriter, Split, made_by, read_manifest
from raylens.data.simulate import substructure
from raylens.data.simulate.painted import Backgrounds, backgrounds
from raylens.data.simulate.picture import composite
from raylens.data.simulate.presets import (
    BANDS,
    PAINTED,
    SIM,
    ZERO_POINT,
    Preset,
    checked_pixel,
    margin,
    preset,
    resampled,
)
from raylens.data.simulate.skies import skies
from raylens.errors import ConfigError
from raylens.progress import bar
from raylens.seeds import one_thread
from raylens.seeds import seed as seeded

BLOCK = 512
"""Rows drawn together; the unit of work, and of randomness."""
VERSION = 4
"""Raised whenever the same recipe and seed would make other images, or another truth of them, than before."""


def simulate(
    name: str,
    *,
    rows: int,
    seed: int,
    out: str,
    prior: float | None = None,
    bands: str | None = None,
    size: int | None = None,
    arcsec_per_pixel: float | None = None,
    theta_e: tuple[float, float] | None = None,
    onto: str | None = None,
    noise_from: str | None = None,
    splits: Mapping[str, float] | None = None,
    device: str = "cpu",
    overwrite: bool = False,
) -> str:
    """Write `rows` images of the preset `name` as a shard set at `out`, drawn by Ray tasks; returns `out`.

    The images depend on the preset, the seed and their place alone, not on the number of workers. With `onto`, a shard
    set of real cutouts, arcs are painted on these: bands and size are the set's, splits share no cutout. With
    `noise_from`, such a set too, the noise is that of its skies, pixel by pixel: their scale is not looked at. Raises
    ConfigError.
    """
    recipe, cutouts, fields = preset(name), None, None
    if (name == PAINTED.name) != (onto is not None):
        raise ConfigError(f"preset {PAINTED.name} paints --onto a set of cutouts, and no other preset does")
    if onto is not None:
        if bands is not None or size is not None:
            raise ConfigError(
                f"--bands and --size are those of the cutouts in {onto}; convert it with others"
            )
        held = read_manifest(onto)
        bands, size = "".join(held.bands), held.size
        if not (pixel := arcsec_per_pixel or held.arcsec_per_pixel):
            raise ConfigError(f"{onto} does not say how many arcsec a pixel is; give --arcsec-per-pixel")
        cutouts, arcsec_per_pixel = backgrounds(onto, pixel), pixel
    bands, size = bands or ("i" if recipe.picture is None else BANDS), size or 64
    if noise_from is not None:
        if onto is not None:
            raise ConfigError(
                "--noise-from is for a drawn sky; what is painted --onto cutouts has their noise"
            )
        fields = skies(noise_from, bands, size)
    if arcsec_per_pixel is not None:
        recipe = resampled(recipe, checked_pixel(arcsec_per_pixel))
    if theta_e is not None:
        if len(theta_e) != 2 or not 0 < theta_e[0] < theta_e[1]:
            raise ConfigError(f"theta_e {theta_e} is no range of Einstein radii; give two, such as 0.7,3")
        recipe = replace(recipe, theta_e=theta_e, theta_e_faint=None)
    chosen = channels(bands)
    check_device(device)
    if size < 16 or rows < 1:
        raise ConfigError(f"rows {rows} and size {size} make no data set; give at least 1 row and 16 pixels")
    if (half := size * recipe.pixel / 2) < max(recipe.theta_e):
        raise ConfigError(
            f"images of {size} pixels of {recipe.pixel:g} arcsec reach {half:.3g} arcsec from the middle, and Einstein "
            f"radii up to {max(recipe.theta_e):g}; set --size or --arcsec-per-pixel to more, or --theta-e to less"
        )
    prior = recipe.prior if prior is None else prior
    if not 0 <= prior <= 1:
        raise ConfigError(f"prior {prior:g} is no share of lenses; give a number between 0 and 1")
    places = plan(recipe, rows, seed, prior, splits or recipe.splits)
    shares = ",".join(f"{split}={share:.12g}" for split, share in (splits or recipe.splits).items())
    radii = "" if theta_e is None else f" --theta-e {theta_e[0]:g},{theta_e[1]:g}"
    shape = f"--onto {onto}" if cutouts is not None else f"--bands {bands} --size {size}"
    flags = f"{shape} --rows {rows} --seed {seed} --prior {prior:.12g} --arcsec-per-pixel {recipe.pixel:.12g}"
    if fields is not None:
        flags += f" --noise-from {noise_from}"
    for given, held in ((onto, cutouts), (noise_from, fields)):
        if held is not None and (lacking := [split for split, _ in places if split not in held]):
            raise ConfigError(
                f"{given} has no cutout for the split {lacking[0]!r}; convert it with --splits, or give --splits"
            )
    command = f"python -m raylens.data simulate {name} {flags}{radii} --splits {shares} --out {out}"
    made = made_by(command, seed=seed, packages=("torch", "caustics"), recipe=digest(name))
    writer = ShardWriter(
        out,
        name=name,
        domain=recipe.domain,
        bands=tuple(bands),
        arcsec_per_pixel=recipe.pixel,
        classes=LENS_CLASSES,
        made=made,
        overwrite=overwrite,
    )
    draw = partial(render, recipe, bands=chosen, size=size, device=device)
    key, real = ("simulate", recipe.name, seed, size), {"cutouts": cutouts, "fields": fields}
    blocks = _blocks(draw, places, key, {name: held for name, held in real.items() if held is not None})
    labelled = (
        (split, pixels, kinds == "lens", truth | {"prior": np.full(len(kinds), prior)})
        for split, kinds, pixels, truth in blocks
    )
    return _write(writer, labelled, f"{name}-{seed}", rows)


def simulate_substructure(
    name: str,
    *,
    rows: int,
    seed: int,
    out: str,
    size: int | None = None,
    arcsec_per_pixel: float | None = None,
    slope: float | None = None,
    discrete: int | None = None,
    heavier: float | None = None,
    as_published: bool = False,
    splits: Mapping[str, float] | None = None,
    device: str = "cpu",
    overwrite: bool = False,
) -> str:
    """Write `rows` images of dark matter's substructure, a third of each class, as a shard set at `out`; returns `out`.

    See raylens/data/simulate/substructure.py. Raises ConfigError.
    """
    recipe = substructure.recipe(
        name,
        size=size,
        pixel=arcsec_per_pixel,
        slope=slope,
        discrete=discrete,
        heavier=heavier,
        as_published=as_published,
    )
    splits = _filled(splits or SIM.splits)
    if _share(rows, splits).min() < 3:
        raise ConfigError(
            f"rows {rows} are too few for three classes in each of {', '.join(splits)}; give more"
        )
    check_device(device)
    given = {"size": size, "slope": slope, "discrete": discrete, "heavier": heavier}
    given["arcsec-per-pixel"] = arcsec_per_pixel
    flags = "".join(f" --{key} {value:g}" for key, value in given.items() if value is not None)
    flags += " --as-published" if as_published else ""
    shares = ",".join(f"{split}={share:.12g}" for split, share in splits.items())
    command = f"python -m raylens.data simulate {name} --rows {rows} --seed {seed}{flags} --splits {shares} --out {out}"
    writer = ShardWriter(
        out,
        name=name,
        domain="source",
        bands=(recipe.band,),
        arcsec_per_pixel=recipe.pixel,
        classes=recipe.classes,
        made=made_by(command, seed=seed, packages=("torch", "caustics"), recipe=repr(recipe)),
        overwrite=overwrite,
    )
    classes, places = np.array(recipe.classes), []
    for split, count in zip(splits, _share(rows, splits), strict=True):
        kinds = np.random.default_rng(seeded("kinds", name, seed, split)).permutation(np.arange(count) % 3)
        places += [(split, classes[kinds[start : start + BLOCK]]) for start in range(0, count, BLOCK)]
    draw = partial(substructure.render, recipe, device=device)
    labelled = (
        (split, pixels, (kinds[:, None] == classes).argmax(1), truth)
        for split, kinds, pixels, truth in _blocks(draw, places, ("simulate", name, seed, recipe.size), {})
    )
    return _write(writer, labelled, f"{name}-{seed}", rows)


def _write(
    writer: ShardWriter,
    blocks: Iterable[tuple[str, np.ndarray, np.ndarray, dict[str, Any]]],
    name: str,
    rows: int,
) -> str:
    """Write blocks (split, pixels, labels, truth), `rows` in all; returns where."""
    with writer, bar() as progress:
        done, task = 0, progress.add_task("simulating", total=rows)
        for split, pixels, labels, truth in blocks:
            ids = [f"{name}-{split}-{done + row}" for row in range(len(pixels))]
            writer.add(split, pixels, np.asarray(labels, np.int64), ids, truth)
            done += len(pixels)
            progress.update(task, completed=done)
    return writer.out


def check_device(device: str) -> None:
    """Raises ConfigError for a GPU that is not there."""
    if device != "cpu" and not torch.cuda.is_available():
        raise ConfigError(f"--device {device} was asked for, and there is no GPU here; use cpu")


def foreseen(name: str, *, rows: int, seed: int, prior: float | None = None, bands: str = "i") -> Manifest:
    """The manifest of the set that `simulate` would make of these, before it has any files. Raises ConfigError."""
    recipe = preset(name)
    splits: dict[str, Split] = {}
    for split, kinds in plan(recipe, rows, seed, recipe.prior if prior is None else prior, recipe.splits):
        held = splits.setdefault(split, Split(rows=0, files=[], labels=dict.fromkeys(LENS_CLASSES, 0)))
        lenses = int((kinds == "lens").sum())
        labels = {
            "nonlens": held.labels["nonlens"] + len(kinds) - lenses,
            "lens": held.labels["lens"] + lenses,
        }
        splits[split] = Split(rows=held.rows + len(kinds), files=[], labels=labels)
    return Manifest(
        name=name,
        domain=recipe.domain,
        size=64,
        channels=len(channels(bands)),
        bands=tuple(bands),
        arcsec_per_pixel=recipe.pixel,
        classes=LENS_CLASSES,
        splits=splits,
        statistics={},
    )


def digest(name: str) -> str:
    """Six letters that change with the preset's recipe and with what the simulator makes of it."""
    return hashlib.sha256(f"{VERSION} {preset(name)!r}".encode()).hexdigest()[:6]


@one_thread()
def render(
    recipe: Preset,
    kinds: np.ndarray,
    key: tuple,
    *,
    bands: list[int],
    size: int = 64,
    device: str = "cpu",
    cutouts: Backgrounds | None = None,
    fields: np.ndarray | None = None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images (N, C, size, size) of those kinds and their truth by column; no Ray is needed.

    float32 in counts, with noise drawn or out of `fields`; on `cutouts` in their units; or pictures, uint8.
    """
    from raylens.data.simulate import camera, scene  # caustics takes seconds to import

    rng = np.random.default_rng(seeded(*key))
    field = scene.Scene(recipe, rng, bands, cutouts=cutouts is not None)
    edge = margin(preset(recipe.name).pixel, recipe.pixel)
    wide = size + 2 * edge
    truth = scene.populate(field, kinds, wide)
    with torch.inference_mode(), torch.device(device):
        clean, lensed = field.draw(len(kinds), wide)
        names = [BANDS[band] for band in bands]
        fwhm = np.stack([rng.uniform(*recipe.fwhm[band], len(kinds)) for band in names], 1).astype(np.float32)
        beta = None if recipe.moffat is None else rng.uniform(*recipe.moffat, len(kinds)).astype(np.float32)
        seen = camera.blur(
            clean, torch.as_tensor(fwhm), None if beta is None else torch.as_tensor(beta), recipe.pixel, edge
        )
        seen = seen[:, :, edge:-edge, edge:-edge]
        images = camera.record(seen, recipe, bands, rng, fields) if cutouts is None else seen
    images = images.cpu().numpy()
    if cutouts is not None:
        images, truth["cutout"] = cutouts.paint(images, truth["magnitude"], bands, rng)
        scale = ("magnitude", "source_magnitude")  # of the drawn galaxy, whose place a real one took
        truth |= {name: np.full(len(kinds), np.nan) for name in scale}
    if recipe.picture is not None:
        images = composite(images, recipe, bands, rng)
    arcs = lensed.cpu().numpy()
    truth["lensed_magnitude"] = np.full(len(kinds), np.nan)
    if cutouts is None:
        truth["lensed_magnitude"][arcs > 0] = ZERO_POINT - 2.5 * np.log10(arcs[arcs > 0])
    truth["moffat_beta"] = np.full(len(kinds), np.nan) if beta is None else beta
    truth |= {f"fwhm_{name}": fwhm[:, index] for index, name in enumerate(names)}
    return images, truth


def plan(
    recipe: Preset, rows: int, seed: int, prior: float, splits: Mapping[str, float]
) -> list[tuple[str, np.ndarray]]:
    """Kinds of each block's rows, by split: `prior` of them lenses, and in every split at least one row of each class.

    Raises ConfigError when the splits do not sum to 1.
    """
    splits = _filled(splits)
    lenses = round(rows * prior)
    if 0 < prior < 1 and rows >= 2 * len(splits):
        lenses = min(max(lenses, len(splits)), rows - len(splits))
    blocks = []
    for split, lens, other in zip(splits, _share(lenses, splits), _share(rows - lenses, splits), strict=True):
        rng = np.random.default_rng(seeded("kinds", recipe.name, seed, split))
        others = rng.choice(list(recipe.kinds), other, p=list(recipe.kinds.values()))
        kinds = rng.permutation(np.concatenate([np.full(lens, "lens"), others]).astype("<U16"))
        blocks += [(split, kinds[start : start + BLOCK]) for start in range(0, len(kinds), BLOCK)]
    return blocks


def _filled(splits: Mapping[str, float]) -> dict[str, float]:
    """Those that have a share. Raises ConfigError when they do not sum to 1."""
    if not (abs(sum(splits.values()) - 1) <= 1e-6 and min(splits.values()) >= 0):  # nan compares with nothing
        raise ConfigError(f"splits {dict(splits)} must be shares that sum to 1")
    return {split: share for split, share in splits.items() if share}


def _share(rows: int, splits: Mapping[str, float]) -> np.ndarray:
    """Rows of each split, in proportion, and none without any where there are enough."""
    counts = np.diff(np.round(np.cumsum([0, *splits.values()]) * rows).astype(int))
    for empty in np.flatnonzero(counts == 0) if rows >= len(splits) else ():
        counts[empty] += 1
        counts[counts.argmax()] -= 1
    return counts


def channels(bands: str) -> list[int]:
    """Positions of bands such as `i` or `gri`. Raises ConfigError."""
    if not bands or any(band not in BANDS for band in bands) or len(set(bands)) < len(bands):
        raise ConfigError(f"bands {bands!r} are not known; give some of {', '.join(BANDS)}, such as i or gri")
    return [BANDS.index(band) for band in bands]


def _blocks(
    draw: Callable[..., tuple[np.ndarray, dict]],
    places: list[tuple[str, np.ndarray]],
    key: tuple,
    real: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, np.ndarray, np.ndarray, dict]]:
    """Blocks in order: draw(kinds, key) of each, by its place, with what of `real`, by name and split, is its split's.

    By Ray tasks, a few more than there are CPUs at a time; but a block's worth of rows here, sooner than they begin.
    """
    if draw.keywords["device"] == "cpu" and sum(len(kinds) for _, kinds in places) <= BLOCK:
        for index, (split, kinds) in enumerate(places):
            given = {name: held[split] for name, held in real.items()}
            yield split, kinds, *draw(kinds, (*key, index), **given)
        return

    from raylens.cluster import launch  # before ray, whose settings it makes

    launch.connect()
    import ray

    gpus = 0 if draw.keywords["device"] == "cpu" else 1
    task = ray.remote(num_cpus=1, num_gpus=gpus)(_block)
    ahead = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    shared = {name: {split: ray.put(one) for split, one in held.items()} for name, held in real.items()}
    waiting = []
    for index, (split, kinds) in enumerate(places):
        given = {name: held[split] for name, held in shared.items()}
        waiting.append((split, kinds, task.remote(draw, kinds, (*key, index), **given)))
        if len(waiting) >= ahead:
            split, kinds, reference = waiting.pop(0)
            yield split, kinds, *ray.get(reference)
    for split, kinds, reference in waiting:
        yield split, kinds, *ray.get(reference)


def _block(draw: Callable, kinds: np.ndarray, key: tuple, **real: Any) -> tuple[np.ndarray, dict]:
    """A function, as Ray wants one for a task, of what is a partial."""
    return draw(kinds, key, **real)
