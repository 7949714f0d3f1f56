"""The records of a table become its rows, and lookups read them: in a driver, in stages, and by those who run records again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock import runtime
from penstock.pipeline.score import Chunk, Pipeline
from penstock.record import Record
from penstock.state import Change, States
from penstock.testing import TopologyDriver
from penstock.transports.memory import Memory, MemorySink

ORDER = {"type": "record", "name": "Order", "fields": [{"name": "id", "type": "string"}, {"name": "item", "type": ["null", "long"]}]}
ITEM = {
    "type": "record",
    "name": "Item",
    "fields": [{"name": "code", "type": "long"}, {"name": "price", "type": ["null", "float"]}, {"name": "at", "type": "long"}],
}
CHANGE = {
    "type": "record",
    "name": "Change",
    "fields": [{"name": "op", "type": "string"}, {"name": "after", "type": ["null", {**ITEM, "name": "Row"}]}],
}
TEXT = """\
topology: shop
sources: {orders: {topic: orders, schema: order.avsc, id: id}}
tables: {items: {topic: items, schema: item.avsc, key: code}}
nodes: {known: {kind: lookup, table: items, by: item}}
sinks: {out: {topic: out, fields: {id: id, price: known.price, found: known.found}}}
"""
MINUTES = 60_000  # ms


def driver(folder: Path, text: str = TEXT) -> TopologyDriver:
    for name, schema in (("order", ORDER), ("item", ITEM), ("change", CHANGE)):
        (folder / f"{name}.avsc").write_text(json.dumps(schema))
    (folder / "shop.yaml").write_text(text)
    return TopologyDriver(folder / "shop.yaml", models=folder, schemas=folder)


def item(code: int, price: float | None = 1.0, at: int = 0) -> dict[str, Any]:
    return {"code": code, "price": price, "at": at}


def prices(made: TopologyDriver, *items: int | None) -> list[tuple[float | None, bool]]:
    before = len(made.events("out"))
    made.send("orders", *({"id": "1", "item": one} for one in items))
    return [(one["price"], one["found"]) for one in made.events("out")[before:]]


def test_rows_are_replaced_and_removed_in_their_order(tmp_path: Path) -> None:
    made = driver(tmp_path)
    assert prices(made, 1, None) == [(None, False), (None, False)]
    rows: list[tuple[bytes, dict[str, Any] | None]] = [
        (b"a", item(1, 1.0)), (b"b", item(2, 2.0)), (b"a", None), (b"c", item(3, None)), (b"b", item(2, 2.5)), (b"a", item(1, 1.5)),
        (b"d", item(4)), (b"d", None), (b"none", None),
    ]  # fmt: skip
    made.send_records("items", [Record("", None if one is None else json.dumps(one).encode(), key) for key, one in rows])
    assert prices(made, 1, 2, 3, 4) == [(1.5, True), (2.5, True), (None, True), (None, False)]
    made.send("items", item(7, 7.0), key=b"a")  # the record's row has another key of the table now
    assert prices(made, 1, 7) == [(None, False), (7.0, True)]
    made.clear()
    assert prices(made, 7) == [(None, False)]


def test_a_key_of_the_table_that_changes_in_one_piece(tmp_path: Path) -> None:
    """Of two records with one key of the table, only the later one's removal removes the row."""
    made = driver(tmp_path)
    rows = [(b"a", item(1, 1.0)), (b"a", item(2, 2.0)), (b"b", item(2, 2.5)), (b"a", item(3, 3.0)), (b"c", item(3, 3.5)), (b"a", None)]
    made.send_records("items", [Record("", None if one is None else json.dumps(one).encode(), key) for key, one in rows])
    assert prices(made, 1, 2, 3) == [(None, False), (2.5, True), (3.5, True)]
    made.send_records("items", [Record("", None, b"c"), Record("", json.dumps(item(4)).encode(), b"d"), Record("", None, b"d")])
    assert prices(made, 2, 3, 4) == [(2.5, True), (None, False), (None, False)]
    made.send_records("items", [Record("", json.dumps(item(5)).encode(), None)])
    assert prices(made, 5) == [(1.0, True)]
    with pytest.raises(ValueError, match="it removes a row, and its key names none"):
        made.send("items", None)


