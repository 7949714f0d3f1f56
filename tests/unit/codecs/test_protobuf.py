"""Protobuf messages as events: what each field of a message is, what fails a row, and which file is whose schema."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message_factory import GetMessageClass

from penstock.batch import Batch
from penstock.codecs import decoder, encoder, event_reader, event_writer, load_schema
from penstock.codecs.protobuf.files import as_text, compiled
from penstock.errors import DecodeError, EncodeError, SchemaError
from penstock.schema import Column, Field, Missing, Schema
from penstock.signature import Tensor

Proto = Callable[..., Schema]

PROTO3 = 'syntax = "proto3";\npackage shop;\n'
NONE = Missing("fill", None)
ORDER = """\
message Order {
  string id = 1;
  int32 small = 2;
  optional double price = 3;
  repeated float vector = 4;
  Customer customer = 5;
  repeated Item items = 6;
  map<string, double> tags = 7;
  map<int32, Item> by_number = 8;
  State state = 9;
  oneof pay { string card = 10; int64 cash = 11; }
  uint64 large = 12;
  bytes raw = 13;
}
message Item { string sku = 1; double price = 2; }
message Customer { string name = 1; optional int32 age = 2; Customer parent = 3; }
enum State { UNKNOWN = 0; PAID = 3; }
"""


@pytest.fixture
def proto(tmp_path: Path) -> Proto:
    """Writes a file and loads its schema; `message` is one of several in it."""

    def made(text: str, message: str = "", file: str = "event.proto", before: str = PROTO3) -> Schema:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(before + text)
        return load_schema(f"{path}#{message}" if message else path)

    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The order's file, and those of its writers: id 7 is the same, in 8 the order comes second, 9 has other types."""
    made = tmp_path_factory.mktemp("schemas")
    (made / "ids").mkdir()
    for name, text in {
        "order": ORDER,
        "ids/7": ORDER,
        "ids/8": "message Note { string id = 1; message In { string id = 1; } } message Order { string id = 1; }",
        "ids/9": "message Order { double id = 1; repeated int32 small = 2; }",
    }.items():
        (made / f"{name}.proto").write_text(PROTO3 + text)
    return made


@pytest.fixture(scope="module")
def order(folder: Path) -> Schema:
    return load_schema(f"{folder}/order.proto#Order")


def written(schema: Schema, **fields: Any) -> bytes:
    """A message, as the library writes it."""
    message: bytes = GetMessageClass(schema.protobuf.descriptor())(**fields).SerializePartialToString()
    return message


def read(schema: Schema, value: bytes, field: str, dtype: str, shape: tuple[int | None, ...] = (), missing: Missing = NONE) -> Any:
    """The value that a column takes from one event; the error of an event that fails."""
    column = Column("x", field, dtype, shape, missing if not shape else Missing())
    batch = decoder("protobuf", schema, [column]).decode([value])
    return str(batch.failures[0].error) if batch.failures else batch.columns["x"][0]


def of_kind(fields: tuple[Field, ...]) -> dict[str, str]:
    return {field.name: f"{field.kind}{' or null' if field.optional else ''}" for field in fields}


def test_fields_of_a_message_are_those_of_an_event(order: Schema) -> None:
    assert of_kind(order.fields) == {
        "id": "string", "small": "int", "price": "double or null", "vector": "array", "customer": "record or null", "items": "array",
        "tags": "map", "by_number": "map", "state": "enum", "card": "string or null", "cash": "long or null", "large": "long",
        "raw": "bytes",
    }  # fmt: skip
    assert order.name == "shop.Order"
    state = order.field("state")
    assert state is not None
    assert state.symbols == ("UNKNOWN", "PAID")


