"""`score_columns` and `score_table`: arrays and Arrow tables in, the same answers and refusals as for events."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock
from penstock.registry.directory import DirectoryRegistry
from penstock.scorer import Scorer
from penstock.testing import models

TOPOLOGY = """\
topology: orders
sources:
  orders: {topic: orders, schema: order.avsc}
nodes:
  base: {kind: model, model: table@1, inputs: {x: item}}
  weigh: {kind: model, model: weigh@1, inputs: {x: vector}}
sinks:
  scores:
    topic: scores
    fields: {id: id, base: base, weight: weigh, mode: inner.mode, at: at, note: note, vector: vector}
"""
SCHEMA = """{"type": "record", "name": "order", "fields": [
  {"name": "id", "type": "string"},
  {"name": "item", "type": "int"},
  {"name": "vector", "type": {"type": "array", "items": "float", "size": 3}},
  {"name": "inner", "type": {"type": "record", "name": "inner", "fields": [
    {"name": "mode", "type": {"type": "enum", "name": "mode", "symbols": ["a", "b"]}, "default": "a"}]}},
  {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "default": 5},
  {"name": "note", "type": ["null", "string"], "default": null}
]}"""
CHAIN = """\
topology: chain
sources:
  orders: {topic: orders, schema: order.avsc}
  bases: {topic: bases, schema: base.avsc}
nodes:
  base: {kind: model, model: table@1, inputs: {x: orders.item}}
  double: {kind: model, model: double@1, inputs: {x: bases.base}}
sinks:
  bases: {topic: bases, fields: {base: base.y}, when: "orders.item != 1"}
  doubled: {topic: doubled, fields: {doubled: double}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("orders")
    (folder / "order.avsc").write_text(SCHEMA)
    (folder / "base.avsc").write_text('{"type": "record", "name": "base", "fields": [{"name": "base", "type": "float"}]}')
    (folder / "orders.yaml").write_text(TOPOLOGY)
    (folder / "chain.yaml").write_text(CHAIN)
    registry = DirectoryRegistry(folder / "models")
    registry.publish("table", models.gather([10, 20, 30]))
    registry.publish("weigh", models.linear([1, 2, 3]))
    registry.publish("double", models.linear([2]))
    return folder


@pytest.fixture(scope="module")
def plan(folder: Path) -> Iterator[Scorer]:
    with penstock.open(folder / "orders.yaml", models=folder / "models", schemas=folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def chain(folder: Path) -> Iterator[Scorer]:
    with penstock.open(folder / "chain.yaml", models=folder / "models", schemas=folder) as opened:
        yield opened


events = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.text(max_size=3),
            "item": st.integers(-1, 4),  # the model has 0, 1 and 2
            "vector": st.lists(st.floats(-9, 9, width=16), min_size=2, max_size=3),
            "inner": st.fixed_dictionaries({"mode": st.sampled_from("abc")}),
            "at": st.integers(0, 1 << 50),
            "note": st.none() | st.text(max_size=3),
        }
    ),
    max_size=12,
)
ARROW = pa.schema(
    [
        ("id", pa.string()),
        ("item", pa.int64()),
        ("vector", pa.list_(pa.float64())),
        ("inner", pa.struct([("mode", pa.string())])),
        ("at", pa.timestamp("us")),
        ("note", pa.large_string()),
    ]
)


def wrapped(plan: Scorer, events: list[dict[str, Any]]) -> tuple[dict[int, Any], list[int]]:
    """The answers by row, and the rows that failed, of events one by one."""
    answers = plan.score(events)
    failed = [row for row, one in enumerate(answers) if isinstance(one, penstock.Failure)]
    return {row: one for row, one in enumerate(answers) if row not in failed}, failed


def close(found: dict[str, Any], asked: dict[str, Any]) -> bool:
    numbers = ("base", "weight")
    return found == {**asked, **{name: pytest.approx(asked[name]) for name in numbers}, "vector": pytest.approx(asked["vector"])}


