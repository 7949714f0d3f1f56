"""Every format of files keeps the same laws: equal events give equal outputs, equal rows fail, and what is written is read by others."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.cli.main import main
from penstock.errors import ConfigError
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from penstock.transports.files import FORMATS, format_of, place

AVRO: dict[str, Any] = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["a", "b"]}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "flag", "type": "boolean"},
        {"name": "count", "type": "long"},
        {"name": "amount", "type": ["null", "double"], "default": None},
        {"name": "note", "type": ["null", "string"], "default": None},
        {"name": "vector", "type": {"type": "array", "size": 3, "items": "float"}},
        {
            "name": "place",
            "type": {
                "type": "record",
                "name": "Place",
                "fields": [{"name": "city", "type": "string"}, {"name": "zip", "type": ["null", "int"], "default": None}],
            },
        },
    ],
}
TOPOLOGY = """\
topology: typed
sources: {events: {topic: events, schema: event.avsc, id: id}}
nodes:
  sum: {kind: model, model: sum@1, inputs: {x: vector}}
  rule: {kind: rule, outputs: {late: "flag and count > 2"}}
sinks:
  scored:
    topic: scored
    fields: {id: id, kind: kind, at: at, count: count, amount: amount, note: note, place.city: place.city, place.zip: place.zip,
             vector: vector, y: sum, late: rule.late}
"""
BEGAN = datetime(2026, 11, 29, 8, tzinfo=UTC)
TYPES = pa.schema(
    [
        ("id", pa.string()), ("kind", pa.string()), ("at", pa.timestamp("us", "UTC")), ("flag", pa.bool_()), ("count", pa.int64()),
        ("amount", pa.float64()), ("note", pa.string()), ("vector", pa.list_(pa.float32())),
        ("place", pa.struct([("city", pa.string()), ("zip", pa.int32())])), ("more", pa.string()),
    ]
)  # fmt: skip


def events() -> list[dict[str, Any]]:
    """Rows of every type with nulls, texts that have to be quoted, and two that fail: an enum and a range."""
    return [
        {
            "id": f"e{n}",
            "kind": "z" if n == 4 else "ab"[n % 2],
            "at": BEGAN + timedelta(milliseconds=n),
            "flag": n % 3 == 0,
            "count": n,
            "amount": None if n % 4 == 1 else 1e300 if n == 2 else n / 7,
            "note": [None, "", 'quoted "text", and a\nline', "ü€😀", "null"][n % 5],
            "vector": [n / 3, 0.1, -1.0],
            "place": {"city": f"city, {n}", "zip": None if n % 2 else 10_000 + n},
            "more": "a column that the schema has not",
        }
        for n in range(12)
    ]


def milliseconds(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "at": round(row["at"].timestamp() * 1000)}


def to_ndjson(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(milliseconds(row)) + "\n" for row in rows))


def to_packed(path: Path, rows: list[dict[str, Any]]) -> None:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(milliseconds(row)) + "\n" for row in rows)


def to_zstd(path: Path, rows: list[dict[str, Any]]) -> None:
    with pa.OSFile(str(path), "wb") as raw, pa.CompressedOutputStream(raw, "zstd") as file:
        file.write("".join(json.dumps(milliseconds(row)) + "\n" for row in rows).encode())


def to_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows, TYPES), path, row_group_size=5)


def to_dictionaries(path: Path, rows: list[dict[str, Any]]) -> None:
    """Parquet of a tool that packs its texts, and counts in nanoseconds."""
    table = pa.Table.from_pylist(rows, TYPES)
    for at, name in enumerate(table.column_names):
        if table.schema.field(name).type == pa.string():
            table = table.set_column(at, name, table.column(name).dictionary_encode())
    table = table.set_column(2, "at", table.column("at").cast(pa.timestamp("ns", "Asia/Tokyo")))
    pq.write_table(table, path)


def to_arrow(path: Path, rows: list[dict[str, Any]]) -> None:
    with pa.ipc.new_file(str(path), TYPES) as file:
        file.write_table(pa.Table.from_pylist(rows, TYPES), max_chunksize=5)


def to_stream(path: Path, rows: list[dict[str, Any]]) -> None:
    with pa.ipc.new_stream(str(path), TYPES) as file:
        file.write_table(pa.Table.from_pylist(rows, TYPES), max_chunksize=5)


def to_avro(path: Path, rows: list[dict[str, Any]]) -> None:
    """Without the enum's type, which could not hold what is no symbol."""
    fields = [{**field, "type": "string"} if field["name"] == "kind" else field for field in AVRO["fields"]]
    with path.open("wb") as file:
        fastavro.writer(file, {**AVRO, "fields": [*fields, {"name": "more", "type": "string"}]}, rows, codec="deflate")


