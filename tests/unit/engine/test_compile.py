"""Names become arrays as the models want them: of the right rank, in the right order, contiguous; nothing is asked that nobody reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from onnx import helper

from penstock.batch import Array, Batch
from penstock.codecs import decoder
from penstock.engine import compile, execute
from penstock.engine.plan import Stage
from penstock.model.session import Session
from penstock.schema import Field, Schema
from penstock.signature import Signature
from penstock.testing import models
from penstock.topology.check import wire
from penstock.topology.parse import parse_text

EVENT = Schema(
    "Event",
    (
        Field("a", "float"),
        Field("b", "float"),
        Field("v", "array", items=Field("items", "float"), size=3),
        Field("w", "array", items=Field("items", "float"), size=3),
    ),
)
HEAD = "topology: t\nsources: {s: {topic: in, schema: e.avsc}}\n"


class Watched:
    """A session that notes what it is asked for and what it is fed."""

    def __init__(self, model: bytes) -> None:
        self.session = Session.load(model)
        self.asked: list[tuple[str, ...]] = []
        self.fed: dict[str, Array] = {}

    @property
    def signature(self) -> Signature:
        return self.session.signature

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        self.asked.append(tuple(outputs))
        self.fed = dict(feeds)
        return self.session.run(outputs, feeds)


def stage(nodes: str, fields: str, runs: Mapping[str, Watched], parameters: Mapping[str, Mapping[str, object]] | None = None) -> Stage:
    """The compiled stage of a topology with these nodes (YAML) and one sink with these fields."""
    text = f"{HEAD}nodes:\n{nodes}\nsinks: {{out: {{topic: out, fields: {fields}}}}}\n"
    wired = wire(parse_text(text), {"s": EVENT}, {name: model.signature for name, model in runs.items()})
    return compile(wired, runs, dict.fromkeys(runs, "m@1"), parameters).stages["s"]


def decoded(stage: Stage, values: Sequence[bytes | None]) -> Batch:
    """The events' columns, as the stage's port makes them."""
    return decoder("json", EVENT, stage.wired.inputs[0].columns).decode(values)


def rows(size: int) -> list[bytes]:
    return [b'{"a":%d,"b":%d,"v":[%d,1,2],"w":[3,4,5]}' % (n, 10 * n, n) for n in range(size)]


def fed(inputs: str, model: bytes) -> Array:
    """What the model's input x is for three rows when the file says `inputs`."""
    watched = Watched(model)
    made = stage(f"  n: {{kind: model, model: m@1, inputs: {{x: {inputs}}}}}", "{y: n.y}", {"n": watched})
    execute(made, decoded(made, rows(3)))
    array = watched.fed["x"]
    assert array.flags.c_contiguous
    assert array.dtype == np.float32
    return array


@pytest.mark.parametrize(
    ("inputs", "shape", "expected"),
    [
        ("a", (1,), [[0], [1], [2]]),
        ("a", (), [0, 1, 2]),
        ("v", (3,), [[0, 1, 2], [1, 1, 2], [2, 1, 2]]),
        ("v", (None,), [[0, 1, 2], [1, 1, 2], [2, 1, 2]]),
        ('"v[0]"', (1,), [[0], [1], [2]]),
        ('"v[2]"', (), [2, 2, 2]),
        ("[a, b]", (2,), [[0, 0], [1, 10], [2, 20]]),
        ("[b, a]", (2,), [[0, 0], [10, 1], [20, 2]]),
        ("[a]", (1,), [[0], [1], [2]]),
        ('["v[0]", b, "w[1]"]', (3,), [[0, 0, 4], [1, 10, 4], [2, 20, 4]]),
        ("[v, w]", (6,), [[0, 1, 2, 3, 4, 5], [1, 1, 2, 3, 4, 5], [2, 1, 2, 3, 4, 5]]),
    ],
)
def test_tensor_is_fed_as_the_file_says(inputs: str, shape: tuple[int | None, ...], expected: list[object]) -> None:
    """Scalars are `[N]` or `[N, 1]` as the model declares them; parts are stacked in their order, along the last axis."""
    np.testing.assert_array_equal(fed(inputs, models.identity(shape=shape)), expected)