@settings(max_examples=40)
@given(events)
def test_table_has_the_answers_and_the_failures_of_its_rows(plan: Scorer, events: list[dict[str, Any]]) -> None:
    answers, failed = wrapped(plan, events)
    scored = plan.score_table(pa.Table.from_pylist(events, ARROW)).to_pylist()
    assert [row for row, one in enumerate(scored) if one["failure"] is not None] == failed
    for row, one in enumerate(scored):
        reason = one.pop("failure")
        assert close(one, answers[row]) if reason is None else not any(value is not None for value in one.values())


@settings(max_examples=40)
@given(events)
def test_columns_have_the_answers_and_the_failures_of_their_rows(plan: Scorer, events: list[dict[str, Any]]) -> None:
    answers, failed = wrapped(plan, events)
    columns: dict[str, Any] = {name: [event[name] for event in events] for name in ("id", "item", "vector", "at", "note")}
    scored = plan.score_columns({**columns, "inner.mode": [event["inner"]["mode"] for event in events]})
    assert ([one.row for one in scored.failures], scored.rows.tolist()) == (failed, [*answers])
    for at, row in enumerate(scored.rows.tolist()):
        assert close(
            {name: column[at].tolist() if name == "vector" else column[at] for name, column in scored.columns.items()}, answers[row]
        )


def test_arrays_give_arrays_of_the_declared_types(plan: Scorer) -> None:
    """Also where no row has an answer."""
    columns: dict[str, Any] = {"id": np.array(["x", "y"]), "item": np.array([1.0, np.nan]), "vector": np.ones((2, 3), np.float32)}
    columns["at"] = np.array(["2026-01-01T00:00:00", "NaT"], "datetime64[s]")
    scored = plan.score_columns({**columns, "inner.mode": pd.Series(["a", "b"])}, nulls={"item": [False, True]})
    assert (scored.rows.tolist(), scored.columns["base"].tolist(), scored.columns["weight"].tolist()) == ([0], [20], [6])
    assert scored.columns["at"].tolist() == [1_767_225_600_000_000]
    assert [(one.row, str(one.error)) for one in scored.failures] == [(1, "field 'item' is null")]
    assert repr(scored) == f"Scored(1 answers of {', '.join(scored.columns)}; 1 failures)", "without the arrays"
    nothing = plan.score_columns({"id": np.array([], object)})
    assert (nothing.rows.tolist(), nothing.failures) == ([], [])
    assert {name: (array.dtype.str, array.shape) for name, array in nothing.columns.items() if name in ("id", "weight", "vector")} == {
        "id": ("|O", (0,)),
        "weight": ("<f4", (0,)),
        "vector": ("<f4", (0, 3)),
    }


def test_table_comes_as_tools_write_it(plan: Scorer) -> None:
    """Dictionary-encoded text, several chunks, times of another unit and with a zone, lists of a fixed size, whole numbers as floats."""
    words = pa.array(["a", "b", "a"]).dictionary_encode()
    table = pa.table(
        {
            "id": pa.chunked_array([pa.array(["x"]).dictionary_encode(), pa.array(["y", None]).dictionary_encode()]),
            "item": pa.array([0.0, 1.5, 2.0]),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(np.ones(9, np.float32)), 3),
            "inner": pa.StructArray.from_arrays([words], ["mode"]),
            "at": pa.array([1, None, 3], pa.timestamp("ms", "Europe/Vienna")),
            "unread": pa.array([1, 2, 3], pa.decimal128(9, 2)),
        }
    )
    scored = plan.score_table(table)
    assert isinstance(scored, pa.Table)
    assert scored.column("failure").to_pylist() == [None, "field 'item' is no whole number, but int in the schema", "field 'id' is null"]
    first = scored.slice(0, 1).to_pylist()[0]
    assert (first["mode"], first["at"], first["vector"]) == ("a", 1000, [1, 1, 1])
    assert scored.schema.field("vector").type == pa.list_(pa.float32(), 3)
    (batch,) = table.slice(0, 1).to_batches()
    assert isinstance(plan.score_table(batch), pa.RecordBatch)


