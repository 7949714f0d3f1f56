"""The language as a table: which keys there are, what each may hold and what it means.

The parser checks files against this table and `json_schema` publishes it, so an editor completes exactly what the
parser takes. A new key is a row here and a line in `parse.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from penstock.topology.names import FIELD, MODEL, NAME, REF, TOPIC
from penstock.topology.requirements import THRESHOLD

__all__ = [
    "TOPOLOGY", "Choice", "Forms", "Key", "Keys", "Listing", "Literal", "Named", "Nested", "Shape", "Text", "Whole", "json_schema",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Text:
    """A string that matches `pattern`; `what` says so in words."""

    what: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Whole:
    """An integer between two bounds, both allowed."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Literal:
    """A number, a string or a boolean."""


@dataclass(frozen=True, slots=True)
class Nested:
    """A literal, or a list of at least one of these."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A list of at least one."""

    of: Shape


@dataclass(frozen=True, slots=True)
class Named:
    """A mapping whose keys are names that the author chooses; at least one unless `empty`."""

    what: str
    key: Text
    of: Shape
    empty: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a mapping with fixed keys."""

    shape: Shape
    doc: str
    required: bool = False
    default: Any = None


@dataclass(frozen=True, slots=True)
class Keys:
    """A mapping with fixed keys. Of the keys in `one_of` exactly one must be there."""

    keys: Mapping[str, Key]
    one_of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Forms:
    """The same thing written as text, as a list or as a mapping."""

    text: Shape | None = None
    listing: Shape | None = None
    mapping: Shape | None = None


Shape = Text | Choice | Whole | Literal | Nested | Listing | Named | Keys | Forms

_NAME: Final = Text("a name (letters, digits, _ and -, not beginning with a digit)", NAME)
_FIELD: Final = Text("a field name (letters, digits and _)", FIELD)
_TENSOR: Final = Text("a tensor name", r"^\S(.*\S)?$")
_TOPIC: Final = Text("a topic name (letters, digits, '.', '_' and '-')", TOPIC)
_FILE: Final = Text("a file of the schemas folder", r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$")
_MODEL: Final = Text("name@version or name@alias", MODEL)
_REF: Final = Text("a reference: field, source.field, node or node.output, each with an optional [index]", REF)
_METRIC: Final = Text("the name of a metric", r"^\S(.*\S)?$")
_THRESHOLD: Final = Text("a threshold: >=, <=, > or < and a number", THRESHOLD)

_MISSING: Final = Key(Literal(), "What stands for null: a value, nan, or reject (the row goes to the dead-letter topic).")

_INPUT: Final = Forms(
    text=_REF,
    listing=Listing(_REF),
    mapping=Keys(
        {
            "field": Key(_REF, "Where the tensor comes from."),
            "stack": Key(Listing(_REF), "Several scalars or arrays joined along the last axis, in this order."),
            "missing": _MISSING,
        },
        one_of=("field", "stack"),
    ),
)

_SOURCE: Final = Keys(
    {
        "topic": Key(_TOPIC, "The Kafka topic to read.", required=True),
        "schema": Key(_FILE, "The event's Avro schema, a file of the schemas folder.", required=True),
        "format": Key(Choice(("json", "avro", "avro-confluent")), "How values are encoded.", default="json"),
        "id": Key(_FIELD, "The field that identifies an event."),
        "time": Key(_FIELD, "The field with the event time: a timestamp, or a long in ms."),
        "dead_letter": Key(_TOPIC, "Where records go that cannot be scored; <topic>.dead-letter when omitted."),
        "max_bytes": Key(Whole(1, 104_857_600), "Larger values go to the dead-letter topic unread.", default=1_048_576),
    }
)

_NODE: Final = Keys(
    {
        "kind": Key(Choice(("feature", "model", "ensemble")), "What the node is for.", required=True),
        "model": Key(_MODEL, "The registered model.", required=True),
        "inputs": Key(Named("tensor", _TENSOR, _INPUT, empty=True), "Where input tensors come from; by equal name when omitted."),
        "parameters": Key(
            Named("tensor", _TENSOR, Nested(), empty=True), "Input tensors with one value for all events, which a release may change."
        ),
        "require": Key(Named("metric", _METRIC, _THRESHOLD), "What the metrics of the model's manifest must meet before it may serve."),
    }
)

_SINK: Final = Keys(
    {
        "topic": Key(_TOPIC, "The Kafka topic to write.", required=True),
        "fields": Key(Forms(listing=Listing(_REF), mapping=Named("field", _FIELD, _REF)), "The fields of the output event.", required=True),
        "format": Key(Choice(("json", "avro", "avro-confluent")), "How values are encoded.", default="json"),
        "schema": Key(_FILE, "The output's Avro schema, a file of the schemas folder; avro needs it."),
        "key": Key(_REF, "The record's key; the input's key when omitted."),
    }
)

_RELEASES: Final = Keys(
    {
        "signatures": Key(Choice(("off", "warn", "require")), "Whether models must carry an OpenSSF signature.", default="off"),
        "on_invalid": Key(Choice(("report", "rollback")), "What happens when a live model fails its periodic check.", default="report"),
        "check_every": Key(Whole(0, 86_400), "Seconds between two checks of the live models; 0 for never.", default=60),
        "control": Key(_TOPIC, "The topic with the releases; <application>.<topology>.control when omitted."),
        "status": Key(_TOPIC, "The topic where workers tell how they are; <application>.<topology>.status when omitted."),
    }
)

TOPOLOGY: Final = Keys(
    {
        "topology": Key(_NAME, "The topology's name.", required=True),
        "sources": Key(Named("source", _NAME, _SOURCE), "Topics to read events from.", required=True),
        "nodes": Key(Named("node", _NAME, _NODE), "Registered models and what they read.", required=True),
        "sinks": Key(Named("sink", _NAME, _SINK), "Topics to write predictions to.", required=True),
        "releases": Key(_RELEASES, "How models are swapped while the stream runs."),
    }
)


def json_schema() -> dict[str, Any]:
    """The language as a JSON Schema (draft 2020-12), as published in `schemas/topology.schema.json`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Penstock topology",
        "description": "Sources, nodes and sinks of one stream of predictions.",
        **_schema(TOPOLOGY),
        "$defs": {"nested": {"anyOf": [_schema(Literal()), _schema(Listing(Nested()))]}},
    }


