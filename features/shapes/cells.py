"""Cell features of the shapes world: (frames, 64, 64, 3) pixels to (frames, 8, 8, 20) area means.

Channels, in order: 6 hue bins weighted by chroma; 6 orientations of the brightness gradient weighted by its size;
normal flow to the left, right, up and down; brightening, dimming and absolute change per frame; brightness. Brightness
is the largest of R, G and B, so that no colour moves more visibly than another.

No channel joins two of them on purpose: "red" and "moves left" are separate numbers, and over a whole frame with a red
object and another that moves left the sum cannot say that red moves left. Only a box can bind the two.
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np

CELLS = 8
CHANNELS = (
    *(f"hue {60 * i}" for i in range(6)),
    *(f"gradient {30 * i}" for i in range(6)),
    *(f"flow {d}" for d in ("left", "right", "up", "down")),
    "brightening",
    "dimming",
    "change",
    "brightness",
)
# Bits red, green, blue (4, 2, 1) above the middle to the hue's bin; all and none do not occur on a coloured pixel.
_HUE_OF_BITS = np.array([0, 4, 2, 3, 0, 5, 1, 0])
# Thresholds in grey levels, above the background's noise, for the channels that are ill-defined below them.
_VIVID = 70
_EDGE = 28
_CHANGE = 20
_SLOPE = 6.0
_MAX_FLOW = 4.0
_TAN_15 = 2 - math.sqrt(3)
# Rounded mean and spread over the cells of the standard level, in grey levels (flow: pixels a frame). Fixed, so that a
# number means the same at every level; by group: hues, gradients, flows, then the last four channels.
MEAN = np.repeat([2.2, 2.0, 0.02, 3.4, 3.4, 6.9, 40.0], [6, 6, 4, 1, 1, 1, 1])
SCALE = np.repeat([14.0, 6.0, 0.1, 8.0, 8.0, 11.0, 35.0], [6, 6, 4, 1, 1, 1, 1])


def cell_features(pixels: np.ndarray) -> np.ndarray:
    """(n, 8, 8, 20) float32 standardised channels of (n, 64, 64, 3) uint8 RGB frames, each against the one before.

    The first frame has no frame before it: its flow and change are zero before standardising.
    """
    n, height, width, _ = pixels.shape
    red, green, blue = (np.ascontiguousarray(pixels[..., i]) for i in range(3))
    bright = np.maximum(np.maximum(red, green), blue)
    cell = _cell_of_pixel(n, height, width)

    vivid = np.flatnonzero(bright > _VIVID)
    rgb = np.stack([plane.ravel()[vivid] for plane in (red, green, blue)]).astype(np.int16)
    top, bottom = rgb.max(axis=0), rgb.min(axis=0)
    # Which of the three channels are above the middle says which of the six hues is nearest.
    hue = _HUE_OF_BITS[np.array([4, 2, 1]) @ (2 * rgb > top + bottom)]
    hues = _sums(cell[vivid], hue, top - bottom, n, 6)

    signed = bright.astype(np.int16)
    gx, gy, change = (np.zeros_like(signed) for _ in range(3))
    gx[:, :, 1:-1] = signed[:, :, 2:] - signed[:, :, :-2]
    gy[:, 1:-1] = signed[:, 2:] - signed[:, :-2]
    change[1:] = signed[1:] - signed[:-1]

    edge = np.flatnonzero((np.abs(gx) > _EDGE) | (np.abs(gy) > _EDGE))
    ex, ey = gx.ravel()[edge].astype(np.float64), gy.ravel()[edge].astype(np.float64)
    gradients = _sums(cell[edge], _orientation(ex, ey), np.sqrt(ex * ex + ey * ey), n, 6)

    moved = np.flatnonzero(np.abs(change) > _CHANGE)
    place, dt = cell[moved], change.ravel()[moved].astype(np.float32)
    flow = _normal_flow(moved, dt, gx, gy)
    flows = [_sums(place, 0, np.maximum(m, 0), n, 1) for m in (-flow[0], flow[0], -flow[1], flow[1])]

    light = _means(bright)
    net, total = np.zeros_like(light), np.zeros_like(light)
    net[1:] = light[1:] - light[:-1]
    if n > 1:
        total[1:] = _means(cv2.absdiff(bright[1:], bright[:-1]))
    dense = [m.reshape(-1, 1) for m in ((total + net) / 2, (total - net) / 2, total, light)]

    area = height * width / CELLS**2
    out = np.concatenate([hues / area, gradients / area, *(f / area for f in flows), *dense], axis=1)
    return ((out - MEAN) / SCALE).astype(np.float32).reshape(n, CELLS, CELLS, len(CHANNELS))


def _orientation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(m,) bins of 30 degrees centred on 0, 30, ..., 150 of gradients of whole numbers, not both 0.

    A direction and its opposite are the same edge. Compared and not computed with an arc tangent, whose last bit
    differs from one processor to the next: every gradient of 45 degrees lies on a border, and goes to the bin of 60.
    """
    wide, tall = np.abs(x), np.abs(y)
    steep = (tall > _TAN_15 * wide).astype(np.intp) + (tall >= wide) + (wide < _TAN_15 * tall)
    return np.where((x > 0) == (y > 0), steep, 6 - steep) % 6


def _normal_flow(moved: np.ndarray, dt: np.ndarray, gx: np.ndarray, gy: np.ndarray) -> np.ndarray:
    """(2, m) motion across edges to the right and downwards, in pixels a frame, at the pixels that changed."""
    frame = gx[0].size
    # The gradient of the two frames together, so that both the new and the old edge of a moving object count.
    # Central differences are twice the slope; two frames make it four times.
    x, y = (g.ravel()[moved] + g.ravel()[moved - frame] for g in (gx, gy))
    slope = np.stack([x, y]).astype(np.float32) / 4
    flow = -dt * slope / ((slope * slope).sum(axis=0) + _SLOPE**2)
    return np.clip(flow, -_MAX_FLOW, _MAX_FLOW)


def _means(image: np.ndarray) -> np.ndarray:
    """(n, 64) float32 means over the cells of (n, height, width) uint8."""
    n, height, width = image.shape
    tall = image.reshape(n * height, width).astype(np.float32)
    return cv2.resize(tall, (CELLS, n * CELLS), interpolation=cv2.INTER_AREA).reshape(n, -1)


def _sums(cell: np.ndarray, bins: np.ndarray | int, weight: np.ndarray, n: int, count: int) -> np.ndarray:
    """(n * cells, count) sums of the weights in each cell and bin."""
    cells = n * CELLS * CELLS
    return np.bincount(cell * count + bins, weight, cells * count).reshape(cells, count)


@lru_cache(maxsize=4)
def _cell_of_pixel(n: int, height: int, width: int) -> np.ndarray:
    y, x = np.arange(height) * CELLS // height, np.arange(width) * CELLS // width
    grid = y[:, None] * CELLS + x
    return (np.arange(n)[:, None, None] * CELLS * CELLS + grid).ravel()