@pytest.mark.parametrize("kind", [pa.decimal128(38, 2), pa.decimal256(60, 2), pa.opaque(pa.string(), "numeric", "PostgreSQL")])
def test_decimals_are_whole_numbers_exactly_or_not_at_all(plan: Scorer, kind: Any) -> None:
    """The last one is how PostgreSQL's own decimals come. None is rounded to a whole number on the way."""
    texts = ["0", "2.00", None, "3.50", "2147483648", "9007199254740993.00"]
    if isinstance(kind, pa.OpaqueType):
        numbers = pa.ExtensionArray.from_storage(kind, pa.array(texts))
    else:
        numbers = pa.array([None if one is None else Decimal(one) for one in texts], kind)
    count = len(texts)
    table = pa.table(
        {
            "id": ["a"] * count,
            "item": numbers,
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(np.ones(3 * count, np.float32)), 3),
            "inner": pa.StructArray.from_arrays([pa.array(["a"] * count)], ["mode"]),
            "at": pa.array([1] * count, pa.timestamp("ms")),
        }
    )
    scored = plan.score_table(table)
    failures = scored.column("failure").to_pylist()
    assert failures[:2] == [None, None]
    assert failures[2:4] == ["field 'item' is null", "field 'item' is 3.50, no whole number"]
    assert ["2147483648" in failures[4], "9007199254740993" in failures[5]] == [True, True]
    assert failures[:2] == plan.score_table(table.slice(0, 2)).column("failure").to_pylist()  # where all of them are whole


def test_field_without_a_column_is_told_from_one_that_is_null(plan: Scorer) -> None:
    made = {"id": ["a"], "vector": pa.FixedSizeListArray.from_arrays(pa.array(np.ones(3, np.float32)), 3)}
    table = pa.table({**made, "item": pa.array([None], pa.int32()), "inner": pa.array([{"mode": "a"}])})
    assert plan.score_table(table).column("failure").to_pylist() == ["field 'item' is null"]
    assert plan.score_table(table.drop_columns("item")).column("failure").to_pylist() == ["field 'item' has no column"]
    assert [str(one.error) for one in plan.score_columns({"id": ["a"], "item": [1]}).failures] == ["field 'vector' has no column"]
    assert plan.score_table(pa.table({"id;item": ["a;1"] * 2})).column("failure").to_pylist() == ["field 'id' has no column"] * 2


def test_text_that_is_no_unicode_fails_its_row(plan: Scorer) -> None:
    """Arrow could not hold it."""
    texts = np.array(["x", "\ud800", "z"], object)
    scored = plan.score_columns({"id": texts, "item": [0, 1, 2], "vector": np.ones((3, 3)), "inner.mode": ["a", "b", "a"]})
    assert scored.rows.tolist() == [0, 2]
    assert [(one.row, str(one.error)) for one in scored.failures] == [(1, "a string is not valid Unicode: surrogates not allowed")]