@pytest.mark.parametrize(
    ("given", "field", "dtype", "shape", "value"),
    [
        ({"id": "é"}, "id", "string", (), "é"),
        ({}, "id", "string", (), ""),
        ({"small": -7}, "small", "int32", (), -7),
        ({}, "small", "int32", (), 0),
        ({}, "price", "float64", (), None),
        ({"price": 0}, "price", "float64", (), 0),
        ({"vector": [1, 2]}, "vector", "float32", (2,), [1, 2]),
        ({"vector": [1, 2]}, "vector", "float32", (None,), [1, 2]),
        ({"vector": [1, 2]}, "vector[1]", "float32", (), 2),
        ({"vector": [1, 2]}, "vector[2]", "float32", (), None),
        ({"vector": [1]}, "vector", "float32", (2,), "field 'vector' is not an array of 2"),
        ({"customer": {"name": "n"}}, "customer.name", "string", (), "n"),
        ({}, "customer.name", "string", (), None),
        ({"customer": {}}, "customer.name", "string", (), ""),
        ({"customer": {}}, "customer.age", "int32", (), None),
        ({"items": [{"price": 1}, {"price": 2}]}, "items[1].price", "float64", (), 2),
        ({"items": [{"price": 1}]}, "items[1].price", "float64", (), None),
        ({"tags": {"w": 3}}, "tags.w", "float64", (), 3),
        ({"tags": {"v": 3}}, "tags.w", "float64", (), None),
        ({"by_number": {5: {"sku": "a"}}}, "by_number.5.sku", "string", (), "a"),
        ({"by_number": {5: {"sku": "a"}}}, "by_number.6.sku", "string", (), None),
        ({"by_number": {5: {"sku": "a"}}}, "by_number.x.sku", "string", (), None),
        ({"by_number": {5: {"sku": "a"}}}, "by_number.99999999999999999999.sku", "string", (), None),
        ({"state": 3}, "state", "string", (), "PAID"),
        ({}, "state", "string", (), "UNKNOWN"),
        ({"state": 7}, "state", "string", (), "field 'state' has the number 7, which is no value of its enum"),
        ({"cash": 5}, "cash", "int64", (), 5),
        ({"card": "c"}, "cash", "int64", (), None),
        ({"large": 2**63 - 1}, "large", "int64", (), 2**63 - 1),
        ({"large": 2**63}, "large", "int64", (), "field 'large' is 9223372036854775808, more than 64 bits with a sign hold"),
    ],
)
def test_value_is_read(order: Schema, given: Mapping[str, Any], field: str, dtype: str, shape: tuple[int | None, ...], value: Any) -> None:
    found = read(order, written(order, **given), field, dtype, shape)
    assert (found.tolist() if isinstance(found, np.ndarray | np.generic) else found) == value


def test_null_fails_its_row_without_a_rule(order: Schema) -> None:
    found = read(order, written(order), "customer.name", "string", missing=Missing())
    assert found == "field 'customer.name' is null, and the topology gives no value for nulls (add it under `missing:`)"
    assert read(order, written(order), "price", "float32", missing=Missing("fill", 9)) == 9


def test_message_inside_itself_is_read_one_level_deep(order: Schema) -> None:
    assert order.field("customer.parent") is not None
    assert order.field("customer.parent.name") is None


def test_google_messages_that_are_values(proto: Proto) -> None:
    schema = proto(
        "message E { google.protobuf.Timestamp at = 1; google.protobuf.Duration took = 2; google.protobuf.Int32Value n = 3;\n"
        "google.protobuf.StringValue s = 4; google.protobuf.Struct any = 5; repeated google.protobuf.Timestamp all = 6; }",
        before=PROTO3 + "".join(f'import "google/protobuf/{one}.proto";\n' for one in ("timestamp", "duration", "wrappers", "struct")),
    )
    assert of_kind(schema.fields) == {
        "at": "timestamp or null", "took": "double or null", "n": "int or null", "s": "string or null", "any": "union or null",
        "all": "array",
    }  # fmt: skip
    at = schema.field("at")
    assert at is not None
    assert at.unit == "us"
    event = {"at": 1_700_000_000_123_456, "took": -1.25, "n": 0, "s": "a", "all": [1, 2]}
    value = event_writer("protobuf", schema)(event)
    assert event_reader("protobuf", schema)(value) == {**event, "any": None}
    assert [read(schema, value, *one) for one in (("at", "int64"), ("took", "float64"), ("n", "int32"), ("s", "string"))] == [
        1_700_000_000_123_456, -1.25, 0, "a",
    ]  # fmt: skip
    assert read(schema, value, "all", "int64", (2,)).tolist() == [1, 2]
    assert read(schema, b"", "at", "int64") is None
    far = written(schema, at={"seconds": 2**60})
    assert read(schema, far, "at", "int64") == "field 'at' is no time between the years 1 and 9999"