def test_column_that_fits_is_not_copied() -> None:
    watched = Watched(models.identity(shape=(3,)))
    made = stage("  n: {kind: model, model: m@1, inputs: {x: v}}", "{y: n.y}", {"n": watched})
    batch = decoded(made, rows(4))
    execute(made, batch)
    assert np.shares_memory(watched.fed["x"], batch.columns["v"])


def test_only_outputs_that_are_read_are_asked() -> None:
    watched = Watched(two_outputs())
    for fields, asked in (("{y: n.double}", ("double",)), ("{y: n.half, z: n.double}", ("double", "half"))):
        made = stage("  n: {kind: model, model: m@1, inputs: {x: a}}", fields, {"n": watched})
        done = execute(made, decoded(made, rows(2)))
        assert set(watched.asked[-1]) == set(asked)
        assert {name for name in done.columns if name.startswith("n.")} == {f"n.{name}" for name in asked}


def test_nodes_run_in_the_order_of_their_wiring() -> None:
    """Whatever the order of the file: `late` stands first and reads what `early` gives."""
    runs = {"late": Watched(models.linear([2.0])), "early": Watched(models.linear([10.0]))}
    nodes = "  late: {kind: model, model: m@1, inputs: {x: early.y}}\n  early: {kind: feature, model: m@1, inputs: {x: a}}"
    made = stage(nodes, "{y: late.y}", runs)
    done = execute(made, decoded(made, rows(3)))
    assert done.columns["late.y"].ravel().tolist() == [0, 20, 40]


def test_batch_without_rows_runs_no_model() -> None:
    """Neither when nothing came, nor when nothing is left."""
    watched = Watched(models.linear([1.0]))
    made = stage("  n: {kind: model, model: m@1, inputs: {x: a}}", "{y: n.y}", {"n": watched})
    done = execute(made, decoded(made, [b"nope", None]))
    assert (done.size, [failure.row for failure in done.failures]) == (0, [0, 1])
    assert execute(made, Batch(0)).size == 0
    assert watched.asked == []


def test_second_node_is_spared_when_the_first_refuses_every_row() -> None:
    runs = {"first": Watched(models.log()), "second": Watched(models.identity(shape=(2,)))}
    nodes = "  first: {kind: model, model: m@1, inputs: {x: a}}\n  second: {kind: model, model: m@1, inputs: {x: [first.y, b]}}"
    made = stage(nodes, "{y: second.y}", runs)
    done = execute(made, Batch(1, {"a": np.array(["text"], object), "b": np.zeros(1, np.float32)}))
    assert (done.size, runs["second"].asked) == (0, [])
    assert done.failures[0].error.where == "first"


CONSTANT = "  n: {kind: model, model: m@1, inputs: {a: a}, parameters: {k: %s}}"


def beside(dtype: str, shape: tuple[int | None, ...]) -> bytes:
    """Gives back its inputs `a` and `k` as `x` and `y`; `k` has this type."""
    nodes = [helper.make_node("Identity", ["a"], ["x"]), helper.make_node("Identity", ["k"], ["y"])]
    inputs = [models.tensor("a"), models.tensor("k", dtype, shape)]
    return models.model(nodes, inputs, [models.tensor("x"), models.tensor("y", dtype, shape)])


