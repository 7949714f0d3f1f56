"""The OpenAPI document of a service, from its topology: what each request and answer looks like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from penstock.runtime import Loaded
from penstock.schema import REQUIRED, Field, Schema
from penstock.serving.targets import Live
from penstock.topology.wiring import OutputField

__all__ = ["document"]

VERSION: Final = "3.1.0"
_KINDS: Final[Mapping[str, dict[str, Any]]] = {
    "boolean": {"type": "boolean"},
    "int": {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    "long": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "timestamp": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    "float": {"type": "number", "minimum": -3.4028234663852886e38, "maximum": 3.4028234663852886e38},
    "double": {"type": "number"},
    "string": {"type": "string"},
    "bytes": {"type": "string"},
    "byte": {"type": "integer", "minimum": 0, "maximum": 255},
    "union": {},
}
_DTYPES: Final[Mapping[str, dict[str, Any]]] = {"string": {"type": "string"}, "bool": {"type": "boolean"}}


def document(loaded: Loaded, live: Live, models: Sequence[str]) -> dict[str, Any]:
    """Returns the document as JSON has it, with these models."""
    schemas = {f"{name}.event": _event(loaded.schemas[name]) for name in live.events}
    paths: dict[str, Any] = {f"/v1/topologies/{live.name}:score": {"post": _score(live)}}
    for source, events in live.events.items():
        outputs = {name: _answer(output.emit.fields) for name, output in events.outputs.items()}
        only = next(iter(outputs.values())) if len(outputs) == 1 else {"type": "object", "properties": outputs}
        schemas[f"{source}.answer"] = only
    schemas |= _COMMON
    for name in models:
        paths[f"/v2/models/{name}"] = {"get": _get(f"Metadata of {name}.", "object")}
        paths[f"/v2/models/{name}/ready"] = {"get": _get(f"Whether {name} answers.", "object", unready=True)}
        paths[f"/v2/models/{name}/stats"] = {"get": _get(f"Statistics of {name}.", "object")}
        paths[f"/v2/models/{name}/infer"] = {"post": _infer(name)}
    paths |= {
        "/v2": {"get": _get("The name of the server, and the extensions of the protocol that it has.", "object")},
        "/v2/health/live": {"get": _get("Whether the server lives.", "object")},
        "/v2/health/ready": {"get": _get("Whether the models answer.", "object", unready=True)},
        "/v2/models/stats": {"get": _get("Statistics of every model.", "object")},
        "/v2/repository/index": {"post": _get("The models.", "array")},
        "/v1/topologies": {"get": _get("The topology, its generation and its sources.", "object")},
    }
    info = {
        "title": f"Penstock: {live.name}",
        "version": str(live.generation),
        "description": "Events as they are on Kafka, and the Open Inference Protocol v2. The version is the generation that answers.",
    }
    return {"openapi": VERSION, "info": info, "paths": paths, "components": {"schemas": schemas}}


_COMMON: Final[dict[str, Any]] = {
    "failure": {
        "type": "object",
        "description": "Why an event has no answer: what its dead letter would have in its headers.",
        "required": ["failure"],
        "properties": {
            "failure": {
                "type": "object",
                "required": ["stage", "reason", "message"],
                "properties": {name: {"type": "string"} for name in ("stage", "reason", "message")},
            }
        },
    },
    "error": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string"}, "code": {"type": "string"}, "failure": {"type": "object"}},
    },
    "tensor": {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
            "datatype": {"type": "string"},
            "data": {"type": "array"},
            "parameters": {"type": "object"},
        },
    },
}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(schema: Mapping[str, Any], kind: str = "application/json") -> dict[str, Any]:
    return {kind: {"schema": schema}}


def _refusals(*codes: int) -> dict[str, Any]:
    what = {
        400: "The request cannot be read.",
        404: "Nothing here has that name.",
        405: "The path has no such method.",
        413: "More bytes or rows than one request may have.",
        422: "The event has no answer, and why.",
        429: "Too much is waiting: try again later.",
        503: "Models are being made ready, or the service stops.",
        504: "The deadline has passed.",
    }
    return {str(code): {"description": what[code], "content": _content(_ref("error"))} for code in codes}


def _get(summary: str, kind: str, *, unready: bool = False) -> dict[str, Any]:
    answers = {"200": {"description": summary, "content": _content({"type": kind})}, **_refusals(400, 404, 405, 413, 429, 503)}
    if unready:
        answers["503"] = {"description": "Not ready.", "content": _content({"type": "object"})}
    return {"summary": summary, "responses": answers}


_TIMEOUT: Final = {
    "name": "X-Request-Timeout",
    "in": "header",
    "required": False,
    "description": "Seconds after which an answer is too late.",
    "schema": {"type": "number", "minimum": 0.001, "maximum": 3600},
}


def _score(live: Live) -> dict[str, Any]:
    names = list(live.events)
    many = len(names) > 1
    events = [_ref(f"{name}.event") for name in names]
    answers = [_ref(f"{name}.answer") for name in names]
    event = {"anyOf": events} if many else events[0]
    answer = {"anyOf": answers} if many else answers[0]
    listed = {"type": "array", "items": event}
    source = {"name": "source", "in": "query", "required": many, "schema": {"type": "string", "enum": names}}
    body = {
        **_content({"anyOf": [event, listed, {"type": "object", "required": ["events"], "properties": {"events": listed}}]}),
        **_content({"type": "string", "description": "One event per line; answers come while lines are sent."}, "application/x-ndjson"),
    }
    good = {
        **_content({"anyOf": [answer, {"type": "array", "items": {"anyOf": [answer, _ref("failure")]}}]}),
        **_content({"type": "string"}, "application/x-ndjson"),
    }
    return {
        "summary": "Score events: one, a list of them, or a stream of lines.",
        "parameters": [source, _TIMEOUT],
        "requestBody": {"required": True, "content": body},
        "responses": {
            "200": {"description": "The answers, in order; of a list, a failed event has its failure.", "content": good},
            **_refusals(400, 404, 405, 413, 422, 429, 503, 504),
        },
    }


def _infer(name: str) -> dict[str, Any]:
    request = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": {"type": "array", "items": _ref("tensor")},
            "outputs": {
                "type": "array",
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
            },
        },
    }
    answer = {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "outputs": {"type": "array", "items": _ref("tensor")},
        },
    }
    return {
        "summary": f"Run {name} over tensors.",
        "parameters": [_TIMEOUT],
        "requestBody": {"required": True, "content": _content(request)},
        "responses": {
            "200": {
                "description": "The outputs.",
                "content": {**_content(answer), **_content({"type": "string", "format": "binary"}, "application/octet-stream")},
            },
            **_refusals(400, 404, 405, 413, 422, 429, 503, 504),
        },
    }


def _event(schema: Schema) -> dict[str, Any]:
    made = _record(schema.fields, 0)
    return {"title": schema.name, **made}


def _record(fields: tuple[Field, ...], depth: int) -> dict[str, Any]:
    needed = [field.name for field in fields if field.default is REQUIRED and not field.aliases and not field.absent]
    made: dict[str, Any] = {"type": "object", "properties": {field.name: _field(field, depth) for field in fields}}
    if needed:
        made["required"] = needed
    return made


def _field(field: Field, depth: int) -> dict[str, Any]:
    made = _bare(field, depth)
    if field.optional and made:
        made = {"anyOf": [made, {"type": "null"}]}
    return {**made, **({"description": field.doc} if field.doc else {})}


def _bare(field: Field, depth: int) -> dict[str, Any]:
    if depth > 8 or field.dated:  # a record inside itself; a date as text
        return {}
    if field.items is not None:
        sized = {} if field.size is None else {"minItems": field.size, "maxItems": field.size}
        return {"type": "array", "items": _field(field.items, depth + 1), **sized}
    if field.kind == "record":
        return _record(field.fields, depth + 1) if field.fields else {"type": "object"}
    if field.values is not None:
        return {"type": "object", "additionalProperties": _field(field.values, depth + 1)}
    if field.kind == "enum":
        return {"type": "string"} if field.fallback else {"type": "string", "enum": list(field.symbols)}
    return dict(_KINDS.get(field.kind, {}))


def _answer(fields: tuple[OutputField, ...]) -> dict[str, Any]:
    """Returns an answer by the fields of a sink; one inside a record has the path as its name."""
    made: dict[str, Any] = {"type": "object", "properties": {}}
    for field in fields:
        inside, *names = made, *field.name.split(".")
        for name in names[:-1]:
            inside = inside["properties"].setdefault(name, {"type": "object", "properties": {}})
        one = _DTYPES.get(field.dtype, {"type": "number" if field.dtype.startswith("float") else "integer"})
        for _ in field.shape:
            one = {"type": "array", "items": one}
        inside["properties"][names[-1]] = {"anyOf": [one, {"type": "null"}]} if field.part.gap is not None else one
    return made
