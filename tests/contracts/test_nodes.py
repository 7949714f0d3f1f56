"""Every node keeps the contract, and what does not keep it is found out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from penstock.batch import Array, Batch
from penstock.errors import InferenceError
from penstock.model.session import Session
from penstock.nodes import HASTY, WHOLE, Context, ModelNode
from penstock.testing import models
from penstock.testing.check_node import check_node


def node(model: bytes, *tensors: str, shape: tuple[int, ...] = (1,)) -> ModelNode:
    """A node over columns `[N]` that have the names of the model's inputs."""

    def feed(name: str) -> Callable[[Mapping[str, Array]], Array]:
        return lambda columns: columns[name].reshape(-1, *shape)

    return ModelNode("n", "tiny@1", Session.load(model), tuple((name, feed(name)) for name in tensors), ("y",), ("n.y",))


FLOATS = np.array([1, 2, 3, 4, 5], np.float32)
GATHER = {"x": np.array([0, 1, 2, 1, 0])}
POISON = {"x": np.array([7, -9])}


def test_node_keeps_the_contract() -> None:
    check_node(node(models.gather([10, 20, 30]), "x"), GATHER, POISON)


def test_node_of_two_inputs_keeps_the_contract() -> None:
    check_node(node(models.mean(["a", "b"]), "a", "b"), {"a": FLOATS, "b": -FLOATS})


def test_node_of_strings_keeps_the_contract() -> None:
    texts = np.array(["a", "b", "", "ü"], object)
    check_node(node(models.join_text(), "a", "b"), {"a": texts, "b": texts[::-1]})


def test_node_of_arrays_keeps_the_contract() -> None:
    check_node(node(models.linear([1, 2, 3]), "x", shape=(3,)), {"x": np.arange(12, dtype=np.float32).reshape(4, 3)})


def test_model_that_mixes_rows_breaks_the_contract() -> None:
    with pytest.raises(AssertionError, match="a row depends on other rows"):
        check_node(node(models.sum_over_rows(), "x"), {"x": FLOATS})


@dataclass(frozen=True)
class Broken:
    """A good node with one fault."""

    inner: ModelNode
    fault: Callable[[ModelNode, Batch], Batch]

    name: str = "broken"
    version: str = ""
    stateful: bool = False

    def run(self, batch: Batch, context: Context = WHOLE) -> Batch:
        return self.fault(self.inner, batch)


def _drops_failed_rows(inner: ModelNode, batch: Batch) -> Batch:
    return replace(inner.run(batch), failures=batch.failures)


def _fails_all_for_one(inner: ModelNode, batch: Batch) -> Batch:
    try:
        return inner.run(batch, HASTY)
    except InferenceError as error:
        return batch.fail(dict.fromkeys(range(batch.size), error))


def _forgets_earlier_failures(inner: ModelNode, batch: Batch) -> Batch:
    return inner.run(replace(batch, failures=()))


def _forgets_row_numbers(inner: ModelNode, batch: Batch) -> Batch:
    return replace(inner.run(batch), rows=None)


def _writes_into_its_input(inner: ModelNode, batch: Batch) -> Batch:
    done = inner.run(batch)
    batch.columns["x"][0] += 1
    return done


def _drops_columns(inner: ModelNode, batch: Batch) -> Batch:
    done = inner.run(batch)
    return replace(done, columns={"n.y": done.columns["n.y"]}) if done.size else done


def _adds_nothing(inner: ModelNode, batch: Batch) -> Batch:
    return batch


class _Counts:
    """A node that remembers how often it ran."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, inner: ModelNode, batch: Batch) -> Batch:
        self.runs += 1
        done = inner.run(batch)
        return done.with_columns({"n.y": done.columns["n.y"] + self.runs}) if done.size else done


def _reverses(inner: ModelNode, batch: Batch) -> Batch:
    done = inner.run(batch)
    return done.with_columns({"n.y": done.columns["n.y"][::-1]}) if done.size else done


@pytest.mark.parametrize(
    "fault",
    [
        _drops_failed_rows,
        _fails_all_for_one,
        _forgets_earlier_failures,
        _forgets_row_numbers,
        _writes_into_its_input,
        _drops_columns,
        _adds_nothing,
        _reverses,
        _Counts(),
    ],
)
def test_broken_node_is_found_out(fault: Any) -> None:
    """Otherwise the tests above could not fail."""
    broken = Broken(node(models.gather([10, 20, 30]), "x"), fault)
    with pytest.raises((AssertionError, KeyError)):
        check_node(broken, {"x": GATHER["x"][[0, 1, 2, 1]].copy()}, POISON)


def test_bad_row_that_scores_is_found_out() -> None:
    with pytest.raises(AssertionError, match=r"rows \[0\] are bad; failed: none"):
        check_node(node(models.gather([10, 20, 30]), "x"), GATHER, GATHER)
