"""The English of the shapes world: a small grammar of templates and synonyms."""

from __future__ import annotations

import numpy as np

# The first word of each entry is the plain one, the only one the easy level uses.
COLOUR_WORDS = {
    "red": ("red", "crimson"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "cyan": ("cyan", "turquoise"),
    "blue": ("blue", "azure"),
    "magenta": ("magenta", "pink"),
}
SHAPE_WORDS = {
    "circle": ("circle", "disc", "ball"),
    "square": ("square", "block"),
    "triangle": ("triangle", "wedge"),
    "diamond": ("diamond", "rhombus"),
}


def _sideways(side: str) -> tuple[str, ...]:
    verbs = ("moves", "slides", "goes", "travels", "heads")
    return tuple(f"{verb} {where}" for verb in verbs for where in (side, f"to the {side}", f"{side}wards"))


EVENT_PHRASES = {
    "moves left": _sideways("left"),
    "moves right": _sideways("right"),
    "moves up": ("moves up", "rises", "goes upwards", "climbs", "travels up", "heads upwards"),
    "moves down": ("moves down", "sinks", "goes downwards", "descends", "travels down", "heads downwards"),
    "grows": ("grows", "gets bigger", "expands", "becomes larger", "swells"),
    "shrinks": ("shrinks", "gets smaller", "contracts", "becomes smaller", "dwindles"),
    "blinks": ("blinks", "flashes", "flickers", "goes on and off", "twinkles"),
}
TEMPLATES = (
    "the {colour} {shape} {event}",
    "a {colour} {shape} {event}",
    "find where the {colour} {shape} {event}",
    "the moment when the {colour} {shape} {event}",
    "the {shape} that is {colour} {event}",
    "show the {colour} {shape} as it {event}",
    "there is a {colour} {shape} and it {event}",
)


def describe(rng: np.random.Generator, colour: str, shape: str, event: str, plain: bool = False) -> str:
    """One sentence about an object and its event, drawn from the grammar; ``plain`` gives the canonical one."""
    options = (TEMPLATES, COLOUR_WORDS[colour], SHAPE_WORDS[shape], EVENT_PHRASES[event])
    template, *words = (o[0] if plain else o[int(rng.integers(len(o)))] for o in options)
    sentence = template.format(colour=words[0], shape=words[1], event=words[2])
    return sentence.replace("a emerald", "an emerald").replace("a azure", "an azure")