@pytest.mark.parametrize(
    "items",
    [
        np.array([1, np.inf, -np.inf], np.float16),
        np.array([1, 2**31, -(2**31) - 256], np.float32),
        np.array([1, 2**63, 1e300]),
        np.array([1, 2**31, 2**63], np.uint64),
        np.array([True, False, True]),
        [1, True, 2],
        np.array([1, np.bool_(True), None], object),
        np.array([1, 2, 1], "datetime64[s]"),
        np.ma.array([1, 2, 1], mask=[False, True, False]),
        np.ma.array([1.0, 2.0, 1.0], mask=[True, True, True]),
        np.array([1, 2, 1], ">i2"),
        np.arange(3)[::-1],
        np.array([1, 2, np.inf], np.longdouble),
        np.array([1, 2, 1], complex),
    ],
    ids=str,
)
def test_numbers_are_taken_and_refused_as_in_lists(plan: Scorer, items: Any) -> None:
    """Whatever the type of the array; nothing is printed about it."""
    others = {"id": ["x", "y", "z"], "vector": np.ones((3, 3)), "inner.mode": ["a", "b", "a"]}
    listed = {"id": others["id"], "item": [*items.tolist()] if isinstance(items, np.ndarray) else items, "vector": [[1, 1, 1]] * 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = plan.score({**listed, "inner": [{"mode": "a"}] * 3})
        scored = plan.score_columns({**others, "item": items})
        table = {name: pa.array(values.tolist() if isinstance(values, np.ndarray) else values) for name, values in others.items()}
        if (
            isinstance(items, np.ndarray)
            and items.dtype != object
            and items.dtype.isnative
            and not isinstance(items, np.ma.MaskedArray)
            and items.dtype.itemsize <= 8
        ):
            found = plan.score_table(pa.table({**table, "item": pa.array(items)})).to_pydict()
            assert [one is not None for one in found["failure"]] == [one is not None for one in expected["failure"]]
    assert scored.rows.tolist() == [row for row, one in enumerate(expected["failure"]) if one is None]
    assert scored.columns["base"].tolist() == [one for one in expected["base"] if one is not None]


def test_ends_of_whole_numbers_are_exact_in_columns_of_floats(plan: Scorer) -> None:
    """Rounded to a float, the greatest number of 64 bits is one too many."""
    others = {"id": ["x", "y", "z"], "item": [0, 1, 2], "vector": np.ones((3, 3)), "inner.mode": ["a"] * 3}
    scored = plan.score_columns({**others, "at": np.array([-(2.0**63), 2.0**63 - 1024, 2.0**63])})
    assert scored.columns["at"].tolist() == [-(2**63), 2**63 - 1024]
    assert [one.row for one in scored.failures] == [2]
    beyond = pa.array([1, 2**62, None], pa.timestamp("s"))
    table = plan.score_table(pa.table({"id": ["x", "y", "z"], "item": [0, 1, 2], "vector": [[1.0, 1.0, 1.0]] * 3, "at": beyond}))
    assert table.column("at").to_pylist() == [1_000_000, None, 5]
    assert "field 'at' is 4.61" in table.column("failure")[1].as_py()


def test_text_that_is_no_utf8_fails_its_row(plan: Scorer) -> None:
    """Tools write other bytes into columns of text; a table holds them until they are read."""
    raw = pa.array([b"x", b"\xff", b"z"])
    for kind in (pa.string(), pa.large_string()):
        texts = raw.cast(pa.binary() if kind == pa.string() else pa.large_binary()).view(kind)
        for column in (texts, pa.DictionaryArray.from_arrays(pa.array([0, 1, 2]), texts)):
            scored = plan.score_table(pa.table({"id": column, "item": [0, 1, 2], "vector": [[1.0, 1.0, 1.0]] * 3}))
            assert scored.column("base").to_pylist() == [10, None, 30]
            assert scored.column("failure").to_pylist() == [None, "field 'id' is no text in UTF-8", None]


def test_what_is_there_twice_or_marks_no_column_is_an_error(plan: Scorer) -> None:
    table = pa.table([pa.array([1]), pa.array([2])], names=["item", "item"])
    with pytest.raises(ValueError, match="there are 2 columns 'item'"):
        plan.score_table(table)
    with pytest.raises(ValueError, match="nulls: there is no column 'note'"):
        plan.score_columns({"item": [1]}, nulls={"note": [True]})


def test_truth_value_is_no_number_in_columns_either(plan: Scorer) -> None:
    """numpy makes it one, alone and beside numbers: a row of an event fails for it. Its neighbours have answers."""
    event = {"id": "x", "item": 1, "vector": [1, 2, 3], "inner": {"mode": "a"}}
    many = [{**event, "item": True}, {**event, "vector": [True, 2, 3]}, event]
    assert isinstance(plan.score(many)[0], penstock.Failure)
    assert isinstance(plan.score(many)[1], penstock.Failure)
    columns = {name: [one[name] for one in many] for name in ("id", "item", "vector")}
    mixed = plan.score_columns({**columns, "inner.mode": ["a", "a", "a"]})
    assert mixed.rows.tolist() == [2]
    assert [(one.row, str(one.error)) for one in mixed.failures] == [
        (0, "field 'item' is not a valid int of the schema"),
        (1, "field 'vector' is no array: it has truth values among its numbers"),
    ]
    whole = pa.table({"id": ["x", "y"], "item": [True, None], "vector": [[1, 2, 3]] * 2, "inner": [{"mode": "a"}] * 2})
    assert plan.score_table(whole).column("failure").to_pylist() == ["field 'item' is bool, but int in the schema", "field 'item' is null"]
    lists = pa.table({"id": ["x"], "item": [1], "vector": [[True, False, True]], "inner": [{"mode": "a"}]})
    assert plan.score_table(lists).column("failure").to_pylist() == ["field 'vector' is bool, but float in the schema"]


def test_nulls_of_no_column_are_an_error(plan: Scorer) -> None:
    """They would be scored as the numbers that stand for them."""
    columns = {"id": ["x", "y"], "item": [0, -1], "vector": np.ones((2, 3)), "inner.mode": ["a", "b"]}
    with pytest.raises(ValueError, match=r"nulls: there is no column 'itme'; did you mean 'item'\?"):
        plan.score_columns(columns, nulls={"itme": [False, True]})


def test_rows_of_a_chain_are_those_that_came_in(chain: Scorer) -> None:
    """Through both stages; a row that a condition leaves out is in neither sink and has not failed."""
    scored = chain.score_table(pa.table({"item": [2, 1, 9, 0]}))
    assert scored.to_pylist() == [
        {"bases.base": 30, "doubled.doubled": 60, "failure": None},
        {"bases.base": None, "doubled.doubled": None, "failure": None},
        {"bases.base": None, "doubled.doubled": None, "failure": scored.column("failure")[2].as_py()},
        {"bases.base": 10, "doubled.doubled": 20, "failure": None},
    ]
    assert "cannot score the event" in scored.column("failure")[2].as_py()
    with pytest.raises(ValueError, match=r"several sinks \(bases, doubled\): use score or score_table"):
        chain.score_columns({"item": [1]})


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({}, TypeError, "there is one at least"),
        ([1], TypeError, "columns are a mapping"),
        ({"item": 5}, TypeError, "column 'item' is an array or a list, not int"),
        ({"item": np.array(5)}, TypeError, "not one value"),
        ({"item": [1, 2], "id": ["a"]}, ValueError, "columns of different lengths: item has 2, id has 1"),
    ],
)
def test_what_is_no_column_is_an_error(plan: Scorer, columns: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plan.score_columns(columns)


def test_rows_and_tables_of_tools_are_told_where_they_go(plan: Scorer) -> None:
    call: Callable[..., Any] = plan.score
    frame = pd.DataFrame({"id": ["x"], "item": [1]})
    with pytest.raises(
        TypeError, match=r"a Series of pandas is no event: give a frame of one row, df\.iloc\[\[0\]\], or a mapping, row\.to_dict"
    ):
        call(frame.iloc[0])
    with pytest.raises(TypeError, match="not Table: score_table takes tables of Arrow"):
        call(pa.Table.from_pandas(frame))


def test_what_is_no_table_is_an_error(plan: Scorer) -> None:
    call: Callable[..., Any] = plan.score_table
    with pytest.raises(TypeError, match="a pyarrow Table or RecordBatch is scored, not dict"):
        call({"item": [1]})


def test_closed_topology_scores_no_columns(folder: Path) -> None:
    opened = penstock.open(folder / "orders.yaml", models=folder / "models", schemas=folder)
    opened.close()
    with pytest.raises(RuntimeError, match="orders is closed"):
        opened.score_columns({"item": [1]})
