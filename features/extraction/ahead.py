"""Items computed ahead in a thread: frames of a video are decoded while the frames before are encoded."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from contextlib import closing
from typing import Any, TypeVar

T = TypeVar("T")
WAIT = 0.1
"""Seconds after which a full queue is looked at again, so that the thread ends where nobody reads on."""


def ahead(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """The same items in the same order, up to ``depth`` of them computed before they are asked for.

    An error of ``items`` is raised where its item would come. The thread ends with the iterator, also where it is
    closed before its end; items are then closed in that thread.
    """
    made: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(kind: str, value: Any) -> bool:
        while not stopped.is_set():
            try:
                made.put((kind, value), timeout=WAIT)
                return True
            except queue.Full:
                continue
        return False

    def compute() -> None:
        try:
            with closing(_generated(items)) as source:
                for item in source:
                    if not put("item", item):
                        return
        except BaseException as error:
            put("error", error)
        else:
            put("end", None)

    thread = threading.Thread(target=compute, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = made.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stopped.set()
        thread.join()


def _generated(items: Iterable[T]) -> Generator[T, None, None]:
    yield from items