def test_a_row_of_another_record_is_there_again(tmp_path: Path) -> None:
    """Two records have one key of the table; the one of the later time counts, and when it goes, the other one."""
    made = driver(tmp_path)
    made.send("items", item(1, 2.0), key=b"r2", timestamp=20)
    made.send("items", item(1, 1.0), key=b"r1", timestamp=10)  # of another partition, which is read later
    assert prices(made, 1) == [(2.0, True)]
    made.send("items", item(2, 1.5), key=b"r1", timestamp=30)
    assert prices(made, 1, 2) == [(2.0, True), (1.5, True)]
    made.send_records("items", [Record("", json.dumps(item(one)).encode(), key, timestamp=at) for key, one, at in SWAP])
    assert prices(made, 1, 2) == [(1.0, True), (1.0, True)]
    made.send("items", None, key=b"r2", timestamp=50)
    assert prices(made, 1, 2) == [(1.0, True), (None, False)]


SWAP = [(b"r2", 2, 40), (b"r1", 1, 41)]


def test_a_removal_is_of_the_key_that_its_bytes_mean(tmp_path: Path) -> None:
    """Of a table by fields of its records' keys: other bytes may be the same key."""
    key = {"type": "record", "name": "Key", "fields": [{"name": "code", "type": "long"}, {"name": "shop", "type": "string"}]}
    (tmp_path / "key.avsc").write_text(json.dumps(key))
    made = driver(tmp_path, TEXT.replace("key: code", "key_schema: key.avsc, key: key.code"))
    made.send("items", item(1, 1.0), key=b'{"code": 1, "shop": "x"}')
    assert prices(made, 1) == [(1.0, True)]
    made.send("items", None, key=b'{"shop":"x","code":1}')
    assert prices(made, 1) == [(None, False)]


def test_a_field_that_is_called_found_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "odd.avsc").write_text(json.dumps({**ITEM, "fields": [*ITEM["fields"], {"name": "found", "type": "string"}]}))
    made = driver(tmp_path, TEXT.replace("item.avsc", "odd.avsc"))
    made.send("items", {**item(1), "found": "no"}, key=b"a")
    assert prices(made, 1, 2) == [(1.0, True), (None, False)]


def test_a_table_without_fields_of_one_value_has_found(tmp_path: Path) -> None:
    tags = {"name": "tags", "type": {"type": "array", "items": "string"}}
    (tmp_path / "tags.avsc").write_text(json.dumps({"type": "record", "name": "Tags", "fields": [tags]}))
    text = TEXT.replace("item.avsc, key: code", "tags.avsc").replace("by: item", "by: id").replace("price: known.price, ", "")
    made = driver(tmp_path, text)
    made.send("items", {"tags": []}, key=b"1")
    made.send("orders", {"id": "1", "item": None}, {"id": "2", "item": None})
    assert [one["found"] for one in made.events("out")] == [True, False]


def test_what_is_no_row_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it is no row of items: Object missing required field `price`"):
        driver(tmp_path).send("items", b'{"code": 1}')


def test_a_table_by_the_key_of_its_records(tmp_path: Path) -> None:
    text = TEXT.replace("item.avsc, key: code", "item.avsc").replace("by: item", "by: id")
    made = driver(tmp_path, text)
    made.send("items", item(9, 9.0), key=b"1")
    assert prices(made, None) == [(9.0, True)]
    made.send("items", None, key=b"1")
    assert prices(made, None) == [(None, False)]


def test_a_table_of_changes(tmp_path: Path) -> None:
    """A deletion removes the row of its record's key."""
    text = TEXT.replace("item.avsc, key: code", "change.avsc, envelope: debezium, key: after.code").replace(
        "known.price", "known.after.price"
    )
    made = driver(tmp_path, text)
    made.send("items", {"op": "c", "after": item(1, 1.0)}, key=b"a")
    made.send("items", {"op": "u", "after": item(2, 2.0)}, key=b"b")
    assert prices(made, 1, 2) == [(1.0, True), (2.0, True)]
    made.send("items", {"op": "d", "after": None}, key=b"a")
    assert prices(made, 1, 2) == [(None, False), (2.0, True)]


