"""Small GIF files of episodes: one palette for all pictures, no dithering, so that only what moves is stored."""

from __future__ import annotations

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from strong_envs.core.validation import check_number, check_whole
from strong_envs.features.errors import DataError
from strong_envs.features.files.atomic import write_bytes

MOST_COLOURS = 256


def write_gif(
    path: str | os.PathLike,
    pictures: Sequence[np.ndarray],
    seconds: Sequence[float] | float = 0.25,
    colours: int = 48,
) -> Path:
    """Write RGB pictures of one size as a GIF that repeats; the file appears whole or not at all.

    Args:
        path: the file.
        pictures: (H, W, 3) uint8 each.
        seconds: for which each is shown, or one number for all; stored in hundredths.
        colours: in the palette, from 2 to 256.

    Raises:
        DataError: no pictures, or of several sizes; as many ``seconds`` as pictures are not there.
    """
    if not len(pictures):
        raise DataError(f"no pictures to write to {os.fspath(path)!r}")
    return write_bytes(path, gif_bytes(pictures, seconds, colours))


def gif_bytes(pictures: Sequence[np.ndarray], seconds: Sequence[float] | float = 0.25, colours: int = 48) -> bytes:
    """The content of the file that `write_gif` writes; arguments and errors as there."""
    from PIL import Image

    if not len(pictures):
        raise DataError("a GIF needs one picture or more, got no pictures")
    sizes = {np.shape(picture) for picture in pictures}
    if len(sizes) != 1 or np.shape(pictures[0])[2:] != (3,):
        raise DataError(f"a GIF takes pictures of one size, (height, width, 3); got {sorted(sizes)}")
    check_whole(colours, "colours", least=2, most=MOST_COLOURS)
    shown = [seconds] * len(pictures) if isinstance(seconds, (int, float)) else list(seconds)
    if len(shown) != len(pictures):
        raise DataError(f"seconds must be one number, or one for each of {len(pictures)} pictures; got {len(shown)}")
    milliseconds = [max(round(check_number(s, "seconds", above=True) * 100), 2) * 10 for s in shown]
    palette = Image.fromarray(_sheet(pictures)).quantize(colours, method=Image.Quantize.MEDIANCUT)
    frames = [Image.fromarray(p).quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    file = BytesIO()
    frames[0].save(
        file, "GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0, optimize=False, disposal=1
    )
    return file.getvalue()


def _sheet(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """(1, n, 3) uint8: the colours that a palette is chosen on.

    By the number of their pixels a dark background would take the whole palette and writing would get none, so a colour
    counts by the fourth root of that number.
    """
    pixels = np.concatenate([np.asarray(picture)[::2].reshape(-1, 3) for picture in pictures])
    groups, place, counts = np.unique(pixels >> 3, axis=0, return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(place.reshape(-1), pixels[:, i], len(groups)) / counts for i in range(3)], 1)
    times = np.maximum(counts**0.25, 1).astype(int)
    return means.round().astype(np.uint8).repeat(times, axis=0)[None]
