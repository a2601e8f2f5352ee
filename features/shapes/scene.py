"""Who does what, when and where: the sampled description of one video of the shapes world, from a seed.

In *standard* and *travel* four objects stand in a square of two colours by two shapes (the fourth is sometimes free).
One does events e and f; its neighbours, which share its colour or its shape, do e as well and often f. Two objects
that share a colour or a shape never do the same event at overlapping times, so neither colour and event nor shape and
event tell the moment: the sentence has to be understood whole. *Easy* has two objects that differ in both.

In *travel* every object drifts diagonally all the time and bounces off the walls, and its moves left, right, up and
down cross much of the frame: whatever place a still box holds, other objects pass through it at other times.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from strong_envs.features.shapes.events import DIRECTIONS, EVENTS, FRAMES, MAX_FRAMES, MIN_FRAMES, Act, scale, visible
from strong_envs.features.shapes.language import COLOUR_WORDS, SHAPE_WORDS

SIZE = 64
COLOURS = tuple(COLOUR_WORDS)
SHAPES = tuple(SHAPE_WORDS)
# Half width and half height of each shape at radius 1; the drawing has exactly these boxes.
EXTENT = {"circle": (1.0, 1.0), "square": (0.9, 0.9), "triangle": (1.2, 1.05), "diamond": (1.2, 1.2)}
_CANDIDATES = 128
_FIRST_PARTICLES = 512
_PARTICLES = 96
_LEG = 6
_TURN = 0.15


@dataclass(frozen=True)
class Level:
    """How hard a video is.

    ``objects``: how many; ``drift``: range of the idle speed in pixels a frame, on either axis; ``move``: range of the
    length of a move, as a share of the room between the walls; ``plain``: one canonical sentence for each query.
    """

    objects: int
    drift: tuple[float, float]
    move: tuple[float, float]
    plain: bool = False


LEVELS = {
    "easy": Level(objects=2, drift=(0.0, 0.0), move=(0.35, 0.6), plain=True),
    "standard": Level(objects=4, drift=(0.0, 0.0), move=(0.35, 0.6)),
    "travel": Level(objects=4, drift=(1.3, 2.0), move=(0.5, 0.9)),
}


@dataclass(frozen=True)
class Body:
    """One object: what it is, what it does, and per frame its centre (FRAMES, 2) and radius (FRAMES,) in pixels."""

    colour: str
    shape: str
    acts: tuple[Act, ...]
    centre: np.ndarray
    radius: np.ndarray

    @property
    def visible(self) -> np.ndarray:
        """(FRAMES,) bool: False where a blink hides the object."""
        return visible(self.acts)

    @property
    def boxes(self) -> np.ndarray:
        """(FRAMES, 4) float32 corners x1 y1 x2 y2 as fractions of the frame, also where the object is hidden."""
        half = self.radius[:, None] * np.array(EXTENT[self.shape])
        return (np.concatenate([self.centre - half, self.centre + half], axis=1) / SIZE).astype(np.float32)


@dataclass(frozen=True)
class Scene:
    """One video before it is drawn."""

    seed: int
    level: str
    bodies: tuple[Body, ...]


def stream(seed: int, level: str, purpose: str) -> np.random.Generator:
    """A random generator of its own for each purpose, so that drawing pixels never changes who does what."""
    return np.random.default_rng([seed, list(LEVELS).index(level), sum(purpose.encode())])


def sample_scene(seed: int, level: str) -> Scene:
    """The scene of a seed (a whole number from 0) at a level; the same seed and level give the same scene."""
    rng, spec = stream(seed, level, "scene"), LEVELS[level]
    while True:
        cast = _cast(rng, spec)
        times = _schedule(rng, cast)
        bodies = _place(rng, cast, times, spec) if times else None
        if bodies:
            return Scene(seed, level, bodies)


def _cast(rng: np.random.Generator, spec: Level) -> list[tuple[str, str, list[str]]]:
    """Colour, shape and events of every object, the target first."""
    c1, c2 = (COLOURS[i] for i in rng.permutation(len(COLOURS))[:2])
    s1, s2 = (SHAPES[i] for i in rng.permutation(len(SHAPES))[:2])
    e, f, g, h = (EVENTS[i] for i in rng.permutation(len(EVENTS))[:4])
    second = rng.random(3) < 0.5
    if spec.objects == 2:
        return [(c1, s1, [e, f]), (c2, s2, [e, f] if second[0] else [e])]
    cast = [(c1, s1, [e, f])]
    cast += [(c1, s2, [e, f] if second[0] else [e]), (c2, s1, [e, f] if second[1] else [e])]
    if rng.random() < 0.8:
        return [*cast, (c2, s2, [e, f] if second[2] else [e])]
    free = [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in {x[:2] for x in cast}]
    return [*cast, (*free[int(rng.integers(len(free)))], [g, h] if second[2] else [g])]


def _windows(rng: np.random.Generator, events: list[str]) -> np.ndarray:
    """(e, K, 2) candidate frames [start, end) of events: lengths uniform in .15 to .45 of the video, places uniform."""
    length = rng.integers(MIN_FRAMES, MAX_FRAMES + 1, (len(events), _CANDIDATES))
    # An even number of frames makes the first frame of a blink a dark one, so the boundary is exact.
    blinks = [i for i, event in enumerate(events) if event == "blinks"]
    length[blinks] = np.maximum(length[blinks] // 2 * 2, MIN_FRAMES + 1)
    start = rng.integers(0, FRAMES - length + 1)
    return np.stack([start, start + length], axis=2)


def _apart(a: np.ndarray, start: int | np.ndarray, end: int | np.ndarray, gap: int) -> np.ndarray:
    return (a[:, 0] >= end + gap) | (start >= a[:, 1] + gap)


def _schedule(rng: np.random.Generator, cast: list[tuple[str, str, list[str]]]) -> list[tuple[Act, ...]] | None:
    """The events of every object with their times, or None where the draw does not fit."""
    done: list[tuple[Act, ...]] = []
    for colour, shape, events in cast:
        windows = _windows(rng, events)
        good = np.ones(_CANDIDATES, bool)
        if len(windows) == 2:
            good &= _apart(windows[0], windows[1, :, 0], windows[1, :, 1], gap=3)
        for other, acts in zip(cast, done, strict=False):
            near = len(cast) == 2 or other[0] == colour or other[1] == shape
            for act in acts:
                if near and act.event in events:
                    good &= _apart(windows[events.index(act.event)], act.start, act.end, gap=1)
        if not good.any():
            return None
        chosen = windows[:, int(good.argmax())].tolist()
        done.append(tuple(Act(event, *window) for event, window in zip(events, chosen, strict=True)))
    return done


def _place(
    rng: np.random.Generator, cast: list[tuple[str, str, list[str]]], times: list[tuple[Act, ...]], spec: Level
) -> tuple[Body, ...] | None:
    """Everybody's sizes and paths, in random order, or None where no paths were found."""
    order = rng.permutation(len(cast))
    cast, times = [cast[i] for i in order], [times[i] for i in order]
    radius = np.empty((len(cast), FRAMES))
    for row, acts in zip(radius, times, strict=True):
        size = scale(acts, rng.uniform(1.7, 2.0))
        row[:] = size / size.min() * (rng.uniform(3.4, 3.9) if np.ptp(size) else rng.uniform(4.2, 5.6))
    half = radius * np.array([EXTENT[shape] for _, shape, _ in cast]).T[:, :, None]
    paths = _paths(rng, times, half, spec)
    if paths is None:
        return None
    return tuple(Body(c[0], c[1], a, p, r) for c, a, p, r in zip(cast, times, paths, radius, strict=True))


