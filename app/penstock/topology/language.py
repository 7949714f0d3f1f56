"""The language as a table: which keys a topology file may have, what each may hold and what it means.

The parser checks files against this table and `json_schema` publishes it, so an editor completes exactly what the
parser takes. A new key is a row here and a line in `parse`; the keys of a node are those of its kind (`kinds`).
"""

from __future__ import annotations

from typing import Any, Final

from penstock.topology.kinds import KINDS
from penstock.topology.shapes import (
    DURATION,
    ENTRY_NAME,
    EVENT_TYPE,
    FIELD_NAME,
    FIELD_TEXT,
    FILE_NAME,
    PROVIDERS,
    REFERENCE,
    TOPIC_NAME,
    Choice,
    Either,
    Flag,
    Forms,
    Key,
    Keys,
    Kinds,
    Listing,
    Literal,
    Named,
    Nested,
    Shape,
    Text,
    Whole,
)

__all__ = ["TOPOLOGY", "json_schema"]

_BINARY: Final = ("avro", "avro-confluent", "protobuf", "protobuf-confluent")

_SOURCE: Final = Keys(
    {
        "topic": Key(TOPIC_NAME, "The Kafka topic to read.", required=True),
        "schema": Key(
            FILE_NAME,
            "The event's schema, a file of the schemas folder: Avro, for JSON also a JSON Schema, for protobuf FILE.proto#MESSAGE.",
        ),
        "format": Key(Choice(("json", "json-confluent", *_BINARY, "bytes")), "How values are encoded.", default="json"),
        "id": Key(FIELD_TEXT, "The field that identifies an event."),
        "time": Key(FIELD_TEXT, "The field with the event time: a timestamp, or a long in ms."),
        "dead_letter": Key(TOPIC_NAME, "The topic for records that cannot be scored; <topic>.dead-letter when omitted."),
        "key_schema": Key(FILE_NAME, "The schema of the records' keys (key.FIELD); without it a key is text (key)."),
        "envelope": Key(
            Choice(("debezium", "cloudevents")),
            "What wraps the events: of Debezium's changes, deletions and tombstones are skipped; the data of CloudEvents has the schema.",
        ),
        "types": Key(Listing(EVENT_TYPE), "The types of CloudEvents to read; others are skipped. All when omitted."),
        "coerce": Key(
            Listing(Choice(("whole_numbers", "dates", "decimals"))),
            "What JSON may write otherwise: 1.0 for 1, a date of ISO 8601 for a timestamp, a number in quotes.",
        ),
        "max_bytes": Key(Whole(1, 104_857_600), "Larger values go to the dead-letter topic unread.", default=1_048_576),
    }
)

_TABLE: Final = Keys(
    {
        "topic": Key(
            TOPIC_NAME, "The Kafka topic to read, best a compacted one: each worker reads all of it when it starts.", required=True
        ),
        "schema": Key(FILE_NAME, "The schema of its rows, a file of the schemas folder, as that of a source.", required=True),
        "key": Key(
            Forms(text=FIELD_TEXT, listing=Listing(FIELD_TEXT)),
            "The fields of the key: of the row, or key.FIELD of a `key_schema`; the record's key as text when omitted.",
        ),
        "history": Key(DURATION, "For how long replaced rows are kept: a lookup then sees the row of the event's time, else the last one."),
        "time": Key(FIELD_TEXT, "With a history, the field from whose time a row holds; the record's timestamp when omitted."),
        "format": Key(Choice(("json", "json-confluent", *_BINARY)), "How values are encoded.", default="json"),
        **{name: _SOURCE.keys[name] for name in ("key_schema", "coerce", "max_bytes")},
        "envelope": Key(Choice(("debezium",)), "What wraps the rows: a deletion in Debezium's changes removes its row."),
    }
)

_BY: Final = Forms(text=FIELD_TEXT, listing=Listing(FIELD_TEXT))

