"""Decided groups as a batch: the columns of each member, what stands for an absent one, and the decision."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from penstock.batch import Array, Batch
from penstock.errors import MemberMissing
from penstock.joins import END, Quorum, present
from penstock.joins.groups import Groups
from penstock.joins.rows import DEADLINE, MASK, OVERDUE, Rows
from penstock.schema import Column, Missing

QUORUM = Quorum(("trees", "lr"), 1, 40, frozenset({"lr"}))
ID, SCORE = Column("id", "id", "string"), Column("score", "score", "float32")
OTHER = Column("other", "other", "float32")
FLAGS, ITEMS, TAGS = (
    Column("flags", "flags", "bool", (2,)),
    Column("items", "items", "int64", (None,)),
    Column("tags", "tags", "string", (2,)),
)


class Join:
    """Groups and rows together, as a caller uses them."""

    def __init__(self, quorum: Quorum, columns: Sequence[Sequence[Column]]) -> None:
        self.groups, self.rows = Groups(quorum), Rows(quorum, columns)

    def add(self, member: int, ids: Sequence[str], **columns: Array) -> Batch:
        added = self.groups.add(member, ids, np.full(len(ids), 1000), np.arange(len(ids)), 1000)
        self.rows.put(member, added.rows, added.slots, columns)
        return self.rows.take(added.fired)

    def due(self) -> Batch:
        return self.rows.take(self.groups.due(2000, (END, END)))


def _plain(batch: Batch) -> Mapping[str, object]:
    return {name: column.tolist() for name, column in batch.columns.items()}


def test_fired_groups_have_the_columns_of_every_member() -> None:
    join = Join(QUORUM, [[ID, SCORE], [ID, OTHER]])
    assert join.add(0, ["x", "y"], id=np.array(["x", "y"], object), score=np.array([1, 2], "f4")).size == 0
    batch = join.add(1, ["y", "z"], id=np.array(["y", "z"], object), other=np.array([3, 4], "f4"))
    assert _plain(batch) == {
        "id": ["y", "z"], "score": [2, 0], "other": [3, 4], present("trees"): [True, False], present("lr"): [True, True],
        MASK: [3, 2], DEADLINE: [1040, 1040], OVERDUE: [0, 0],
    }  # fmt: skip
    assert {name: batch.columns[name].dtype for name in ("id", "score", MASK)} == {"id": object, "score": "f4", MASK: "i8"}


@pytest.mark.parametrize(
    ("column", "value", "absent"),
    [
        (SCORE, np.array([7], "f4"), 0),
        (FLAGS, np.array([[True, True]]), [False, False]),
        (ID, np.array(["x"], object), ""),
        (TAGS, np.array([["p", "q"]], object), ["", ""]),
    ],
    ids=["number", "array", "text", "array of texts"],
)
def test_absent_member_has_zeros_and_empty_texts(column: Column, value: Array, absent: object) -> None:
    """Also in a slot that another group has used."""
    join = Join(QUORUM, [[column], []])
    join.add(0, ["x"], **{column.name: value})
    assert join.add(1, ["x"]).columns[column.name].tolist() == value.tolist()
    assert join.add(1, ["y"]).columns[column.name].tolist() == [absent]


def test_rows_may_have_arrays_of_different_lengths() -> None:
    join = Join(QUORUM, [[ITEMS], []])
    items = np.empty(2, object)
    items[:] = [np.arange(3), np.arange(1)]
    join.add(0, ["x", "y"], items=items)
    made = join.add(1, ["z", "y", "x"]).columns["items"]
    assert [one.tolist() for one in made] == [[], [0], [0, 1, 2]]
    assert made[0].dtype == np.int64


def test_group_that_has_failed_names_its_missing_members() -> None:
    join = Join(QUORUM, [[SCORE], []])
    join.add(0, ["x"], score=np.array([1], "f4"))
    batch = join.due()
    (failure,) = batch.failures
    assert (batch.size, failure.row) == (0, 0)
    assert isinstance(failure.error, MemberMissing)
    assert failure.error.members == ("lr",)
    assert str(failure.error) == "no record of lr within 40 ms: trees came, the join needs 1 of 2 members, lr"


def test_only_the_rows_that_wait_are_kept() -> None:
    """The first record of an id counts, and its row with it."""
    join = Join(QUORUM, [[SCORE], []])
    join.add(0, ["x", "x", "y"], score=np.array([1, 2, 3], "f4"))
    assert join.add(1, ["y", "x"]).columns["score"].tolist() == [3, 1]


def test_text_is_released_with_its_row() -> None:
    class Text(str):
        __slots__ = ("__weakref__",)

    join = Join(QUORUM, [[ID], []])
    text = Text("x")
    seen = weakref.ref(text)
    join.add(0, ["x"], id=np.array([text], object))
    del text
    assert seen() is not None
    join.add(1, ["x"])
    assert seen() is None


def test_shared_column_has_one_type() -> None:
    for other in (Column("score", "score", "float64"), Column("score", "score", "float32", missing=Missing("fill", None))):
        with pytest.raises(ValueError, match="has the column score has it with the same type"):
            Rows(QUORUM, [[SCORE], [other]])


def test_column_of_several_members_is_that_of_the_first_one_that_is_there() -> None:
    """Whichever of them carry it, and whichever came."""
    quorum = Quorum(("a", "b", "c"), 2, 40)
    join = Join(quorum, [[], [SCORE], [OTHER, SCORE]])
    join.add(0, ["x", "y"])
    assert join.add(2, ["y", "z"], other=np.array([5, 6], "f4"), score=np.array([3, 4], "f4")).columns["score"].tolist() == [3]
    batch = join.add(1, ["x", "z"], score=np.array([1, 4], "f4"))
    assert (batch.columns["score"].tolist(), batch.columns["other"].tolist()) == ([1, 4], [0, 6])


@pytest.mark.parametrize("dtype", ["int64", "float64", "bool", "string"])
def test_null_that_is_only_passed_on_stays_null(dtype: str) -> None:
    """Also where no member that carries it is there."""
    column = Column("note", "note", dtype, missing=Missing("fill", None))
    join = Join(QUORUM, [[column], []])
    values = np.empty(2, object)
    values[:] = [None, np.ones(1, bool if dtype == "string" else dtype).tolist()[0]]
    join.add(0, ["x", "y"], note=values)
    assert join.add(1, ["x", "y", "z"]).columns["note"].tolist() == [*values, None]