def _paths(rng: np.random.Generator, times: list[tuple[Act, ...]], half: np.ndarray, spec: Level) -> np.ndarray | None:
    """(n, FRAMES, 2) centres on which the n boxes never touch each other nor the walls, or None where none are found.

    ``half`` is (2, n, FRAMES): half width and half height in pixels. A particle filter: many versions of the video grow
    leg by leg, and those in which something touches are replaced by copies of the others. Rejecting finished videos
    would take many thousands of them once every object moves.
    """
    n = len(times)
    low = (half.max(axis=2) + 2.0)[:, None]
    width = SIZE - 2 * low
    first, second = np.triu_indices(n, 1)
    room = (half[:, first] + half[:, second] + 1.0)[:, None]
    # Everybody trembles all the time: stillness is no sign of anything.
    tremble = rng.uniform(-0.3, 0.3, (2, 1, n, FRAMES))
    k = _FIRST_PARTICLES
    here = low + width * rng.random((2, k, n))
    speed = _drift(rng, spec, (2, k, n))
    legs: list[tuple[np.ndarray, np.ndarray]] = []
    for start, end in _legs(times, _LEG if spec.drift[1] else FRAMES):
        good = np.ones(k, bool)
        turn = rng.random((2, k, n)) < _TURN
        for i, acts in enumerate(times):
            for move in acts:
                if move.event in DIRECTIONS and move.end == start:
                    speed[:, :, i] = _drift(rng, spec, (2, k))
                if move.event in DIRECTIONS and move.start <= start < move.end:
                    turn[:, :, i] = False
                    if move.start == start:
                        speed[:, :, i], fits = _stride(rng, spec, move, (here - low)[:, :, i], width[:, 0, i])
                        good &= fits
        speed[turn] *= -1
        # Reflection at the walls: fold the straight line back into the frame.
        phase = (here - low)[..., None] + speed[..., None] * np.arange(1, end - start + 1)
        phase %= 2 * width[..., None]
        leg = (low + width)[..., None] - np.abs(phase - width[..., None])
        here = leg[..., -1]
        speed = np.where(phase[..., -1] < width, speed, -speed)
        leg += tremble[..., start:end]
        far = np.abs(leg[:, :, first] - leg[:, :, second]) > room[..., start:end]
        good &= (far[0] | far[1]).reshape(k, -1).all(axis=1)
        alive = np.flatnonzero(good)
        if not alive.size:
            return None
        k = _PARTICLES
        pick = alive[rng.integers(alive.size, size=k)]
        here, speed = here[:, pick], speed[:, pick]
        legs.append((leg, pick))
    one, path = 0, np.empty((2, n, 0))
    for leg, pick in reversed(legs):
        one = pick[one]
        path = np.concatenate([leg[:, one], path], axis=2)
    return path.transpose(1, 2, 0)