_MATCH: Final = Keys(
    {
        "left": Key(ENTRY_NAME, "The source whose events get partners: the pair has their id, timestamp, key and headers.", required=True),
        "right": Key(ENTRY_NAME, "The source that the partners come from.", required=True),
        "by": Key(
            Forms(text=FIELD_TEXT, listing=Listing(FIELD_TEXT), mapping=Named("source", ENTRY_NAME, _BY)),
            "The fields that are equal in both: one name or a list, or by source where the names differ.",
            required=True,
        ),
        "within": Key(DURATION, "How much later than the left event a right one may be.", required=True),
        "before": Key(DURATION, "How much earlier than the left event a right one may be; not at all when omitted."),
        "unmatched": Key(
            Choice(("drop", "keep")), "What becomes of a left event without a partner; kept, it has null for the right one.", default="drop"
        ),
        "lateness": Key(DURATION, "How far behind the newest of its partition an event may come and find its partners.", default="1m"),
        "ahead": Key(DURATION, "How far ahead of the clock an event may be; one further ahead is a dead letter.", default="1h"),
        "max_keys": Key(
            Whole(1, 1_000_000_000), "Keys of each side of a partition that are kept at the most; then the oldest go.", default=10_000_000
        ),
    }
)

_MATCHED: Final = Keys({"match": Key(_MATCH, "Two sources, whose events with the same key become one event.", required=True)})

_MATERIALIZE: Final = Keys(
    {
        "topic": Key(TOPIC_NAME, "The topic of its outputs; <application>.<topology>.<node> when omitted."),
        "key": Key(
            REFERENCE, "The key of its records, and so their partition; the event's when omitted. A window needs all of a key in one."
        ),
        "compression": Key(Choice(("lz4", "zstd", "snappy", "gzip", "none")), "How the topic is compressed.", default="lz4"),
        "retention": Key(DURATION, "How long the topic keeps records.", default="1d"),
    }
)

_JOIN: Final = Keys(
    {
        "need": Key(Literal(), "How many of the stages that it reads have to answer: a number, or all.", default="all"),
        "require": Key(Listing(ENTRY_NAME), "The materialised nodes that have to be among them."),
        "within": Key(DURATION, "How long the answers to one event are waited for, from the timestamp of the first.", required=True),
        "missing": Key(
            Named("node", ENTRY_NAME, Literal()), "By node, the value of its outputs where it did not answer: a number, text or nan."
        ),
    }
)

_NODE: Final = {
    "when": Key(
        Literal(), "The events that it computes: a condition (docs/expressions.md), or another node with `when`. Its outputs are else null."
    ),
    "materialize": Key(
        Forms(text=Flag(), mapping=_MATERIALIZE),
        "true: its outputs go to a topic, and the nodes that read them run in a stage of their own, in processes of their own.",
    ),
    "join": Key(_JOIN, "How the answers of several stages become one row, by the event's id, where it reads more than one."),
}

_SINK: Final = Keys(
    {
        "topic": Key(TOPIC_NAME, "The Kafka topic to write.", required=True),
        "fields": Key(
            Forms(listing=Listing(REFERENCE), mapping=Named("field", FIELD_NAME, REFERENCE)),
            "The fields of the output event.",
            required=True,
        ),
        "format": Key(Choice(("json", "json-confluent", *_BINARY)), "How values are encoded.", default="json"),
        "schema": Key(FILE_NAME, "The output's schema, a file of the schemas folder; all formats but json need it."),
        "key": Key(REFERENCE, "The record's key; the input's key when omitted."),
        "when": Key(Literal(), "The events that are written: a condition (docs/expressions.md), or a node with `when`."),
    }
)

_PRECOMPUTED: Final = Keys(
    {
        "entity": Key(FIELD_TEXT, "The key is the id of an entity: a field that is a string or a whole number."),
        "inputs": Key(Listing(FIELD_TEXT), "The key is made of these fields: all that the nodes read."),
        "decimals": Key(
            Named("field", FIELD_TEXT, Whole(0, 15)), "To how many decimals a float or double of the inputs is rounded in the key."
        ),
        "on_miss": Key(
            Choice(("score", "default", "nearest", "unknown")),
            "What an event without an answer gets: scored now and written back; the default; the nearest answer; nulls.",
            default="score",
        ),
        "default": Key(Named("field", FIELD_NAME, Literal()), "The fields of the answer of on_miss: default; others are null."),
        "scale": Key(
            Named("field", FIELD_TEXT, Literal()),
            "For on_miss: nearest: the difference of each number that counts as 1. At a distance of at most 1, the nearest answers.",
        ),
        "stale": Key(
            Whole(0, 31_536_000), "Seconds since they became live for which answers of other models may be served; 0 for never.", default=0
        ),
    },
    one_of=("entity", "inputs"),
)

