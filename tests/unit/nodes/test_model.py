"""A node adds its model's outputs, and a row that the model refuses fails alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from onnx import TensorProto, helper

from penstock.batch import Array, Batch
from penstock.errors import InferenceError
from penstock.model.quarantine import Findings, quarantine
from penstock.model.session import Session
from penstock.nodes import HASTY, Context, ModelNode, Runs
from penstock.testing import models


def node_of(model: bytes | Runs, name: str, *, deadline: float = 2.0) -> ModelNode:
    """A node over the column `x`."""
    runs = Session.load(model, deadline=deadline) if isinstance(model, bytes) else model
    return ModelNode(name, f"{name}@1", runs, (("x", lambda columns: columns["x"].reshape(-1, 1)),), ("y",), (f"{name}.y",))


def gather_node(model: Runs | None = None) -> ModelNode:
    """Rows 0 to 2 are scored as 10, 20, 30; any other number makes the model raise for the whole batch."""
    return node_of(model or models.gather([10, 20, 30]), "table")


def batch(*items: int) -> Batch:
    return Batch(len(items), {"x": np.array(items)})


def test_outputs_become_columns_under_the_nodes_names() -> None:
    done = gather_node().run(batch(2, 0))
    assert {name: column.tolist() for name, column in done.columns.items()} == {"x": [2, 0], "table.y": [[30], [10]]}


def test_guilty_row_fails_and_says_why() -> None:
    done = gather_node().run(batch(0, 9, 2))
    assert done.columns["table.y"].tolist() == [[10], [30]]
    (failure,) = done.failures
    assert (failure.row, failure.error.where, type(failure.error)) == (1, "table", InferenceError)
    assert str(failure.error).startswith("table@1 cannot score the event: the model refused the batch: ")
    assert "idx=9" in str(failure.error)


def test_row_that_is_alone_is_not_asked_twice() -> None:
    """The batch that failed was the row."""
    asked = Asked(Session.load(models.gather([10])))
    done = gather_node(asked).run(batch(5))
    assert (done.size, [failure.row for failure in done.failures], asked.sizes) == (0, [0], [1])


def test_search_for_one_guilty_row_halves_the_rest() -> None:
    """Two runs a level, not one a row: 256 rows take at most 1 + 2 · 8 runs."""
    asked = Asked(Session.load(models.gather([10, 20, 30])))
    done = gather_node(asked).run(batch(*[0] * 200, 9, *[1] * 55))
    assert (done.size, [failure.row for failure in done.failures]) == (255, [200])
    assert len(asked.sizes) <= 17


def test_without_isolation_the_error_is_raised_and_nothing_searched() -> None:
    asked = Asked(Session.load(models.gather([10, 20, 30])))
    with pytest.raises(InferenceError, match="idx=9"):
        gather_node(asked).run(batch(0, 9, 2), HASTY)
    assert asked.sizes == [3]


def test_row_that_takes_too_much_memory_fails_alone() -> None:
    """The model passes quarantine: there it was asked for little. Its neighbours are scored."""
    model = models.growing("Range")
    assert quarantine(model) == Findings(())
    done = node_of(model, "range").run(Batch(4, {"x": np.array([1, 2, 1.05e9, 3], np.float32)}))
    assert done.columns["range.y"].tolist() == [[1], [2], [3]]
    (failure,) = done.failures
    assert (failure.row, "range@1 cannot score the event: the model needs too much memory" in str(failure.error)) == (2, True)


def test_row_that_takes_too_long_is_stopped_and_fails_alone() -> None:
    """The model turns as often as its largest input says; the deadline ends the row that would turn for ever."""
    node = node_of(turns_as_told(), "spin", deadline=0.15)
    done = node.run(batch(1, 2**60, 2))
    assert done.columns["spin.y"].tolist() == [[1], [2]]
    (failure,) = done.failures
    assert failure.row == 1
    assert str(failure.error) == "spin@1 cannot score the event: the model was stopped: a run took longer than 0.15 s"


def test_answers_for_other_rows_than_asked_are_refused() -> None:
    """A model that folds the rows into one cannot be matched to events."""
    distinct = models.model([helper.make_node("Unique", ["x"], ["y"], axis=0)], [models.tensor("x")], [models.tensor("y")])
    node = node_of(distinct, "total")
    with pytest.raises(InferenceError, match=r"total@1 gave y of shape \(1, 1\) for 3 rows"):
        node.run(Batch(3, {"x": np.ones(3, np.float32)}), HASTY)


def test_answers_of_changing_width_fail_their_rows() -> None:
    """Halves of a batch whose answers do not fit together cannot be one column; the worker must not fall over it."""
    width = models.model(
        [
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Unsqueeze", ["most", "zero"], ["width"]),
            helper.make_node("Concat", ["one", "width"], ["repeats"], axis=0),
            helper.make_node("Gather", ["table", "x"], ["checked"]),
            helper.make_node("Tile", ["checked", "repeats"], ["y"]),
        ],
        [models.tensor("x", "int64")],
        [models.tensor("y", "float32", (None,))],
        {"zero": np.array([0]), "one": np.array([1]), "table": np.arange(4, dtype=np.float32)},
    )
    node = node_of(width, "wide")
    done = node.run(batch(1, 9, 2, 3))
    assert done.size == 0
    reasons = [(failure.row, "depends on the rows beside" in str(failure.error)) for failure in done.failures]
    assert reasons == [(0, True), (1, False), (2, True), (3, True)]


class Asked:
    """Notes how many rows each run of a model had."""

    def __init__(self, model: Runs) -> None:
        self.model = model
        self.sizes: list[int] = []

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        self.sizes.append(len(next(iter(feeds.values()))))
        return self.model.run(outputs, feeds)


def turns_as_told() -> bytes:
    """Gives back `x` after as many turns of a loop as the largest `x`."""
    turn = helper.make_tensor_value_info("turn", TensorProto.INT64, [])
    go, still = (helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go", "still"))
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["still"]), helper.make_node("Identity", ["value"], ["next"])],
        "body",
        [turn, go, models.tensor("value", "int64")],
        [still, models.tensor("next", "int64")],
    )
    nodes = [helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0), helper.make_node("Loop", ["most", "yes", "x"], ["y"], body=body)]
    return models.model(nodes, [models.tensor("x", "int64")], [models.tensor("y", "int64")], {"yes": np.bool_(True)})


def test_batch_over_which_the_model_has_raised_is_not_run_whole_again() -> None:
    """The second try of a chunk begins with the halves."""
    asked = Asked(Session.load(models.gather([10, 20, 30])))
    with pytest.raises(InferenceError) as raised:
        gather_node(asked).run(batch(0, 9, 2, 1), HASTY)
    done = gather_node(asked).run(batch(0, 9, 2, 1), Context(raised=raised.value))
    assert [failure.row for failure in done.failures] == [1]
    assert asked.sizes[:3] == [4, 2, 2]
