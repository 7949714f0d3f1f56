"""Whatever rows of a batch are bad, exactly those fail, in whatever nodes, and the others are scored as if they had come alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock.batch import Batch
from penstock.errors import RecordError
from penstock.model.session import Session
from penstock.nodes import ModelNode
from penstock.testing import models

TABLE = [10.0, 20.0, 30.0]
BAD = len(TABLE)  # the first number that is in no row of the table: the model raises for the whole batch

_session = Session.load(models.gather(TABLE))


def _node(name: str, column: str) -> ModelNode:
    return ModelNode(name, f"{name}@1", _session, (("x", lambda columns: columns[column].reshape(-1, 1)),), ("y",), (f"{name}.y",))


first, second = _node("first", "a"), _node("second", "b")
items = st.integers(0, BAD)
rows = st.lists(st.tuples(items, items), max_size=40)


@given(rows)
def test_exactly_the_bad_rows_fail_and_the_others_keep_their_order(values: list[tuple[int, int]]) -> None:
    """Two nodes, one after the other: what the first has failed the second never sees."""
    batch = Batch(len(values), {name: np.array([pair[i] for pair in values], np.int64) for i, name in enumerate("ab")})
    for node in (first, second):
        if batch.size:
            batch = node.run(batch)

    scored = [row for row, (a, b) in enumerate(values) if BAD not in (a, b)]
    assert (list(range(len(values))) if batch.rows is None else batch.rows.tolist()) == scored
    assert {failure.row: failure.error.where for failure in batch.failures} == {
        row: "first" if a == BAD else "second" for row, (a, b) in enumerate(values) if BAD in (a, b)
    }
    assert len(batch.failures) == len(values) - len(scored)
    for i, name in enumerate(("first.y", "second.y")):
        answers = batch.columns[name].ravel().tolist() if scored else []
        assert answers == [TABLE[values[row][i]] for row in scored]


@given(st.lists(items, min_size=1, max_size=40), st.sets(st.integers(0, 39)))
def test_rows_that_failed_before_change_nothing(values: list[int], gone: set[int]) -> None:
    """A batch that came in with failures gives what the rows left give by themselves, under the numbers that they had."""
    whole = Batch(len(values), {"a": np.array(values, np.int64)})
    before = whole.fail({row: RecordError("before") for row in gone if row < len(values)})
    if not before.size:
        return
    alone = first.run(Batch(before.size, before.columns))
    together = first.run(before)
    numbers = list(range(len(values))) if before.rows is None else before.rows.tolist()
    assert together.failures[: len(before.failures)] == before.failures
    assert [failure.row for failure in together.failures[len(before.failures) :]] == [numbers[failure.row] for failure in alone.failures]
    if alone.size:
        np.testing.assert_array_equal(together.columns["first.y"], alone.columns["first.y"])