def test_proto2_has_defaults_and_required_fields(proto: Proto) -> None:
    schema = proto(
        "message E { required int32 id = 1; optional string s = 2 [default = 'd']; optional int32 n = 3; optional C c = 4 [default = B];\n"
        "optional C u = 5; optional group G = 6 { optional int32 deep = 1; } optional In in = 7; }\n"
        "message In { required int32 must = 1; optional int32 may = 2; } enum C { A = 1; B = 2; }",
        "E",
        before='syntax = "proto2";\npackage shop;\n',
    )
    assert of_kind(schema.fields) == {
        "id": "int", "s": "string", "n": "int or null", "c": "enum", "u": "enum or null", "g": "record or null", "in": "record or null",
    }  # fmt: skip
    value = written(schema, id=1)
    assert [read(schema, value, name, dtype) for name, dtype in (("s", "string"), ("n", "int32"), ("c", "string"), ("u", "string"))] == [
        "d", None, "B", None,
    ]  # fmt: skip
    assert read(schema, written(schema, id=1, g={"deep": 4}), "g.deep", "int32") == 4
    assert read(schema, b"", "s", "string") == "it lacks required fields: id"
    assert read(schema, written(schema, id=1, **{"in": {"may": 1}}), "s", "string") == "it lacks required fields: in.must"
    # The library drops what a closed enum does not know; here it is not taken for a default.
    assert read(schema, value + b"\x28\x07", "u", "string") == "field 'u' has the number 7, which is no value of its enum"
    assert read(schema, value + b"\x12\x02\xff\xfe", "s", "string") == "field 's' is not UTF-8"


def test_required_field_is_missed_at_any_depth(tmp_path: Path) -> None:
    """Also where messages are inside each other."""
    (tmp_path / "old.proto").write_text(
        'syntax = "proto2"; message R { optional B b = 1; }\n'
        "message B { optional A a = 1; optional int32 z = 2; } message A { optional B b = 1; required int32 x = 2; }"
    )
    schema = load_schema(f"{tmp_path}/old.proto#R")
    found = decoder("protobuf", schema, [Column("z", "b.z", "int32", missing=Missing("fill", -1))])
    body = b""  # an A without x
    for depth in range(3):
        assert len(found.decode([b"\x0a" + bytes([len(body) + 2]) + b"\x0a" + bytes([len(body)]) + body]).failures) == 1, depth
        inside = b"\x0a" + bytes([len(body)]) + body  # a B that has it
        body = b"\x0a" + bytes([len(inside)]) + inside + b"\x10\1"  # an A that has x, and that B


def test_whole_number_of_more_bits_is_not_cut_off(order: Schema, proto: Proto) -> None:
    wider = proto("message Order { int64 small = 2; }", file="wider.proto")
    assert read(order, written(wider, small=2**32 + 5), "small", "int32", missing=Missing()).endswith("is 4294967301, above 2147483647")