_RELEASES: Final = Keys(
    {
        "signatures": Key(Choice(("off", "warn", "require")), "Whether models must carry an OpenSSF signature.", default="off"),
        "on_invalid": Key(Choice(("report", "rollback")), "What happens when a generation fails its guard or check.", default="report"),
        "check_every": Key(Whole(0, 86_400), "Seconds between two checks of the live models; 0 for never.", default=60),
        "unit": Key(
            FIELD_TEXT,
            "The field by whose value events are assigned as a whole while a release is on trial; the record's key when omitted.",
        ),
        "control": Key(TOPIC_NAME, "The topic with the releases; <application>.<topology>.control when omitted."),
        "status": Key(TOPIC_NAME, "The topic where workers report their state; <application>.<topology>.status when omitted."),
    }
)

TOPOLOGY: Final = Keys(
    {
        "topology": Key(ENTRY_NAME, "The topology's name.", required=True),
        "sources": Key(
            Named("source", ENTRY_NAME, Either("match", _MATCHED, _SOURCE)),
            "Topics to read events from, and matches of two.",
            required=True,
        ),
        "tables": Key(Named("table", ENTRY_NAME, _TABLE), "Topics whose newest event of each key is a row, for nodes of kind lookup."),
        "nodes": Key(Named("node", ENTRY_NAME, Kinds(KINDS, _NODE)), "Registered models and what they read, rules, windows and lookups."),
        "sinks": Key(Named("sink", ENTRY_NAME, _SINK), "Topics to write predictions to.", required=True),
        "providers": Key(PROVIDERS, "What computes the models of all nodes that do not say it themselves; the processor when omitted."),
        "releases": Key(_RELEASES, "How models are swapped while the stream runs."),
        "precomputed": Key(_PRECOMPUTED, "How answers are found that `penstock precompute` computed before."),
    }
)


def json_schema() -> dict[str, Any]:
    """Returns the language as a JSON Schema (draft 2020-12), which `schemas/topology.schema.json` publishes."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Penstock topology",
        "description": "Sources, nodes and sinks of one stream of predictions.",
        **_schema(TOPOLOGY),
        "$defs": {"nested": {"anyOf": [_schema(Literal()), _schema(Listing(Nested()))]}},
    }


def _schema(shape: Shape) -> dict[str, Any]:  # noqa: PLR0911  a case per shape
    match shape:
        case Text(what, pattern):
            return {"type": "string", "pattern": pattern, "description": what}
        case Choice(values):
            return {"enum": list(values)}
        case Whole(low, high):
            return {"type": "integer", "minimum": low, "maximum": high}
        case Flag():
            return {"type": "boolean"}
        case Literal() | Nested():
            return {"$ref": "#/$defs/nested"} if shape == Nested() else {"type": ["number", "string", "boolean"]}
        case Listing(of):
            return {"type": "array", "minItems": 1, "items": _schema(of)}
        case Named(_, key, of, empty):
            names = {"propertyNames": {"pattern": key.pattern}, "additionalProperties": _schema(of)}
            return {"type": "object", "minProperties": 0 if empty else 1, **names}
        case Either(marked=marked, plain=plain):
            return {"anyOf": [_schema(plain), _schema(marked)]}
        case Forms() | Kinds():
            schemas = [_schema(form) for form in _forms(shape)]
            return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        case Keys(keys, one_of):
            return {
                "type": "object",
                "properties": {name: _property(key) for name, key in keys.items()},
                "required": [name for name, key in keys.items() if key.required],
                "additionalProperties": False,
                **({"oneOf": [{"required": [name]} for name in one_of]} if one_of else {}),
            }


def _forms(shape: Forms | Kinds) -> list[Shape]:
    if isinstance(shape, Kinds):
        return [keys for _, keys in shape.groups()]
    return [form for form in (shape.text, shape.listing, shape.mapping) if form is not None]


def _property(key: Key) -> dict[str, Any]:
    schema = {**_schema(key.shape), "description": key.doc}
    return schema if key.default is None else {**schema, "default": key.default}