def to_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Arrays are JSON, fields inside others are columns with their path."""
    flat = [
        {
            **{name: value for name, value in milliseconds(row).items() if name != "place"},
            "vector": json.dumps(row["vector"]),
            "place.city": row["place"]["city"],
            "place.zip": row["place"]["zip"],
        }
        for row in rows
    ]
    pa.csv.write_csv(pa.Table.from_pylist(flat), path)


WRITES: dict[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    "in.ndjson": to_ndjson,
    "in.jsonl.gz": to_packed,
    "in.ndjson.zst": to_zstd,
    "in.parquet": to_parquet,
    "dictionaries.parquet": to_dictionaries,
    "in.arrow": to_arrow,
    "in.arrows": to_stream,
    "in.avro": to_avro,
    "in.csv": to_csv,
}
READS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "out.ndjson": lambda path: [*map(json.loads, path.read_bytes().splitlines())],
    "out.ndjson.gz": lambda path: [*map(json.loads, gzip.decompress(path.read_bytes()).splitlines())],
    "out.ndjson.zst": lambda path: [*map(json.loads, pa.input_stream(str(path), compression="zstd").read().splitlines())],
    "out.parquet": lambda path: pq.read_table(path).to_pylist(),
    "out.arrow": lambda path: pa.ipc.open_file(str(path)).read_all().to_pylist(),
    "out.avro": lambda path: list(fastavro.reader(io.BytesIO(path.read_bytes()))),  # type: ignore[arg-type]  # each is a mapping
    "out.csv": lambda path: from_csv(pa.csv.read_csv(path)),
    "out.csv.gz": lambda path: from_csv(pa.csv.read_csv(path)),
}


def from_csv(table: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_pylist()
    for row in rows:
        row["vector"] = json.loads(row["vector"])
        row["place"] = {"city": row.pop("place.city"), "zip": row.pop("place.zip")}
        row["note"] = row["note"] or None  # the library that reads takes an empty text for null
    return rows


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("schemas").mkdir()
    Path("schemas/event.avsc").write_text(json.dumps(AVRO))
    Path("typed.yaml").write_text(TOPOLOGY)
    DirectoryRegistry(tmp_path / "models").publish("sum", models.linear([1, 2, 3]))
    return tmp_path


def run(given: str, out: str, *flags: str) -> list[dict[str, Any]]:
    assert main(["batch", "typed.yaml", "--in", given, "--out", out, *flags]) == 0
    return READS[out](Path(out))


def failed(path: str) -> list[tuple[Any, ...]]:
    return [(one["id"], one["row"], one["failed_at"]) for one in map(json.loads, Path(path).read_bytes().splitlines())]


def test_every_format_is_tried() -> None:
    """A row of the table without a test fails here."""
    assert {format_of(name)[0].name for name in WRITES} == {*FORMATS} == {format_of(name)[0].name for name in READS}  # type: ignore[index]


@pytest.mark.parametrize("name", [*WRITES][1:])
def test_equal_events_give_equal_outputs_and_equal_rows_fail(folder: Path, name: str) -> None:
    to_ndjson(Path("in.ndjson"), events())
    expected = run("in.ndjson", "out.ndjson")
    assert failed("out.ndjson.dead-letters.ndjson") == [("events:0:4", 4, "decode")]
    assert len(expected) == 11
    expected_text = Path("out.ndjson").read_text()
    for one in Path().glob("out.*"):
        one.unlink()
    WRITES[name](Path(name), events())
    run(name, "out.ndjson")
    assert Path("out.ndjson").read_text() == expected_text
    assert [one[1:] for one in failed("out.ndjson.dead-letters.ndjson")] == [(4, "decode")]


@pytest.mark.parametrize("name", [*READS][1:])
@pytest.mark.parametrize("flags", [(), ("--part-rows", "1", "--max-batch-rows", "1", "--chunk-rows", "1")], ids=["whole", "joined"])
def test_what_is_written_holds_the_same_as_lines_of_json(folder: Path, name: str, flags: tuple[str, ...]) -> None:
    rows = [row for row in events() if row["kind"] != "z"] * 3
    to_ndjson(Path("in.ndjson"), rows)
    expected = run("in.ndjson", "out.ndjson")
    found = run("in.ndjson", name, *flags)
    if "csv" in name:
        expected = [{**row, "note": row["note"] or None} for row in expected]
    assert [without(row) for row in found] == [without(row) for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert [row["y"], *row["vector"]] == pytest.approx([other["y"], *other["vector"]], rel=1e-6)


def without(row: dict[str, Any]) -> dict[str, Any]:
    """The row without its numbers of 32 bits, which some formats read back with other digits."""
    return {name: value for name, value in row.items() if name not in ("y", "vector")}


def test_row_of_csv_with_another_number_of_cells_is_a_dead_letter_with_its_text(folder: Path) -> None:
    to_csv(Path("in.csv"), [{**row, "note": "x"} for row in events()[:3]])
    lines = Path("in.csv").read_text().splitlines()
    Path("in.csv").write_text("\n".join([*lines[:2], "one,two", *lines[2:], "last"]) + "\n")
    assert [row["id"] for row in run("in.csv", "out.ndjson")] == ["e0", "e1", "e2"]
    letters = [*map(json.loads, Path("out.ndjson.dead-letters.ndjson").read_bytes().splitlines())]
    assert [(one["row"], one["value"], one["failed_at"]) for one in letters] == [(1, "one,two", "read"), (4, "last", "read")]


def test_text_of_csv_that_is_no_number_fails_its_row_alone(folder: Path) -> None:
    to_csv(Path("in.csv"), events()[:3])
    Path("in.csv").write_text(Path("in.csv").read_text().replace("10000", "ten"))
    assert [row["id"] for row in run("in.csv", "out.ndjson")] == ["e1", "e2"]
    (letter,) = [*map(json.loads, Path("out.ndjson.dead-letters.ndjson").read_bytes().splitlines())]
    assert letter["row"] == 0
    assert "'place.zip'" in letter["message"]
    assert "'ten' is not a number" in letter["message"]


@pytest.mark.parametrize("name", ["in.parquet", "in.arrow", "in.avro", "in.jsonl.gz"])
def test_broken_file_is_an_error_that_names_it(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    WRITES[name](Path(name), events())
    whole = Path(name).read_bytes()
    Path(name).write_bytes(whole[: len(whole) // 2])
    assert main(["batch", "typed.yaml", "--in", name, "--out", "out.ndjson"]) == 2
    assert f"{name}: cannot be read as" in capsys.readouterr().err.replace("\n", " ")
    assert not [*Path().glob("out*")]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damaged_byte_is_taken_for_a_mistake_of_the_program(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """It is an error that names the file, or is not noticed: only a checksum could tell."""
    name = data.draw(st.sampled_from(["in.jsonl.gz", "in.ndjson.zst", "in.parquet", "in.arrow", "in.arrows", "in.avro", "in.csv"]))
    path = tmp_path_factory.mktemp("damaged") / name
    WRITES[name](path, events())
    before = path.read_bytes()
    at = data.draw(st.integers(0, len(before) - 1))
    path.write_bytes(before[:at] + bytes([before[at] ^ data.draw(st.integers(1, 255))]) + before[at + 1 :])
    form, _ = format_of(name) or pytest.fail("no format")
    with contextlib.suppress(ConfigError):
        for _ in form.read(place(str(path)), 0, None, TYPES.names, lambda _: None):
            pass


def test_folders_named_by_a_column_are_that_column(folder: Path) -> None:
    for kind in "ab":
        Path(f"in/kind={kind}").mkdir(parents=True)
        rows = [{name: value for name, value in row.items() if name != "kind"} for row in events() if row["kind"] == kind]
        pq.write_table(pa.Table.from_pylist(rows, TYPES.remove(1)), f"in/kind={kind}/x.parquet")
    assert {(row["id"], row["kind"]) for row in run("in", "out.ndjson")} == {(f"e{n}", "ab"[n % 2]) for n in range(12) if n != 4}


def test_unions_of_avro_are_read_whole_or_fail_their_rows(folder: Path) -> None:
    """A value of a type that a column cannot hold is not taken for null, which an optional field would score."""
    wide = {"count": ["int", "long"], "amount": ["null", "int", "float", "double"], "note": ["null", "int", "string"]}
    fields = [{**one, "type": wide.get(one["name"], one["type"])} for one in AVRO["fields"]]
    rows = [{**row, "amount": 2.5, "note": None if n else "text"} for n, row in enumerate(events()[:3])]
    with Path("in.avro").open("wb") as file:
        fastavro.writer(file, {**AVRO, "fields": [{**one, "default": None} if one["name"] == "x" else one for one in fields]}, rows)
    assert [(row["id"], row["count"], row["amount"]) for row in run("in.avro", "out.ndjson")] == [("e1", 1, 2.5), ("e2", 2, 2.5)]
    (letter,) = [*map(json.loads, Path("out.ndjson.dead-letters.ndjson").read_bytes().splitlines())]
    assert (letter["row"], letter["message"]) == (0, "field 'note' is not a valid string of the schema")


@pytest.mark.parametrize("name", ["in.parquet", "in.arrow", "in.csv"])
def test_text_that_is_no_utf8_fails_its_row_and_where_it_is_not_read_nothing(folder: Path, name: str) -> None:
    rows = [{**row, "note": "plain", "more": "more"} for row in events()[:3]]
    if name == "in.csv":
        to_csv(Path(name), rows)
        lines = Path(name).read_bytes().splitlines()
        Path(name).write_bytes(b"\n".join([*lines[:2], lines[2].replace(b"plain", b"\xff"), lines[3].replace(b"more", b"\xfe"), b"\xe9"]))
    else:
        table = pa.Table.from_pylist(rows, TYPES)
        for column, texts in (("note", [b"plain", b"\xff", b"plain"]), ("more", [b"more", b"more", b"\xfe"])):
            place = table.schema.get_field_index(column)
            table = table.set_column(place, column, pa.array(texts).view(pa.string()))
        if name == "in.parquet":
            pq.write_table(table, name)
        else:
            with pa.ipc.new_file(name, table.schema) as file:
                file.write_table(table)
    assert [row["id"] for row in run(name, "out.ndjson")] == ["e0", "e2"]
    letter, *rest = map(json.loads, Path("out.ndjson.dead-letters.ndjson").read_bytes().splitlines())
    assert (letter["row"], letter["message"]) == (1, "field 'note' is no text in UTF-8")
    assert [(one["row"], one["base64"]) for one in rest] == ([(3, "6Q==")] if name == "in.csv" else [])


@pytest.mark.parametrize("name", ["in.parquet", "in.arrow", "in.arrows", "in.csv"])
def test_column_that_is_there_twice_is_an_error_that_names_it(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "in.csv":
        Path(name).write_text("id,count,count\nx,1,2\n")
    else:
        table = pa.table([pa.array(["x"]), pa.array([1]), pa.array([2])], names=["id", "count", "count"])
        if name == "in.parquet":
            pq.write_table(table, name)
        else:
            with (pa.ipc.new_file if name == "in.arrow" else pa.ipc.new_stream)(name, table.schema) as file:
                file.write_table(table)
    assert main(["batch", "typed.yaml", "--in", name, "--out", "out.ndjson"]) == 2
    assert "it has 2 columns 'count'" in capsys.readouterr().err.replace("\n", " ")


def test_long_rows_of_csv_are_read_and_what_is_no_csv_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to_csv(Path("in.csv"), [{**row, "note": "n" * 3_000_000} for row in events()[:3]])
    assert [len(row["note"]) for row in run("in.csv", "out.ndjson")] == [3_000_000] * 3
    to_csv(Path("open.csv"), [{**row, "note": "plain"} for row in events()[:3]])
    with Path("open.csv").open("a") as file:
        file.write('"e3,' + "left open\n" * 2_000_000)
    assert main(["batch", "typed.yaml", "--in", "open.csv", "--out", "open.ndjson"]) == 2
    assert "one has more than 8,388,608 bytes: is a quote left open?" in capsys.readouterr().err.replace("\n", " ")
    for encoding in ("utf-16", "utf-16-le"):
        Path("other.csv").write_text("id,count\n", encoding=encoding)
        assert main(["batch", "typed.yaml", "--in", "other.csv", "--out", "other.ndjson"]) == 2
        assert "its header is no text in UTF-8" in capsys.readouterr().err.replace("\n", " ")
    to_csv(Path("none.csv"), events()[:1])
    Path("none.csv").write_text(Path("none.csv").read_text().splitlines()[0])  # a header, without the end of its line
    assert main(["batch", "typed.yaml", "--in", "none.csv", "--out", "none.ndjson"]) == 0
