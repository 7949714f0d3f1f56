"""Writes docs/formats.md: which shapes of events work in which format, each found by scoring such events through a topology.

python docs/formats.py            writes the page
"""

from __future__ import annotations

import base64
import io
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import fastavro
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass

from penstock.codecs import load_schema
from penstock.errors import PenstockError
from penstock.record import Header, Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from penstock.testing.driver import TopologyDriver

PAGE: Final = Path(__file__).parent / "formats.md"
JSON: Final = ("json", "json-confluent")
PROTOBUF: Final = ("protobuf", "protobuf-confluent")
FORMATS: Final = (*JSON, "avro", "avro-confluent", *PROTOBUF, "bytes")
FRAME: Final = b"\0\0\0\0\7"
TOPOLOGY: Final = """\
topology: formats
sources: {{events: {{topic: events, {schema}format: {format}{source}}}}}
nodes: {{n: {{kind: model, model: "{model}@1", inputs: {{x: {x}}}}}}}
sinks: {{answers: {{topic: answers, fields: {{{output}: n}}}}}}
"""


@dataclass(frozen=True)
class Case:
    """Events that a user may have, and the answers to them: the model `double` doubles, and `place` gives a text its place in a list.

    `fields` are those of the reader's schema, `written` those of the writer's where it has others, in Avro's terms, `properties` those of a
    JSON Schema in place of it. `only` names the formats that have such events at all.
    """

    title: str
    fields: list[dict[str, Any]]
    events: list[Mapping[str, Any] | None]
    answers: list[float]
    x: str = "x"
    source: str = ""
    output: str = "y"
    written: list[dict[str, Any]] = field(default_factory=list)
    properties: dict[str, Any] = field(default_factory=dict)
    only: tuple[str, ...] = FORMATS[:-1]
    key: bytes | None = None
    headers: tuple[Header, ...] = ()
    model: str = "double"


def _field(name: str, type: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": type, **more}


def _record(name: str, *fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [*fields]}


X: Final = _field("x", "float")
AFTER: Final = _record(
    "After", X, _field("items", {"type": "array", "items": _record("Item", X)}), _field("tags", {"type": "map", "values": "float"})
)
NESTED: Final = [_field("op", "string"), _field("after", ["null", AFTER])]
ROW: Final = {"x": 1.5, "items": [{"x": 2.5}], "tags": {"w": 3.5}}
EVENT: Final = {"specversion": "1.0", "id": "a", "source": "/shop", "type": "order"}  # what every CloudEvent has
CASES: Final = (
    Case("numbers and text at the top", [X, _field("s", "string")], [{"x": 1.5, "s": "a"}], [3]),
    Case("null, with a rule", [_field("x", ["null", "float"])], [{"x": None}], [2], x="{field: x, missing: 1}"),
    Case("a field inside a record: `after.x`", NESTED, [{"op": "c", "after": ROW}], [3], x="{field: after.x, missing: 0}"),
    Case("an item of an array: `items[0].x`", NESTED, [{"op": "c", "after": ROW}], [5], x='{field: "after.items[0].x", missing: 0}'),
    Case("a key of a map: `tags.w`", NESTED, [{"op": "c", "after": ROW}], [7], x="{field: after.tags.w, missing: 0}"),
    Case(
        "Debezium's deletions and tombstones skipped",
        NESTED,
        [{"op": "c", "after": ROW}, {"op": "d", "after": None}, None],
        [3],
        x="after.x",
        source=", envelope: debezium",
    ),
    Case("a field inside a record written: `result.y`", [X], [{"x": 1}], [2], output="result.y"),
    Case("the key as text", [_field("a", "float")], [{"a": 1}], [1], x="{field: key, missing: none}", key=b"b", model="place"),
    Case(
        "names that no schema can have, as aliases",
        [_field("x", "float", aliases=["Petal Length (cm)"])],
        [{"Petal Length (cm)": 2}],
        [4],
        only=JSON,
    ),
    Case(
        "a field that the writer calls otherwise",
        [_field("x", "float", aliases=["amount"])],
        [{"amount": 2}],
        [4],
        written=[_field("amount", "float")],
        only=(*JSON, "avro-confluent", *PROTOBUF),
    ),
    Case(
        "a field that the writer lacks, with a default",
        [X, _field("z", "float", default=4)],
        [{"x": 1}],
        [8],
        x="z",
        written=[X],
        only=(*JSON, "avro-confluent", *PROTOBUF),
    ),
    Case(
        "a union of several types, which is not read",
        [_field("u", ["null", "string", "long"]), X],
        [{"u": 7, "x": 1}],
        [2],
        only=(*JSON, "avro", "avro-confluent"),
    ),
    Case(
        "arrays of different lengths, an item of each",
        [_field("v", {"type": "array", "items": "float"})],
        [{"v": [1, 2]}, {"v": [3]}],
        [2, 6],
        x='{field: "v[0]", missing: 0}',
    ),
    Case(
        "CloudEvents, structured: `x` of the data, `ce.id`",
        [X],
        [{**EVENT, "data": {"x": 2}}],
        [4],
        source=", envelope: cloudevents, id: ce.id",
    ),
    Case(
        "CloudEvents, binary: the same",
        [X],
        [{"x": 2}],
        [4],
        source=", envelope: cloudevents, id: ce.id",
        headers=tuple((f"ce_{name}", value.encode()) for name, value in EVENT.items()),
    ),
    Case(
        "described by a JSON Schema, dates as timestamps",
        [],
        [{"@at": "1970-01-01T00:00:02Z"}],
        [4000],
        x="{field: at, missing: 0}",
        properties={"@at": {"type": "string", "format": "date-time"}},
        only=JSON,
    ),
    Case("a value's bytes, all of one length", [], [{"value": [1]}], [2], x="value", only=("bytes",)),
    Case(
        "a value's bytes, of different lengths, padded",
        [],
        [{"value": [1]}, {"value": []}],
        [2, 18],
        x="{field: value, pad: 9}",
        only=("bytes",),
    ),
    Case("a byte: `value[0]`", [], [{"value": [1, 2, 3]}], [4], x="{field: 'value[1]', missing: 0}", only=("bytes",)),
    Case(
        "`1.0` as a whole number, dates, numbers in quotes",
        [_field("count", "long"), X],
        [{"count": 1.0, "x": "2.5"}],
        [5],
        source=", coerce: [whole_numbers, decimals]",
        only=JSON,
    ),
)


def works(case: Case, form: str, folder: Path) -> bool:
    """Scores the case's events in the format; whether the answers are those that are expected."""
    ids = folder / "schemas/ids"
    ids.mkdir(parents=True)
    ending, write = (".proto", _proto) if form in PROTOBUF else (".avsc", json.dumps)
    reader, writer = _record("Event", *case.fields), _record("Event", *(case.written or case.fields))
    name = "event.schema.json" if case.properties else f"event{ending}"
    declared = json.dumps({"type": "object", "properties": case.properties}) if case.properties else write(reader)
    (folder / "schemas" / name).write_text(declared)
    (ids / f"7{ending}").write_text(write(writer))
    registry = DirectoryRegistry(folder / "models")
    registry.publish("double", models.linear([2]))
    registry.publish("place", models.category_number(["a", "b"]))
    schema = "" if form == "bytes" else f"schema: {name}, "
    (folder / "t.yaml").write_text(
        TOPOLOGY.format(format=form, schema=schema, source=case.source, model=case.model, x=case.x, output=case.output)
    )
    try:
        driver = TopologyDriver(folder / "t.yaml", models=folder / "models", schemas=folder / "schemas")
    except PenstockError:
        return False
    driver.send_records("events", [Record("", _written(event, form, writer), case.key, case.headers) for event in case.events])
    answers: list[Any] = list(driver.events("answers"))
    for name in case.output.split("."):
        answers = [answer[name] for answer in answers]
    return answers == case.answers and not driver.dead_letters("events")


def _written(event: Mapping[str, Any] | None, form: str, writer: Any) -> bytes | None:
    if event is None:
        return None
    if "specversion" in event and form != "json":  # only JSON may be in JSON as it is
        inside = base64.b64encode(_written(event["data"], form, writer) or b"").decode()
        return json.dumps({name: value for name, value in event.items() if name != "data"} | {"data_base64": inside}).encode()
    frame = FRAME if form.endswith("-confluent") else b""
    if form == "bytes":
        return bytes(event["value"])
    if form.startswith("json"):
        return frame + json.dumps(event).encode()
    if form in PROTOBUF:
        return (frame + b"\0" if frame else b"") + _message(event, writer)
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(writer), dict(event))
    return frame + out.getvalue()


