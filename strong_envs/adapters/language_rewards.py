"""Rewards for language models that answer with a window, as TRL's ``GRPOTrainer`` takes them.

::

    from trl import GRPOConfig, GRPOTrainer
    from strong_envs.adapters.language_rewards import format_reward, iou_reward, questions

    trainer = GRPOTrainer(
        model="my/model",
        reward_funcs=[iou_reward, format_reward],
        train_dataset=datasets.Dataset.from_list(questions(features.load("my_store", "train"))),
        args=GRPOConfig(...),
    )

The expected answer is ``<answer>12.5 to 20.1</answer>`` in seconds, with any reasoning before it. An answer that cannot
be read is paid 0, as is one whose end is not after its start. Nothing here needs TRL.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from strong_envs.core.spans import CLAMPED, overlap
from strong_envs.features.errors import DataError

if TYPE_CHECKING:
    from strong_envs.features.bank.bank import FeatureBank

INSTRUCTION = (
    "The video is {duration:.1f} seconds long. When does this happen: {text}? "
    "Answer with start and end in seconds, such as <answer>12.5 to 20.1</answer>."
)
Window = tuple[float, float]

# No pattern here takes more than linear time: a model that learns writes anything.
_TAG = re.compile(r"<(/?)answer>", re.I)
_TIME = r"(\d{1,6}(?::[0-5]?\d){1,2}(?:\.\d+)?|\d{1,6}(?:\.\d+)?)"
_SPACE = r"\s{0,9}"
_UNIT = rf"(?:{_SPACE}(?:seconds?|secs?|s))?"
_LINK = rf"{_SPACE}(?:to|until|and|,|;|-|\u2013|\u2014){_SPACE}"
_OTHER = rf"[\d:]|e[+-]?\d|{_SPACE}(?:min|hour|h\b|m\b|ms\b|%)"
_PAIR = re.compile(rf"(?<![\w.:-]){_TIME}{_UNIT}{_LINK}{_TIME}(?!{_OTHER})", re.I)
_WHOLE = re.compile(
    r"\s*(?:<think>(?:(?!</?think>|</?answer>).)*</think>\s*)?<answer>(?:(?!</?answer>).)*</answer>\s*", re.S
)


def parse_window(text: str) -> Window | None:
    """The window that a text names, in seconds; None where it names none.

    Read are ``12.5 to 20.1``, ``12.5-20.1``, ``12.5s, 20.1s`` and ``0:12 to 0:20.5``: the last pair inside the last
    ``<answer>`` of the text, or of the whole text where it has no such tag.

    Args:
        text: the answer of a model.

    Returns:
        Start and end in seconds, start before end; None if there are no two such numbers.
    """
    pairs = _PAIR.findall(_answer(text))
    if not pairs:
        return None
    start, end = (_seconds(part) for part in pairs[-1])
    return (start, end) if start < end else None


def iou_reward(completions: Sequence[Any], windows: Sequence[Any] | None = None, **_: Any) -> list[float]:
    """The temporal IoU of each answer with the nearest true window; 0 for an answer that cannot be read.

    Args:
        completions: texts, or conversations as lists of messages with ``content``, of which the last is read.
        windows: the true windows of each: (K, 2) seconds, or one pair. A column of the data set, which TRL passes on.

    Raises:
        DataError: the column ``windows`` is missing, of another length, or not of pairs with start before end.
    """
    if windows is None:
        raise DataError("iou_reward needs the true windows: a column 'windows' of the data set, (K, 2) seconds a row")
    for name, value in (("completions", completions), ("windows", windows)):
        if not hasattr(value, "__len__"):
            raise DataError(f"{name} must be a list with one entry a completion, got {str(value)[:80]!r}")
    if len(windows) != len(completions):
        raise DataError(f"there are {len(completions)} completions and {len(windows)} entries of windows")
    paid = []
    for completion, true in zip(completions, windows, strict=True):
        known = _windows(true)
        answer = parse_window(text_of(completion))
        paid.append(0.0 if answer is None else max(float(overlap(*answer, a, b, CLAMPED)) for a, b in known))
    return paid


def format_reward(completions: Sequence[Any], **_: Any) -> list[float]:
    """1 for ``<answer>A to B</answer>`` after at most one ``<think>...</think>``, 0 for any other form.

    Args:
        completions: as for `iou_reward`.
    """
    texts = [text_of(completion) for completion in completions]
    return [float(_WHOLE.fullmatch(text) is not None and parse_window(text) is not None) for text in texts]


def questions(bank: FeatureBank, instruction: str = INSTRUCTION) -> list[dict[str, Any]]:
    """One row per query of a bank, for ``datasets.Dataset.from_list``.

    Args:
        bank: one split whose truth is open: a training part.
        instruction: of the prompt, with ``{text}`` and ``{duration}``.

    Returns:
        Rows with ``prompt``, ``windows`` (K, 2) in seconds, ``duration`` in seconds, ``video`` and ``qid``.
    """
    try:
        instruction.format(text="", duration=0.0)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise DataError(f"instruction may hold {{text}} and {{duration}}, got {instruction[:80]!r}: {error}") from None
    rows = []
    for query, video in zip(bank.queries, bank.video.tolist(), strict=True):
        duration = float(bank.duration[video])
        rows.append(
            {
                "prompt": instruction.format(text=query.text.rstrip(" .?"), duration=duration),
                "windows": [[float(a), float(b)] for a, b in query.windows],
                "duration": duration,
                "video": query.video,
                "qid": query.qid,
            }
        )
    return rows


def text_of(completion: Any) -> str:
    """The text of a completion: itself, or the content of its last message. Raises `DataError` for anything else."""
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Sequence) and completion and isinstance(completion[-1], Mapping):
        content = completion[-1].get("content")
        if isinstance(content, str):
            return content
        if isinstance(content, Sequence):  # parts of several kinds
            texts = [part.get("text") for part in content if isinstance(part, Mapping)]
            return "".join(text for text in texts if isinstance(text, str))
    raise DataError(f"a completion must be a text or a list of messages with 'content', got {str(completion)[:80]!r}")


def _answer(text: str) -> str:
    """What lies inside the last ``<answer>`` that is closed; the whole text where there is none."""
    inside, opened = text, None
    for tag in _TAG.finditer(text):
        if not tag[1]:
            opened = tag.end()
        elif opened is not None:
            inside, opened = text[opened : tag.start()], None
    return inside


def _seconds(text: str) -> float:
    """Seconds of ``12.5``, ``1:05`` or ``1:02:03.5``."""
    return sum(float(part) * 60**place for place, part in enumerate(reversed(text.split(":"))))


def _windows(true: Any) -> list[Window]:
    """The true windows of one row."""
    try:
        pairs = np.asarray(true)
    except (TypeError, ValueError):
        pairs = np.zeros(0)  # rows of different lengths
    if pairs.dtype.kind not in "iuf" or pairs.ndim not in (1, 2) or pairs.shape[-1] != 2:
        raise DataError(f"windows must be (K, 2) seconds, got {str(true)[:80]!r}")
    known = [(float(a), float(b)) for a, b in pairs.reshape(-1, 2)]
    if not known or not all(math.isfinite(a) and math.isfinite(b) and a < b for a, b in known):
        raise DataError(f"windows must be pairs with start before end, got {str(true)[:80]!r}")
    return known
