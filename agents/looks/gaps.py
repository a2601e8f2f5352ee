"""What the look policy sees: the gaps between neighbouring looks, and the rows in each that it may look at next.

What is known about a gap are the looks around it: distances to its neighbours and to the run of looks inside the moment
that it touches, and what they showed. A look therefore changes the gaps around it and no others, in a video of any
length. `gaps` takes all gaps of many videos, `OneVideo` keeps those of one video up to date; both say the same.

Arrays of numpy and lists, for training too: nothing here is differentiated, and at one video calls are what counts.
"""

from __future__ import annotations

from bisect import bisect_left
from math import log1p

import numpy as np

SHARES = (0.06, 0.18, 0.29, 0.4, 0.5, 0.6, 0.71, 0.82, 0.94)
"""Where in a gap rows are offered, as shares of it."""
STEP = 0.7
"""Distance of the two other rows from either end of a gap, in mean lengths of a moment; shorter gaps have none."""
PLACES = len(SHARES) + 2
"""Rows offered in a gap."""
FEATURES = 20
"""Numbers that are known about a gap."""
UNSEEN = 1 << 30
"""Stands for a look that was not made; it sorts behind every row."""
FARTHEST = 6.0
"""Bound of distances, in mean lengths of a moment, and of evidence."""


def gaps(
    rows: np.ndarray, scores: np.ndarray, n_frames: np.ndarray, length: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that may be looked at next, what is known about their gaps, and which of the rows exist.

    Args:
        rows: (B, K) int64 looks in any order, -1 in empty slots.
        scores: (B, K) log-odds of the looks, bounded and divided by the bound: numbers in [-1, 1].
        n_frames: (B,) rows of the videos.
        length: mean length of a moment, in rows.

    Returns:
        rows (P, B, K + 1) int64, features (F, B, K + 1) float32 and (P, B, K + 1) bool.
    """
    many, looks = rows.shape
    end = n_frames[:, None]
    # Two borders on either side of the looks, so that every gap has two neighbours on either side.
    at = np.empty((many, looks + 4))
    at[:, :2], at[:, -2:] = -1, end
    z = np.zeros((many, looks + 4))
    if looks:
        key = np.where(rows < 0, UNSEEN, rows)
        order = key.argsort(1)
        video = np.arange(many)[:, None]
        np.minimum(key[video, order], end, out=at[:, 2:-2])
        z[:, 2:-2] = scores[video, order]
    low, high = at[:, 1:-2], at[:, 2:-1]
    room = high - low - 1
    # Looks that found nothing bound a run of looks inside the moment; the borders of the video count as such.
    nothing = z <= 0
    found = np.maximum(z, 0).cumsum(1)
    values, edge = np.empty((3, many, looks + 4)), np.empty((3, many, looks + 4), bool)
    # A row and what was seen there in one number that grows from look to look.
    values[0] = values[1] = at + (z + 1) / 4
    values[2], edge[0], edge[2] = found, nothing, nothing
    edge[1] = nothing
    edge[1, :, 1:] |= nothing[:, :-1]
    # The last bound, the first look of the run, and the evidence found until the bound.
    ahead = np.maximum.accumulate(np.where(edge, values, -1), 2)[:, :, 1:-2]
    edge[1] = nothing
    edge[1, :, :-1] |= nothing[:, 1:]
    behind = np.minimum.accumulate(np.where(edge, values, UNSEEN)[:, :, ::-1], 2)[:, :, ::-1][:, :, 2:-1]
    known = np.empty((FEATURES, many, looks + 1), np.float32)
    row = np.floor(ahead[:2])
    known[0:2], known[16:18] = low - row, ahead[:2] - row
    row = np.floor(behind[:2])
    known[2:4], known[18:20] = row - high, behind[:2] - row
    known[4], known[5], known[6] = low - at[:, :-3], at[:, 3:] - high, room
    known[:7] /= length
    known[7], known[8] = found[:, 1:-2] - ahead[2], behind[2] - found[:, 1:-2]
    np.minimum(known[:9], FARTHEST, out=known[:9])
    known[9], known[10], known[11], known[12] = z[:, 1:-2], z[:, 2:-1], z[:, :-3], z[:, 3:]
    known[13], known[14], known[15] = low < 0, high >= end, np.log1p(np.maximum(room, 0)) / 4
    step = step_of(length)
    offered = np.empty((PLACES, many, looks + 1), np.int64)
    begin = low.astype(np.int64)
    offered[: len(SHARES)] = offsets(int(room.max()))[:, np.maximum(room, 0).astype(np.int64)] + begin
    offered[-2], offered[-1] = begin + step, high - step
    there = np.empty(offered.shape, bool)
    there[: len(SHARES)], there[-2:] = room > 0, room >= step
    return offered, known, there


def step_of(length: float) -> int:
    """Rows between an end of a gap and the row that is offered near it."""
    return max(round(STEP * length), 1)


def offsets(most: int) -> np.ndarray:
    """Distances of the rows at `SHARES` from the look before a gap of 0 to ``most`` rows: (shares, most + 1) int64."""
    return np.floor(np.array(SHARES)[:, None] * np.arange(max(most, 0) + 1)).astype(np.int64) + 1


class OneVideo:
    """The gaps of one video, kept up to date look by look.

    Args:
        n_frames: rows of the video.
        length: mean length of a moment, in rows.

    Attributes:
        at, z: looks in ascending order with two borders on either side, and what they showed.
    """

    def __init__(self, n_frames: int, length: float) -> None:
        self.n_frames, self.length, self.step = n_frames, length, step_of(length)
        self.at, self.z = [-1, -1, n_frames, n_frames], [0.0] * 4

    def look(self, row: int, score: float) -> tuple[int, int, int]:
        """Add a look: the gap that it divides, and the first and the last gap that it changes, numbered afterwards."""
        at, z = self.at, self.z
        index = bisect_left(at, row, 2)
        at.insert(index, row)
        z.insert(index, score)
        # A gap sees two looks on either side, and more of them where it touches a run of looks inside the moment.
        first, last = index - 3, index
        if z[index - 1] > 0:
            while z[first + 1] > 0:
                first -= 1
        if z[index + 1] > 0:
            while z[last + 2] > 0:
                last += 1
        return index - 2, max(first, 0), min(last, len(at) - 4)

    def known(self, gap: int) -> list[float]:
        """The features of a gap, in the order of `gaps`."""
        at, z, length = self.at, self.z, self.length
        i, j = gap + 1, gap + 2
        low, high = at[i], at[j]
        before, behind, bound, other = 0.0, 0.0, i, j
        while z[bound] > 0:
            before += z[bound]
            bound -= 1
        while z[other] > 0:
            behind += z[other]
            other += 1
        run = bound + 1 if bound < i else i
        last = other - 1 if other > j else j
        room = high - low - 1
        farthest = FARTHEST * length
        values = (low - at[bound], low - at[run], at[other] - high, at[last] - high, low - at[i - 1], at[j + 1] - high)
        a, b, c, d, e, f = [(v if v < farthest else farthest) / length for v in values]
        return [
            *(a, b, c, d, e, f, (room if room < farthest else farthest) / length),
            *(min(before, FARTHEST), min(behind, FARTHEST), z[i], z[j], z[i - 1], z[j + 1]),
            *(low < 0, high >= self.n_frames, log1p(room) / 4),
            *((z[bound] + 1) / 4, (z[run] + 1) / 4, (z[other] + 1) / 4, (z[last] + 1) / 4),
        ]
