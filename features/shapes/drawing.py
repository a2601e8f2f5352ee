"""Pixels of a scene: anti-aliased shapes at sub-pixel places on a dark background with grey noise.

A pixel is covered by as much of a shape as lies on its inner side: .5 minus the distance to the edge, between 0 and 1.
Coverage drawn this way keeps its sum while a shape moves by fractions of a pixel, which the polygon fillers of image
libraries do not, and so growing and shrinking stand out from trembling.

The noise is the same in R, G and B and every colour has the same largest component, so the largest of R, G and B at a
pixel does not depend on the colours: recoloured objects have bit for bit the same brightness, and all that follows from
it. With noise of its own in each component, yellow, cyan and magenta would shine brighter by the larger of two draws.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from strong_envs.features.shapes.events import FRAMES
from strong_envs.features.shapes.scene import EXTENT, SIZE, Body, Scene, stream

RGB = {
    "red": (205, 35, 35),
    "yellow": (205, 205, 35),
    "green": (35, 205, 35),
    "cyan": (35, 205, 205),
    "blue": (35, 35, 205),
    "magenta": (205, 35, 205),
}
BACKGROUND = 18
NOISE = 12
_TILE = 256


def draw(scene: Scene) -> np.ndarray:
    """(FRAMES, SIZE, SIZE, 3) uint8 RGB."""
    pixels = _noise(scene)
    flat = pixels.reshape(-1, 3)
    for body in scene.bodies:
        place, cover = _cover(body)
        for channel, level in enumerate(RGB[body.colour]):
            flat[:, channel][place] += (cover * np.float32(level - BACKGROUND) + np.float32(0.5)).astype(np.uint8)
    return pixels


def _cover(body: Body) -> tuple[np.ndarray, np.ndarray]:
    """The pixels that an object touches, counted through all frames, and (m,) float32 how much of each it covers."""
    lit = np.flatnonzero(body.visible)
    centre, radius = body.centre[lit].astype(np.float32), body.radius[lit].astype(np.float32)
    side = 2 * int(np.ceil(radius.max() * max(EXTENT[body.shape]))) + 3
    corner = np.floor(centre).astype(np.intp) - side // 2
    x, y = (corner[:, i, None] + np.arange(side) for i in range(2))
    dx, dy = x + np.float32(0.5) - centre[:, :1], y + np.float32(0.5) - centre[:, 1:]
    cover = _coverage(body.shape, dx[:, None], dy[:, :, None], radius[:, None, None])
    place = (lit[:, None, None] * SIZE + y[:, :, None]) * SIZE + x[:, None]
    seen = cover > 0
    return place[seen], cover[seen]


def _coverage(shape: str, dx: np.ndarray, dy: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Share of the pixels at (dx, dy) from the centre of the shape's box that lies inside the shape."""
    half_x, half_y = (radius * np.float32(e) for e in EXTENT[shape])
    if shape == "circle":
        return _inside(radius - np.sqrt(dx * dx + dy * dy))
    if shape == "square":
        return _inside(half_x - np.abs(dx)) * _inside(half_y - np.abs(dy))
    if shape == "diamond":
        return _inside((half_x - np.abs(dx) - np.abs(dy)) * np.float32(np.sqrt(0.5)))
    slanted = (half_x * (dy + half_y) - 2 * half_y * np.abs(dx)) / np.sqrt(half_x * half_x + 4 * half_y * half_y)
    return _inside(slanted) * _inside(half_y - dy)


def _inside(depth: np.ndarray) -> np.ndarray:
    return np.clip(depth + np.float32(0.5), 0, 1)


@cache
def _tile() -> np.ndarray:
    grey = np.random.default_rng(0).integers(BACKGROUND, BACKGROUND + NOISE, (_TILE, _TILE, 1), np.uint8)
    return grey.repeat(3, axis=2)


def _noise(scene: Scene) -> np.ndarray:
    """(FRAMES, SIZE, SIZE, 3) uint8: the background, a random cut of one tile of noise in every frame."""
    offsets = stream(scene.seed, scene.level, "noise").integers(0, _TILE - SIZE, (FRAMES, 2))
    return np.stack([_tile()[y : y + SIZE, x : x + SIZE] for y, x in offsets])
