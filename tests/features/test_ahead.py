"""Items that a thread computes ahead: order, errors, and an end that leaves no thread behind."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from strong_envs.features.extraction.ahead import ahead


def test_items_keep_their_order_and_at_most_so_many_are_ahead():
    made = []

    def numbers():
        for n in range(50):
            made.append(n)
            yield n

    seen = []
    with closing(ahead(numbers(), 4)) as items:
        for n in items:
            # One more is computed and waits for its place, and one more may have been begun.
            assert len(made) <= n + 1 + 4 + 2
            seen.append(n)
    assert seen == made == list(range(50))


def test_an_error_is_raised_in_its_place():
    def broken():
        yield 1
        raise ValueError("no more")

    items = ahead(broken(), 8)
    assert next(items) == 1
    with pytest.raises(ValueError, match="no more"):
        next(items)


def test_an_iterator_that_is_closed_early_leaves_no_thread_and_closes_its_items():
    before, closed = set(threading.enumerate()), []

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.append(True)

    items = ahead(endless(), 2)
    next(items)
    items.close()
    assert not set(threading.enumerate()) - before and closed == [True]
