"""Six ways to lose count of what is finished: each shown on stock Faust's consumer, and each absent from Penstock's tracker.

A script tells what is right to have committed at its end: up to the first offset that is neither finished nor a hole in the log.
Beyond it, records are lost when the worker dies; short of it for ever, they are processed again at every start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.kafka.stock.books import Book, FaustBook, PenstockBook

Script = Callable[[Book], Awaitable[range]]


async def one_in_flight_at_the_head(book: Book) -> range:
    """L1: the oldest record takes long, the next ones are done."""
    await book.fetch()
    await book.finish(0, 1)
    await book.checkpoint()
    await book.finish(3, 4, 5)
    await book.checkpoint()
    return range(2, 3)


async def one_in_flight_after_a_hole(book: Book) -> range:
    """L2: compaction has removed 11 to 13; 14 takes long, 15 is done."""
    await book.fetch()
    await book.finish(*range(11))
    await book.finish(15)
    await book.checkpoint()
    return range(11, 15)  # a hole may be committed with what is before it


async def a_commit_that_was_refused(book: Book) -> range:
    """L3: the broker refuses a commit; the next one must bring it."""
    await book.fetch()
    await book.finish(*range(6))
    await book.checkpoint(refused=True)
    await book.checkpoint()
    return range(6, 7)


async def an_output_that_waits_in_the_client(book: Book) -> range:
    """L8: the record's output is still in the client's buffer when the commit is due."""
    await book.fetch()
    await book.finish_unsent(0)
    return range(1)


async def records_dropped_by_a_rebalance(book: Book) -> range:
    """L9: the group rebalances when 3 of 10 fetched records were handed out; reading goes on, and all that was read is finished.

    A rebalance of the whole app seeks back afterwards; the consumer by itself, as here, takes the hole that it made for compaction.
    """
    await book.fetch(moved_after=3)
    await book.fetch()
    await book.finish(*sorted(set(book.read)))
    await book.checkpoint()
    await book.checkpoint()
    first_lost = next(offset for offset in range(16) if offset not in book.read)
    return range(first_lost, first_lost + 1)


async def a_hole_after_the_first_record(book: Book) -> range:
    """S1: the log goes on at 4 after 0, as in every compacted topic sooner or later."""
    await book.fetch()
    await book.finish(0, 4, 5, 6)
    await book.checkpoint()
    await book.checkpoint()
    return range(7, 8)


# script, the log, and what stock Faust has committed at its end
HAZARDS: list[tuple[Script, list[int], int]] = [
    (one_in_flight_at_the_head, [0, 1, 2, 3, 4, 5], 6),
    (one_in_flight_after_a_hole, [*range(11), 14, 15], 16),
    (a_commit_that_was_refused, [0, 1, 2, 3, 4, 5], 0),
    (an_output_that_waits_in_the_client, [0], 1),
    (records_dropped_by_a_rebalance, [*range(15)], 15),
    (a_hole_after_the_first_record, [0, 4, 5, 6], 1),
]
NAMES = [script.__name__ for script, _, _ in HAZARDS]


def run(script: Script, make: Callable[[list[int]], Book], log: list[int]) -> tuple[Book, range]:
    async def main() -> tuple[Book, range]:
        book = make(log)
        return book, await script(book)

    return asyncio.run(main())


@pytest.mark.parametrize(("script", "log", "stored"), HAZARDS, ids=NAMES)
def test_stock_faust_commits_the_wrong_offset(script: Script, log: list[int], stored: int) -> None:
    """The hazards are real in the pinned version; should an upgrade mend one, this test says so."""
    book, safe = run(script, FaustBook, log)
    assert book.stored == stored
    assert book.stored not in safe


@pytest.mark.parametrize(("script", "log", "stored"), HAZARDS, ids=NAMES)
def test_penstock_commits_what_is_finished_and_no_more(script: Script, log: list[int], stored: int) -> None:
    book, safe = run(script, PenstockBook, log)
    assert book.stored in safe