@pytest.mark.parametrize("value", [b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x05ab", b"\x0a\x02\xff\xfe", b"\x0b" * 4000, b"\x00"])
def test_bytes_that_are_no_message_fail_their_row(order: Schema, value: bytes) -> None:
    good = written(order, id="a")
    batch = decoder("protobuf", order, [Column("id", "id", "string")]).decode([good, value, None, good])
    assert [failure.row for failure in batch.failures] == [1, 2]
    assert batch.columns["id"].tolist() == ["a", "a"]


def test_message_that_is_too_large_is_not_read(order: Schema) -> None:
    batch = decoder("protobuf", order, [], max_bytes=10).decode([written(order, id="a" * 20)])
    assert str(batch.failures[0].error) == "22 bytes, more than the 10 allowed (max_bytes of the source)"


def test_nesting_has_a_limit(order: Schema) -> None:
    inside = b""
    for _ in range(200):
        inside = b"\x1a" + _varint(len(inside)) + inside
    value = b"\x2a" + _varint(len(inside)) + inside
    assert read(order, value, "id", "string") == ""  # nobody reads the parents
    with pytest.raises(ValueError, match="Error parsing message"):
        event_reader("protobuf", order)(value)


def test_large_messages_are_decoded_a_few_at_a_time(order: Schema) -> None:
    values = [written(order, id="a" * 1_000_000), b"\xff", written(order, id="b")] * 6
    batch = decoder("protobuf", order, [Column("id", "id", "string")]).decode(values)
    assert [len(one) for one in batch.columns["id"]] == [1_000_000, 1] * 6
    assert [failure.row for failure in batch.failures] == [1, 4, 7, 10, 13, 16]
    assert batch.rows is not None
    assert batch.rows.tolist() == [row for row in range(18) if row % 3 != 1]


def test_what_nobody_reads_is_not_decoded(order: Schema) -> None:
    """A message in the message that is none costs nothing, and a million of empty ones no memory."""
    assert read(order, b"\x2a\x02\xff\xff" + written(order, id="a"), "id", "string") == "a"
    assert read(order, b"\x0a\x01a" + b"\x32\x00" * 500_000, "id", "string") == "a"


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 127:
        made.append(number & 127 | 128)
        number >>= 7
    return bytes([*made, number])


# -- files ---------------------------------------------------------------------------------------------------------------


def test_file_with_several_messages_names_one(proto: Proto) -> None:
    with pytest.raises(
        SchemaError, match=r"the file has 3 messages: shop.Order, shop.Item, shop.Customer \(name one of them: event.proto#"
    ):
        proto(ORDER)
    assert proto(ORDER, "shop.Item").name == "shop.Item"
    assert proto("message A { message B { int32 x = 1; } }", "A.B").name == "shop.A.B"
    with pytest.raises(SchemaError, match=r"the file has no message 'Odrer': shop.Order"):
        proto(ORDER, "Odrer")


def test_imports_are_beside_the_file_and_above_it(proto: Proto) -> None:
    proto("message Item { double price = 1; }", file="shop/item.proto")
    imports = 'import "shop/item.proto";\nimport "local.proto";\nimport "google/protobuf/timestamp.proto";\n'
    proto("message Local { int32 x = 1; }", file="shop/local.proto")
    schema = proto(f"{imports}message Order {{ Item item = 1; Local local = 2; }}", file="shop/order.proto")
    assert schema.field("item.price") is not None
    assert schema.field("local.x") is not None


def test_mistake_has_its_line(proto: Proto, tmp_path: Path) -> None:
    with pytest.raises(SchemaError) as caught:
        proto('message E {\n  Other x = 1;\n}\nimport "gone.proto";')
    listed = [str(one) for one in caught.value.problems]
    assert listed[0].startswith("gone.proto: File not found.") or "gone.proto" in listed[0]
    assert f'{tmp_path}/event.proto:4:3: "Other" is not defined.' in listed


def test_set_of_descriptors_is_a_schema_too(order: Schema, tmp_path: Path) -> None:
    (tmp_path / "shop.binpb").write_bytes(order.protobuf.files)
    schema = load_schema(f"{tmp_path}/shop.binpb#Order")
    assert schema.fields == order.fields
    assert read(schema, written(order, small=3), "small", "int32") == 3


@pytest.mark.parametrize("data", [b"", b"\xff\xff", b"\x0a\x09\x0a\x07a.proto"])
def test_file_that_is_no_set_of_descriptors_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "shop.binpb").write_bytes(data)
    with pytest.raises(SchemaError, match=r"shop.binpb: "):
        load_schema(tmp_path / "shop.binpb")


@pytest.mark.parametrize("declared", ["message Timestamp { string x = 1; }", "message Int64Value { repeated int64 value = 1; }"])
def test_message_with_the_name_of_a_google_message_is_read_by_its_fields(tmp_path: Path, declared: str) -> None:
    (tmp_path / "own.proto").write_text(
        f"{PROTO3.replace('shop', 'google.protobuf')}{declared}\nmessage E {{ {declared.split()[1]} at = 1; }}"
    )
    field = load_schema(f"{tmp_path}/own.proto#E").field("at")
    assert field is not None
    assert field.kind == "record"


def test_comment_in_another_encoding_is_no_obstacle(tmp_path: Path) -> None:
    """A registry is given the descriptor then."""
    (tmp_path / "event.proto").write_bytes(
        f"{PROTO3}// \N{LATIN SMALL LETTER E WITH ACUTE}\nmessage E {{ int32 x = 1; }}".encode("latin-1")
    )
    schema = load_schema(tmp_path / "event.proto")
    (source,) = schema.protobuf.sources()
    (tmp_path / "same.binpb").write_bytes(compiled(source[1], {}))
    assert load_schema(tmp_path / "same.binpb").fields == schema.fields


def test_registered_schema_may_import_any_name_of_a_file() -> None:
    imported = f"{PROTO3}message X {{ int32 x = 1; }}"
    for name in ("schema.proto", "its-schema.proto", "given.set", "a/b.proto"):
        imports = {name: imported, "schema.proto": imported.replace("X", "Y")} if name.startswith("its") else {name: imported}
        made = FileDescriptorSet.FromString(compiled(f'{PROTO3}import "{name}"; message A {{ X x = 1; }}', imports))
        assert made.file[-1].message_type[0].name == "A"


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "\ud800", "../x", "", "taken/x", "/etc/passwd"])
@pytest.mark.parametrize("text", [PROTO3, as_text(FileDescriptorProto(name="x"))], ids=["text", "descriptor"])
def test_registered_name_that_is_no_file_is_refused(name: str, text: str) -> None:
    """Nothing else than SchemaError comes out: a registry is read while a worker runs."""
    with contextlib.suppress(SchemaError):
        compiled(f"{PROTO3}message A {{ int32 x = 1; }}", {"taken": PROTO3, name: text})