def test_a_history_by_the_time_of_the_row(tmp_path: Path) -> None:
    """The rows come in another order than their times, and null is a value like others."""
    made = driver(tmp_path, TEXT.replace("key: code", "key: code, history: 1h, time: at"))
    for at, price in ((MINUTES * 20, 2.0), (MINUTES * 10, 1.0), (MINUTES * 30, None)):
        made.send("items", item(1, price, at), key=b"a")
    for at in (MINUTES * 10 - 1, MINUTES * 10, MINUTES * 20 - 1, MINUTES * 20, MINUTES * 31):
        made.send("orders", {"id": "1", "item": 1}, timestamp=at)
    found = [(one["price"], one["found"]) for one in made.events("out")]
    assert found == [(None, False), (1.0, True), (1.0, True), (2.0, True), (None, True)]


def test_a_stage_behind_reads_what_was_looked_up(tmp_path: Path) -> None:
    """Null stays null in the topic between; the worker of the second stage has no table."""
    text = TEXT.replace("by: item}", "by: item, materialize: true}")
    driver(tmp_path, text)
    loaded = runtime.load(tmp_path / "shop.yaml", models=tmp_path, schemas=tmp_path)
    first, second = (runtime.shares(loaded, "app.shop")[name] for name in ("known", "out"))
    assert ([*runtime.readers(first)], [*runtime.readers(second)]) == (["items"], [])
    memory = Memory(1)
    records = [Record("orders", json.dumps({"id": str(at), "item": one}).encode(), offset=at) for at, one in enumerate([1, 2, None])]
    states = States(tables={name: one.rows for name, one in runtime.readers(first).items()})
    rows = {"price": np.array([1.5]), "code": np.array([1]), "at": np.array([0])}
    states.tables["items"].apply([Change(b"a", b"\x01", 0)], rows)
    front = Pipeline(runtime.prepare(first), "known", sink=MemorySink(memory))
    (parcel,) = front.complete(front.begin(Chunk(records, (("orders", 0, 3),)), states))
    between = [Record(parcel.topic, value, None, headers, offset=at) for at, (_, _, value, headers) in enumerate(parcel.records)]
    back = Pipeline(runtime.prepare(second), "out", sink=MemorySink(memory))
    (written,) = back.complete(back.begin(Chunk(between, ((parcel.topic, 0, 3),))))
    assert [json.loads(value or b"") for value in written.values] == [
        {"id": "0", "price": 1.5, "found": True}, {"id": "1", "price": None, "found": False}, {"id": "2", "price": None, "found": False},
    ]  # fmt: skip


def test_records_that_are_run_again_have_the_rows_that_they_had(tmp_path: Path) -> None:
    """A proof or a guard runs them later, without the table."""
    made = driver(tmp_path)
    made.send("items", item(1, 1.0), key=b"a")
    loaded = runtime.load(tmp_path / "shop.yaml", models=tmp_path, schemas=tmp_path)
    pipeline = Pipeline(runtime.prepare(loaded), "orders", sink=MemorySink(Memory(1)))
    records = [Record("orders", json.dumps({"id": "1", "item": one}).encode(), offset=at) for at, one in enumerate([1, 2])]
    chunk = Chunk(records, (("orders", 0, 2),))
    first = pipeline.begin(chunk, made._inside.states)
    pipeline.complete(first)
    again = pipeline.begin(Chunk(records, chunk.places, first.execution.batch.origin.recalled))  # type: ignore[union-attr]
    pipeline.complete(again)
    for name in ("known.price", "known.price?", "known.found"):
        np.testing.assert_array_equal(again.execution.batch.columns[name], first.execution.batch.columns[name])
    never = pipeline.begin(chunk)
    pipeline.complete(never)
    assert [str(one.error) for one in never.execution.batch.failures] == ["the table items is not known here"] * 2