def _message(event: Mapping[str, Any], writer: Any) -> bytes:
    """Returns the event as Protobuf's library writes it."""
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder, "event.proto")).write_text(_proto(writer))
        made = GetMessageClass(load_schema(file).protobuf.descriptor())
    return bytes(ParseDict(event, made()).SerializeToString())


def _proto(record: Any) -> str:
    """Returns the text of a file with a message that has the record's fields, numbered in their order."""
    return f'syntax = "proto2";\n{_message_type(record)}'


def _message_type(record: Any) -> str:
    lines: list[str] = []
    for number, one in enumerate(record["fields"], 1):
        kind = one["type"]
        if isinstance(kind, list):
            declared = f"optional {_type(next(inner for inner in kind if inner != 'null'), lines)}"
        elif isinstance(kind, dict) and kind["type"] == "array":
            declared = f"repeated {_type(kind['items'], lines)}"
        elif isinstance(kind, dict) and kind["type"] == "map":
            declared = f"map<string, {_type(kind['values'], lines)}>"
        else:
            declared = f"{'optional' if 'default' in one else 'required'} {_type(kind, lines)}"
        default = f" [default = {one['default']}]" if "default" in one else ""
        lines.append(f"{declared} {one['name']} = {number}{default};")
    return f"message {record['name']} {{ {' '.join(lines)} }}"


def _type(kind: Any, lines: list[str]) -> str:
    """Returns the name of the type; that of a record is added to the lines of the message around."""
    if isinstance(kind, str):
        return {"long": "int64", "int": "int32"}.get(kind, kind)
    lines.append(_message_type(kind))
    return str(kind["name"])


def render() -> str:
    """Returns the page."""
    rows: list[Iterable[str]] = [("events", *(f"`{form}`" for form in FORMATS)), ("---",) * (1 + len(FORMATS))]
    for case in CASES:
        cells = []
        for form in FORMATS:
            with tempfile.TemporaryDirectory() as folder:
                cells.append("" if form not in case.only else "yes" if works(case, form, Path(folder)) else "no")
        rows.append((case.title, *cells))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"""# Which events work

Each cell is what came of scoring such events through a topology (`python docs/formats.py`): yes, when the answers were
right and nothing became a dead letter. An empty cell is a format that has no such events: bare Avro is written by the
reader's own schema, Avro's and Protobuf's values have their types, Protobuf has no unions (the members of its `oneof`
are fields), and raw bytes have no fields.

{table}

Not read: XML. Headers and keys are of the record, so they are there in every format.
[Schemas and formats](schemas.md) has the rules, [Models](models.md#operators) what models may contain, and
[Which frameworks work](frameworks.md) is the table of models.
"""


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