def test_protoc_that_is_absent_is_named(tmp_path: Path) -> None:
    """In a process that cannot import it."""
    (tmp_path / "event.proto").write_text(PROTO3 + "message E { int32 x = 1; }")
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'grpc_tools' else find(name, *more)\n"
        "from penstock.codecs import load_schema; load_schema('event.proto')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "event.proto: Protobuf's text is read by protoc, which is not installed (pip install 'penstock[protobuf]'" in done.stderr


# -- frames --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def framed(order: Schema) -> Callable[[bytes], Batch]:
    """Decodes one value of `protobuf-confluent`."""
    columns = [Column("id", "id", "string"), Column("price", "price", "float32", missing=Missing("fill", -1))]
    found = decoder("protobuf-confluent", order, columns)
    return lambda value: found.decode([value])


ID = b"\x0a\x01a"  # field 1 is "a"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"\0\0\0\0\7\0" + ID, ""),
        (b"\0\0\0\0\7\2\0" + ID, ""),  # the long form of the first message
        (b"\0\0\0\0\x08\2\2" + ID, ""),
        (b"\0\0\0\0\x08\0" + ID, "it is a shop.Note, the source reads shop.Order"),
        (b"\0\0\0\0\x08\4\0\0" + ID, "it is a shop.Note.In, the source reads shop.Order"),
        (b"\0\0\0\0\x08\2\x0a" + ID, "it is a message number [5], which schema id 8 does not have, the source reads shop.Order"),
        (
            b"\0\0\0\0\x09\0",
            "schema id 9 wrote it, which the source's schema cannot read: field 'id' (number 1) is double there, and string here",
        ),
        (b"\0\0\0\0\x0a\0" + ID, "unknown schema id 10; put its schema into"),
        (b"\0\0\0\0\7", "no Confluent frame of Protobuf: no message indexes after the id"),
        (b"\0\0\0\0\7\x80\x80", "no Confluent frame of Protobuf: no message indexes after the id"),
        (b"\0\0\0\0\7\xfe\1" + b"\0" * 200, "no Confluent frame of Protobuf: 127 message indexes"),
        (b"\0\0\0\0\7\1" + ID, "no Confluent frame of Protobuf: -1 message indexes"),
        (ID, "no Confluent frame: expected a zero byte"),
    ],
)
def test_frame_names_the_writer(framed: Callable[[bytes], Batch], value: bytes, reason: str) -> None:
    for batch in (framed(value), framed(value)):
        assert [str(failure.error)[: len(reason)] for failure in batch.failures] == ([reason] if reason else [])
        if not reason:
            assert batch.columns["id"].tolist() == ["a"]
            assert batch.columns["price"].tolist() == [-1]


