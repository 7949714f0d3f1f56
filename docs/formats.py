"""Writes docs/formats.md: which shapes of events work in which format, each found by scoring such events through a topology.

python docs/formats.py            writes the page
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import fastavro

from penstock.errors import PenstockError
from penstock.record import Header, Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from penstock.testing.driver import TopologyDriver

PAGE: Final = Path(__file__).parent / "formats.md"
FORMATS: Final = ("json", "json-confluent", "avro", "avro-confluent")
FRAME: Final = b"\0\0\0\0\7"
TOPOLOGY: Final = """\
topology: formats
sources: {{events: {{topic: events, schema: event.avsc, format: {format}{source}}}}}
nodes: {{n: {{kind: model, model: "{model}@1", inputs: {{x: {x}}}}}}}
sinks: {{answers: {{topic: answers, fields: {{{output}: n}}}}}}
"""


@dataclass(frozen=True)
class Case:
    """Events that a user may have, and the answers to them: the model `double` doubles, and `place` gives a text its place in a list.

    `fields` are those of the reader's schema, `written` those of the writer's where it has others. `only` names the formats that have such
    events at all.
    """

    title: str
    fields: list[dict[str, Any]]
    events: list[Mapping[str, Any] | None]
    answers: list[float]
    x: str = "x"
    source: str = ""
    output: str = "y"
    written: list[dict[str, Any]] = field(default_factory=list)
    only: tuple[str, ...] = FORMATS
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
JSON: Final = ("json", "json-confluent")
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
        only=(*JSON, "avro-confluent"),
    ),
    Case(
        "a field that the writer lacks, with a default",
        [X, _field("z", "float", default=4)],
        [{"x": 1}],
        [8],
        x="z",
        written=[X],
        only=(*JSON, "avro-confluent"),
    ),
    Case("a union of several types, which is not read", [_field("u", ["null", "string", "long"]), X], [{"u": 7, "x": 1}], [2]),
    Case(
        "arrays of different lengths, an item of each",
        [_field("v", {"type": "array", "items": "float"})],
        [{"v": [1, 2]}, {"v": [3]}],
        [2, 6],
        x='{field: "v[0]", missing: 0}',
    ),
    Case(
        "CloudEvents, structured: `data.x`",
        [_field("id", "string"), _field("data", _record("Data", X))],
        [{"specversion": "1.0", "id": "a", "data": {"x": 2}}],
        [4],
        x="data.x",
        source=", id: id",
        only=JSON,
    ),
    Case("CloudEvents, binary: `header.ce_id`", [X], [{"x": 2}], [4], source=", id: header.ce_id", headers=(("ce_id", b"a"),)),
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
    (folder / "schemas/event.avsc").write_text(json.dumps(_record("Event", *case.fields)))
    writer = _record("Event", *(case.written or case.fields))
    (ids / "7.avsc").write_text(json.dumps(writer))
    registry = DirectoryRegistry(folder / "models")
    registry.publish("double", models.linear([2]))
    registry.publish("place", models.category_number(["a", "b"]))
    (folder / "t.yaml").write_text(TOPOLOGY.format(format=form, source=case.source, model=case.model, x=case.x, output=case.output))
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
    frame = FRAME if form.endswith("-confluent") else b""
    if form.startswith("json"):
        return frame + json.dumps(event).encode()
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(writer), dict(event))
    return frame + out.getvalue()


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
reader's own schema, and Avro's values have their types.

{table}

Not read: Protobuf, raw bytes, and XML. Headers and keys are of the record, so they are there in every format.
[Schemas and formats](schemas.md) has the rules, [Models](models.md#operators) what models may contain, and
[Which frameworks work](frameworks.md) is the table of models.
"""


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