def _schema(shape: Shape) -> dict[str, Any]:
    match shape:
        case Text(what, pattern):
            return {"type": "string", "pattern": pattern, "description": what}
        case Choice(values):
            return {"enum": list(values)}
        case Whole(low, high):
            return {"type": "integer", "minimum": low, "maximum": high}
        case Literal() | Nested():
            return {"$ref": "#/$defs/nested"} if shape == Nested() else {"type": ["number", "string", "boolean"]}
        case Listing(of):
            return {"type": "array", "minItems": 1, "items": _schema(of)}
        case Named(_, key, of, empty):
            names = {"propertyNames": {"pattern": key.pattern}, "additionalProperties": _schema(of)}
            return {"type": "object", "minProperties": 0 if empty else 1, **names}
        case Forms(text, listing, mapping):
            return {"anyOf": [_schema(form) for form in (text, listing, mapping) if form is not None]}
        case Keys(keys, one_of):
            return {
                "type": "object",
                "properties": {name: _property(key) for name, key in keys.items()},
                "required": [name for name, key in keys.items() if key.required],
                "additionalProperties": False,
                **({"oneOf": [{"required": [name]} for name in one_of]} if one_of else {}),
            }


def _property(key: Key) -> dict[str, Any]:
    schema = {**_schema(key.shape), "description": key.doc}
    return schema if key.default is None else {**schema, "default": key.default}
