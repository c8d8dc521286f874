"""What happens to pixels before anything learns from them: one transform, the same for both domains.

Every transform looks at one image at a time, so it needs no statistics of a set and cannot leak any.
Pixels that are not finite take the median of their image; what is constant becomes zeros.
"""

import numpy as np

TRANSFORMS = ("minmax", "asinh", "log", "none")
SKY_FRAME = 0.1
"""The sky is measured on a frame this wide, as a fraction of the image: the middle belongs to the galaxy."""
SKY_CLIP = (-5.0, 1000.0)
"""What "asinh" keeps, in units of the sky's noise."""
CONTRAST = 1000.0
"""Ratio of the brightest to the faintest step that "log" tells apart."""
HUGE = 1e30
CHUNK = 1 << 20


def preprocess(pixels: np.ndarray, transform: str, like: np.ndarray | None = None) -> np.ndarray:
    """Images (N, C, H, W) of any dtype as float32, about 0 to 1; "none" only replaces what is not finite.

    minmax  (x - min) / (max - min) over all channels.
    asinh   each channel in units of its own sky noise, clipped, asinh, and scaled by fixed numbers: sky is at
            0.23 and equal signal-to-noise is equal brightness, whatever the survey.
    log     log(1 + 999 minmax(x)) / log(1000).

    What is measured of an image is measured of its row in `like` (N, C, h, w), where that is given: so twins of other
    resolutions stay in the same units. "log" then takes what is fainter than the faintest for that.
    """
    assert transform in TRANSFORMS, transform
    out = np.empty(pixels.shape, np.float32)
    step = max(1, CHUNK // max(1, pixels[0].size)) if len(pixels) else 1
    for start in range(0, len(pixels), step):
        here = slice(start, start + step)
        with np.errstate(over="ignore"):
            out[here] = pixels[here]
        _repair(out[here])
        measured = out[here]
        if like is not None:
            measured = like[here].astype(np.float32)
            _repair(measured)
        if transform in ("minmax", "log"):
            _minmax(out[here], measured)
        if transform == "log":
            np.maximum(out[here], 0, out=out[here])
            np.log1p(np.multiply(out[here], CONTRAST - 1, out=out[here]), out=out[here])
            out[here] /= np.log(CONTRAST)
        if transform == "asinh":
            _asinh(out[here], measured)
    return out


def _repair(x: np.ndarray) -> None:
    """Gives pixels that are NaN, infinite or beyond HUGE the median of their image's other pixels."""
    if x.size == 0 or (x.min() > -HUGE and x.max() < HUGE):
        return
    good = np.abs(x) < HUGE  # False for NaN
    for image, fine in zip(x, good, strict=True):
        if not fine.all():
            image[~fine] = np.median(image[fine]) if fine.any() else 0


def _minmax(x: np.ndarray, measured: np.ndarray) -> None:
    low, high = (f(measured, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    x -= low
    span = high - low
    span[span == 0] = 1
    x /= span


def _asinh(x: np.ndarray, measured: np.ndarray) -> None:
    height, width = measured.shape[2:]
    edge = max(1, round(SKY_FRAME * min(height, width)))
    inside = np.zeros((height, width), bool)
    inside[edge : height - edge, edge : width - edge] = True
    sky = measured[:, :, ~inside]  # (N, C, pixels of the frame)
    middle, quarter = sky.shape[-1] // 2, 3 * sky.shape[-1] // 4
    ranked = np.partition(sky, (middle, quarter), axis=-1)
    median, upper = ranked[..., middle, None], ranked[..., quarter, None]
    deviation = np.abs(sky - median)
    noise = 1.4826 * np.partition(deviation, middle, axis=-1)[..., middle, None]
    # An 8-bit sky is often cut off at black, below its median: then the upper half alone shows the noise.
    noise = np.maximum(noise, 1.4826 * (upper - median))
    noise = np.where(noise > 0, noise, deviation.mean(-1, keepdims=True))
    median, noise = median[..., None], noise[..., None]
    # A sky without any noise leaves the range as the only scale.
    span = measured.max((2, 3), keepdims=True) - measured.min((2, 3), keepdims=True)
    noise = np.maximum(np.where(noise > 1e-6 * span, noise, span / SKY_CLIP[1]), np.finfo(np.float32).tiny)
    x -= median
    with np.errstate(over="ignore"):
        x /= noise
    np.clip(x, *SKY_CLIP, out=x)
    low, high = np.arcsinh(SKY_CLIP)
    np.arcsinh(x, out=x)
    x -= low
    x /= high - low
    x *= span > 0