def _drift(rng: np.random.Generator, spec: Level, shape: tuple[int, ...]) -> np.ndarray:
    """Velocities along the diagonals, in pixels a frame and axis."""
    return rng.uniform(*spec.drift, shape) * np.where(rng.random(shape) < 0.5, -1.0, 1.0)


def _stride(
    rng: np.random.Generator, spec: Level, move: Act, place: np.ndarray, width: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Velocities (2, K) of a move from each of the places (2, K) in a room of (2,) ``width``; (K,) whether it fits."""
    direction = np.array(DIRECTIONS[move.event])
    axis = int(np.abs(direction).argmax())
    share = place[axis] / width[axis]
    free = np.minimum(share if direction[axis] < 0 else 1 - share, spec.move[1])
    length = spec.move[0] + (free - spec.move[0]) * rng.random(len(free))
    return direction[:, None] * (length * width[axis] / (move.end - move.start)), free >= spec.move[0]


def _legs(times: list[tuple[Act, ...]], longest: int) -> list[tuple[int, int]]:
    """Frames [start, end) of stretches of at most ``longest`` frames, cut wherever an object starts or ends a move."""
    moves = [act for acts in times for act in acts if act.event in DIRECTIONS]
    cuts = sorted({0, 1, FRAMES, *(a.start for a in moves), *(a.end for a in moves)})
    legs: list[tuple[int, int]] = []
    for a, b in pairwise(cuts):
        parts = -(-(b - a) // longest)
        ends = [a + (b - a) * i // parts for i in range(parts + 1)]
        legs += pairwise(ends)
    return legs