@pytest.mark.parametrize(
    ("there", "here", "large", "value"),
    [
        ("uint64", "int64", 2**63 + 5, None),
        ("uint64", "int32", 2**64 - 1, None),
        ("fixed64", "sfixed64", 2**64 - 1, None),
        ("fixed32", "sfixed32", 2**32 - 1, None),
        ("sfixed32", "fixed32", -1, None),
        ("sfixed64", "fixed64", -1, None),
        ("int64", "uint64", -1, None),
        ("int32", "uint32", -1, None),
        ("uint32", "int64", 2**32 - 1, 2**32 - 1),
        ("int32", "int64", -1, -1),
    ],
)
def test_number_of_the_writer_is_no_other_number(tmp_path: Path, there: str, here: str, large: int, value: int | None) -> None:
    """Protobuf alone reads 2^63 + 5 as a negative number where the reader's type has a sign."""
    text = PROTO3 + "message E {{ {} x = 1; }}"
    (tmp_path / "ids").mkdir()
    (tmp_path / "ids/7.proto").write_text(text.format(there))
    (tmp_path / "event.proto").write_text(text.format(here))
    body = event_writer("protobuf", load_schema(tmp_path / "ids/7.proto"))({"x": large})
    batch = decoder("protobuf-confluent", load_schema(tmp_path / "event.proto"), [Column("x", "x", "int64")]).decode(
        [b"\0\0\0\0\7\0" + body]
    )
    assert batch.columns["x"].tolist() == ([] if value is None else [value])
    assert len(batch.failures) == (value is None)


def test_field_that_nobody_reads_may_have_another_type(order: Schema) -> None:
    found = decoder("protobuf-confluent", order, [Column("price", "price", "float32", missing=Missing("fill", -1))])
    assert found.decode([b"\0\0\0\0\x09\0"]).columns["price"].tolist() == [-1]


def test_sink_writes_the_place_of_its_message(proto: Proto, tmp_path: Path) -> None:
    schema = proto("message Other { int32 x = 1; } message Score { string id = 1; }", "Score")
    (tmp_path / "ids").mkdir()
    (tmp_path / "ids/300.proto").write_text((tmp_path / "event.proto").read_text())
    made = encoder("protobuf-confluent", [Tensor("id", "string", ())], schema)
    assert made.encode([np.array(["a"], object)])[0] == [b"\0\0\0\x01\x2c\2\2" + ID]


def test_sink_needs_its_schema_among_the_ids(proto: Proto, tmp_path: Path) -> None:
    schema = proto("message Score { string id = 1; }")
    (tmp_path / "ids").mkdir()
    (tmp_path / "ids/300.proto").write_text(PROTO3 + "message Score { string id = 2; }")
    with pytest.raises(SchemaError, match=r"copy it there under its id: 17.proto, or set schema_registry_url; .* has 300.proto"):
        encoder("protobuf-confluent", [Tensor("id", "string", ())], schema)


# -- writing -------------------------------------------------------------------------------------------------------------