@pytest.mark.parametrize(
    ("value", "dtype", "shape", "row"),
    [
        ("0.5", "float32", (), 0.5),
        ("0.5", "float32", (1,), [0.5]),
        ("[0.5]", "float64", (), 0.5),
        ("[1, 2.5]", "float64", (2,), [1.0, 2.5]),
        ("[1, 2, 3]", "float32", (None,), [1, 2, 3]),
        ("[[1, 2, 3], [4, 5, 6]]", "int16", (2, 3), [[1, 2, 3], [4, 5, 6]]),
        ("18446744073709551615", "uint64", (), 2**64 - 1),
        ("[true, false]", "bool", (2,), [True, False]),
        ("[on, off]", "string", (2,), ["on", "off"]),
    ],
)
def test_parameter_is_the_same_for_every_row(value: str, dtype: str, shape: tuple[int | None, ...], row: object) -> None:
    """Of a batch of any size, and through the runtime, which gives it back; after a large batch also."""
    watched = Watched(beside(dtype, shape))
    made = stage(CONSTANT % value, "{x: n.x, y: n.y}", {"n": watched})
    for size in (1, 3, 2, 200, 1):
        done = execute(made, decoded(made, rows(size)))
        fed = watched.fed["k"]
        assert fed.flags.c_contiguous
        assert fed.dtype == np.dtype(object if dtype == "string" else dtype)
        np.testing.assert_array_equal(fed, np.array([row] * size, fed.dtype))
        np.testing.assert_array_equal(done.columns["n.y"], fed)


def test_parameter_fits_what_is_left_of_a_batch() -> None:
    """A batch that fails is divided, and its parts are of all sizes."""
    nodes = [helper.make_node("Cast", ["a"], ["at"], to=7), helper.make_node("Gather", ["table", "at"], ["found"])]
    nodes.append(helper.make_node("Add", ["found", "k"], ["y"]))
    table = {"table": np.array([10, 20, 30, 40], np.float32)}
    watched = Watched(models.model(nodes, [models.tensor("a"), models.tensor("k")], [models.tensor("y")], table))
    made = stage(CONSTANT % "0.5", "{y: n.y}", {"n": watched})
    done = execute(made, decoded(made, rows(7)))
    assert done.columns["n.y"].ravel().tolist() == [10.5, 20.5, 30.5, 40.5]
    assert [failure.row for failure in done.failures] == [4, 5, 6]


def test_other_values_take_the_place_of_the_file_s() -> None:
    """Where an axis is open another length will do; what is not named stays."""
    nodes = [helper.make_node("ReduceSum", ["k", "axis"], ["total"], keepdims=1), helper.make_node("Sum", ["a", "total", "l"], ["y"])]
    inputs = [models.tensor("a"), models.tensor("k", shape=(None,)), models.tensor("l")]
    runs = {"n": Watched(models.model(nodes, inputs, [models.tensor("y")], {"axis": np.array([1])}))}
    file = "  n: {kind: model, model: m@1, inputs: {a: a}, parameters: {k: [1, 2], l: 100}}"
    for parameters, expected in (
        (None, 103),
        ({}, 103),
        ({"n": {}}, 103),
        ({"n": {"k": [5, 5, 5]}}, 115),
        ({"n": {"k": (5,), "l": 0}}, 5),
    ):
        made = stage(file, "{y: n.y}", runs, parameters)
        assert execute(made, decoded(made, rows(2))).columns["n.y"].ravel().tolist() == [expected, expected + 1]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n": {"k": [1, 2]}}, r"the tensor is `k: float32\[N, 1\]`, its value has the axes \[2\] \(give a finite number\)"),
        ({"n": {"b": 1, "a": 1}}, "nodes.n.parameters: the topology declares no a, b"),
        ({"m": {"k": 1}}, "nodes.m.parameters: the topology declares no k"),
    ],
)
def test_values_that_were_not_checked_are_refused(parameters: Mapping[str, Mapping[str, object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stage(CONSTANT % "1", "{y: n.y}", {"n": Watched(beside("float32", (1,)))}, parameters)


def two_outputs() -> bytes:
    """`double` and `half` of x."""
    nodes = [helper.make_node("Mul", ["x", "two"], ["double"]), helper.make_node("Div", ["x", "two"], ["half"])]
    return models.model(nodes, [models.tensor("x")], [models.tensor("double"), models.tensor("half")], {"two": np.float32(2)})
