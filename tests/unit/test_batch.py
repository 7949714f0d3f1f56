"""A batch loses failed rows from its columns and keeps them as failures; together they are the rows that came in."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock.batch import Batch
from penstock.errors import DecodeError, RecordError


def _batch(size: int) -> Batch:
    return Batch(size, {"x": np.arange(size), "v": np.arange(2 * size).reshape(size, 2)})


def test_with_columns_keeps_the_ones_there() -> None:
    batch = _batch(3)
    wider = batch.with_columns({"y": np.ones(3)})
    assert (list(wider.columns), list(batch.columns)) == (["x", "v", "y"], ["x", "v"])


def test_failed_row_leaves_every_column() -> None:
    error = DecodeError("not JSON")
    batch = _batch(3).fail({1: error})
    assert (batch.size, batch.columns["x"].tolist(), batch.columns["v"].tolist()) == (2, [0, 2], [[0, 1], [4, 5]])
    assert [(failure.row, failure.error) for failure in batch.failures] == [(1, error)]


def test_no_errors_change_nothing() -> None:
    batch = _batch(2)
    assert batch.fail({}) is batch


def test_later_failures_keep_the_incoming_row_number() -> None:
    """Position 1 of what is left is row 2 of what came in."""
    batch = _batch(4).fail({1: RecordError("a")}).fail({1: RecordError("b")})
    assert [(failure.row, str(failure.error)) for failure in batch.failures] == [(1, "a"), (2, "b")]
    assert batch.rows is not None
    assert batch.rows.tolist() == [0, 3]


@given(st.integers(0, 12), st.lists(st.sets(st.integers(0, 11)), max_size=4))
def test_live_rows_and_failures_are_the_rows_that_came_in(size: int, rounds: list[set[int]]) -> None:
    """However many rows fail in however many steps, none is lost and none is twice."""
    batch = _batch(size)
    for positions in rounds:
        batch = batch.fail({position: RecordError("bad") for position in positions if position < batch.size})

    live = list(range(size)) if batch.rows is None else batch.rows.tolist()
    assert sorted(live + [failure.row for failure in batch.failures]) == list(range(size))
    assert batch.columns["x"].tolist() == live == sorted(live)
    assert batch.size == len(live)
