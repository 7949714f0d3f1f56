"""The contract of a node (`run(batch, context) -> batch`), as one function: give it a node, rows that it scores, and rows that it refuses.

Rows are independent: other rows change neither whether a row fails nor its result. No row is lost: it is in the columns or
among the failures, under its original number. A node only adds columns: the given ones are kept unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from penstock.batch import Array, Batch, Failure
from penstock.errors import DecodeError, InferenceError, RecordError
from penstock.nodes import HASTY, Node

__all__ = ["check_node"]

Columns = Mapping[str, Array]


def check_node(node: Node, good: Columns, bad: Columns | None = None, *, rtol: float = 1e-5) -> None:
    """Asserts everything that a node promises.

    `good` holds at least three rows that it scores, and `bad` at least one that it refuses, as the columns that it reads, each
    `[N, ...]`. Without `bad`, refused rows are not checked. Floats must be equal up to `rtol`, because a model may sum in
    another order at another batch size.
    """
    scored = _adds_columns_and_keeps_the_rest(node, good)
    _gives_the_same_again(node, good, scored)
    _scores_each_row_for_itself(node, good, scored, rtol)
    _lets_earlier_failures_ride_along(node, good, scored, rtol)
    if bad is not None:
        _fails_exactly_the_bad_rows(node, good, scored, bad, rtol)
        _may_lose_every_row(node, bad)
        _raises_when_it_is_not_to_look_for_the_guilty(node, good, bad)


def _adds_columns_and_keeps_the_rest(node: Node, good: Columns) -> Columns:
    batch = _batch(good)
    assert batch.size >= 3, "give at least three rows that are scored"
    before = {name: column.copy() for name, column in good.items()}
    done = node.run(batch)
    assert (done.size, done.failures) == (batch.size, ()), f"rows that should be scored failed: {_reasons(done)}"
    assert list(batch.columns) == list(before), "the node has changed the given batch"
    for name, column in before.items():
        np.testing.assert_array_equal(batch.columns[name], column, f"the node has written into the given column {name!r}")
        np.testing.assert_array_equal(done.columns[name], column, f"the given column {name!r} is not kept")
    added = {name: column for name, column in done.columns.items() if name not in before}
    assert added, "no column was added"
    for name, column in added.items():
        assert column.shape[:1] == (batch.size,), f"column {name!r} has {column.shape} for {batch.size} rows"
    return added


def _gives_the_same_again(node: Node, good: Columns, scored: Columns) -> None:
    """A chunk that is run a second time gives the same answers, bit by bit: it has left no trace in the node."""
    for _ in range(2):
        done = node.run(_batch(good))
        for name, column in scored.items():
            np.testing.assert_array_equal(done.columns[name], column, f"a second run of the chunk gives other answers in {name!r}")


def _scores_each_row_for_itself(node: Node, good: Columns, scored: Columns, rtol: float) -> None:
    """A row has the same result alone, in another order, and beside other rows."""
    size = len(next(iter(good.values())))
    for rows in (*([row] for row in range(size)), list(reversed(range(size))), list(range(size)) * 2):
        done = node.run(_batch(_rows(good, rows)))
        _equal(done, _rows(scored, rows), list(range(len(rows))), rtol, "a row depends on other rows")


def _lets_earlier_failures_ride_along(node: Node, good: Columns, scored: Columns, rtol: float) -> None:
    """Rows 0 and 2 failed before; the remaining rows keep their numbers."""
    size = len(next(iter(good.values())))
    error = DecodeError("failed before")
    done = node.run(_batch(good).fail({0: error, 2: error}))
    left = [row for row in range(size) if row not in (0, 2)]
    assert done.failures == (Failure(0, error), Failure(2, error)), f"earlier failures are not kept unchanged: {_reasons(done)}"
    _equal(done, _rows(scored, left), left, rtol, "failed rows change other rows")


def _fails_exactly_the_bad_rows(node: Node, good: Columns, scored: Columns, bad: Columns, rtol: float) -> None:
    """Bad rows first, last, in the middle, several: each fails under its number, and the good rows have the same results as alone."""
    size, count = (len(next(iter(columns.values()))) for columns in (good, bad))
    for at in ([0], [size], [1], [0, size], list(range(size + 1)), [1, 1]):
        mixed: list[tuple[bool, int]] = [(True, row) for row in range(size)]
        for number, place in enumerate(sorted(at, reverse=True)):
            mixed.insert(place, (False, number % count))
        columns = {name: np.stack([(good if fine else bad)[name][row] for fine, row in mixed]) for name in good}
        done = node.run(_batch(columns))
        guilty = [row for row, (fine, _) in enumerate(mixed) if not fine]
        assert [failure.row for failure in done.failures] == guilty, f"rows {guilty} are bad; failed: {_reasons(done)}"
        for failure in done.failures:
            assert isinstance(failure.error, RecordError), f"{failure.error!r} is not a RecordError"
            assert str(failure.error), "a failure must have a message"
        _equal(done, scored, [row for row, (fine, _) in enumerate(mixed) if fine], rtol, "bad rows change other rows")


def _may_lose_every_row(node: Node, bad: Columns) -> None:
    for count in (1, 5):
        batch = _batch(_rows(bad, [0] * count))
        done = node.run(batch)
        assert (done.size, [failure.row for failure in done.failures]) == (0, list(range(count))), "a batch of bad rows only"
        assert all(len(column) == 0 for column in done.columns.values()), "a batch without rows has columns with rows"


def _raises_when_it_is_not_to_look_for_the_guilty(node: Node, good: Columns, bad: Columns) -> None:
    """Without `context.isolate`, a node must not search for bad rows. A node that knows them anyway may fail them."""
    columns = {name: np.concatenate([good[name], bad[name][:1]]) for name in good}
    size = len(next(iter(good.values())))
    try:
        done = node.run(_batch(columns), HASTY)
    except InferenceError:
        return
    assert [failure.row for failure in done.failures] == [size], "without isolation: InferenceError, or exactly the bad row fails"


def _batch(columns: Columns) -> Batch:
    return Batch(len(next(iter(columns.values()))), dict(columns))


def _rows(columns: Columns, rows: Sequence[int]) -> dict[str, Array]:
    return {name: column[rows] for name, column in columns.items()}


def _equal(done: Batch, scored: Columns, numbers: Sequence[int], rtol: float, why: str) -> None:
    assert done.size == len(numbers), f"{why}: {done.size} of {len(numbers)} rows are left: {_reasons(done)}"
    kept = list(range(done.size)) if done.rows is None else done.rows.tolist()
    assert kept == list(numbers), f"{why}: rows {kept} are left, not {list(numbers)}"
    for name, column in scored.items():
        if column.dtype.kind == "f":
            np.testing.assert_allclose(done.columns[name], column, rtol=rtol, err_msg=f"{why}: column {name!r}")
        else:
            np.testing.assert_array_equal(done.columns[name], column, f"{why}: column {name!r}")


def _reasons(batch: Batch) -> str:
    return "; ".join(f"row {failure.row}: {failure.error}" for failure in batch.failures) or "none"