def test_sink_writes_every_kind(proto: Proto) -> None:
    schema = proto(
        "message Out { string id = 1; float score = 2; repeated double all = 3; In in = 4; google.protobuf.Timestamp at = 5;\n"
        "google.protobuf.DoubleValue w = 6; State state = 7; uint32 n = 8; optional float maybe = 9;\n"
        "google.protobuf.Duration took = 10; }\n"
        "message In { int64 x = 1; } enum State { A = 0; B = 2; }",
        "Out",
        before=PROTO3 + "".join(f'import "google/protobuf/{one}.proto";\n' for one in ("timestamp", "duration", "wrappers")),
    )
    given = {
        "id": (["a", "b"], "string"), "score": ([1.5, 2.5], "float32"), "all": ([[1, 2], [3, 4]], "float64"), "in.x": ([7, 8], "int64"),
        "at": ([-1, 1_700_000_000_000_001], "int64"), "w": ([0.5, 0], "float64"), "state": (["B", "A"], "string"), "n": ([0, 5], "int64"),
        "maybe": ([None, 2], "float32"), "took": ([-0.5, 90.25], "float64"),
    }  # fmt: skip
    columns = [np.array(values, object if dtype == "string" or name == "maybe" else dtype) for name, (values, dtype) in given.items()]
    tensors = [Tensor(name, dtype, (2,) if name == "all" else ()) for name, (_, dtype) in given.items()]
    values, errors = encoder("protobuf", tensors, schema).encode(columns)
    assert not errors
    assert [event_reader("protobuf", schema)(value) for value in values] == [
        {"id": "a", "score": 1.5, "all": [1, 2], "in": {"x": 7}, "at": -1, "w": 0.5, "state": "B", "n": 0, "maybe": None, "took": -0.5},
        {"id": "b", "score": 2.5, "all": [3, 4], "in": {"x": 8}, "at": 1_700_000_000_000_001, "w": 0, "state": "A", "n": 5, "maybe": 2,
         "took": 90.25},
    ]  # fmt: skip


def test_row_that_no_message_holds_fails_alone(proto: Proto) -> None:
    schema = proto("message Out { uint32 n = 1; State s = 2; string t = 3; } enum State { A = 0; }", "Out")
    columns = [np.array([1, -1, 2**32, 2, 3]), np.array(["A", "A", "A", "C", "A"], object), np.array(["", "", "", "", "\ud800"], object)]
    values, errors = encoder("protobuf", [Tensor("n", "int64", ()), Tensor("s", "string", ()), Tensor("t", "string", ())], schema).encode(
        columns
    )
    assert sorted(errors) == [1, 2, 3, 4]
    assert all(isinstance(error, EncodeError) for error in errors.values())
    assert "field 'n' is -1, and its type holds 0 to 4294967295" in str(errors[1])
    assert values == [b"\x08\1", b"", b"", b"", b""]


def test_sink_does_not_write_two_members_of_a_oneof(order: Schema) -> None:
    with pytest.raises(SchemaError, match="the sink writes 'card' and 'cash', and the oneof 'pay' holds one of them"):
        encoder("protobuf", [Tensor("card", "string", ()), Tensor("cash", "int64", ())], order)


def test_sink_writes_what_is_required(proto: Proto) -> None:
    schema = proto("message Out { required int32 id = 1; optional float score = 2; }", before='syntax = "proto2";\n')
    with pytest.raises(SchemaError, match="field 'id' has no default and the sink does not write it"):
        encoder("protobuf", [Tensor("score", "float32", ())], schema)


def test_event_that_no_message_holds_names_the_field(proto: Proto) -> None:
    declared = "message Out { optional uint32 n = 1; optional string t = 2; required bool b = 3; repeated Out more = 4; }"
    write = event_writer("protobuf", proto(declared, before='syntax = "proto2";\npackage shop;\n'))
    for event, reason in (
        ({"n": -1}, "field 'n': is -1, and its type holds 0 to 4294967295"),
        ({"t": 5, "b": True}, "field 't': "),
        ({"b": True, "more": [{"b": 1.5}]}, "field 'more': "),
        ({"x": 1}, "shop.Out has no field 'x'"),
        ({"n": 1}, "missing required fields: b"),
    ):
        with pytest.raises(ValueError, match=reason):
            write(event)


def test_error_is_a_decode_error(order: Schema) -> None:
    batch = decoder("protobuf", order, []).decode([b"\xff"])
    assert isinstance(batch.failures[0].error, DecodeError)
