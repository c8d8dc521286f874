"""Presets beside the published images that they stand for, without a look at a label; skipped where these are not."""

from pathlib import Path

import numpy as np
import pytest

from raylens.data.describe import profiles
from raylens.data.simulate import render, substructure
from raylens.data.simulate.presets import preset

DATA = Path(__file__).parents[3].parent / "shared" / "data"


@pytest.fixture
def data():
    if not DATA.exists():
        pytest.skip(f"no published samples at {DATA}")
    return DATA


def test_common_is_like_the_published_images(data):
    """Sky and its noise in the peak's units, the middle within the ring, and how far the ring is drawn out along x."""
    made = substructure.recipe("common", as_published=True)
    published = np.stack(
        [
            np.load(file)[0]
            for name in made.classes
            for file in sorted((data / "deeplense_common" / name).glob("*.npy"))
        ]
    )
    drawn, _ = substructure.render(made, np.repeat(made.classes, 10), ("published",))
    ours, theirs = (told(images) for images in (drawn[:, 0], published))
    for name, tolerance in {"sky": 0.1, "noise": 0.1, "middle": 0.4, "drawn out": 0.25}.items():
        assert np.median(ours[name]) == pytest.approx(np.median(theirs[name]), rel=tolerance), name


def told(images: np.ndarray) -> dict[str, np.ndarray]:
    images = images - images.min((1, 2), keepdims=True)
    images = images / images.max((1, 2), keepdims=True)
    edge = np.concatenate([images[:, :15], images[:, -15:]], 1)
    light = np.clip(images - 0.1, 0, None)
    across = np.arange(150) - 74.5
    wide, high = ((light * away**2).sum((1, 2)) for away in (across, across[:, None]))
    return {
        "sky": edge.mean((1, 2)),
        "noise": edge.std((1, 2)),
        "middle": images[:, 73:77, 73:77].mean((1, 2)),
        "drawn out": np.sqrt(wide / high),
    }


def test_space_warps_pictures_are_as_bright_in_every_ring(data):
    """The median of 376 pictures, and as many drawn ones, to a tenth of full brightness; and black as often."""
    with np.load(data / "cfhtls.npz") as held:
        theirs = held["images_gri"].astype(float)
    warps, rng = preset("spacewarps"), np.random.default_rng(0)
    others = rng.choice(list(warps.kinds), 376, p=list(warps.kinds.values()))
    kinds = np.where(rng.random(376) < warps.prior, "lens", others)
    drawn = np.concatenate(
        [
            render(warps, some, ("published", str(k)), bands=[0, 1, 2])[0]
            for k, some in enumerate(np.split(kinds, 8))
        ]
    ).astype(float)
    for ours, wanted in zip(profiles(drawn), profiles(theirs), strict=True):
        difference = np.median(ours, 0) - np.median(wanted, 0)
        assert np.abs(difference).max() < 25
    assert (drawn == 0).mean() == pytest.approx((theirs == 0).mean(), abs=0.03)
