"""A topology with every feature of the language, the schemas and signatures it is checked against, and what a change to it breaks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from penstock.errors import TopologyError
from penstock.schema import Field, Schema
from penstock.signature import Signature, Tensor
from penstock.topology.check import wire
from penstock.topology.parse import parse_text

TEXT = """\
topology: flights
sources:
  departures:
    topic: flights.departures
    schema: flight.avsc
    id: flight_id
    time: departed_at
nodes:
  features:
    kind: feature
    model: flight-features@1
    inputs:
      delay: {field: dep_delay, missing: 0}
      date: [month, day]
  logistic: {kind: model, model: flight-logistic@1, inputs: {X: features}}
  trees: {kind: model, model: flight-trees@live}
  stack: {kind: ensemble, model: stack@2, inputs: {p: ["logistic.probabilities[1]", "trees.probabilities[1]"]}}
sinks:
  predictions:
    topic: flights.predictions
    key: flight_id
    fields: {flight_id: flight_id, delay: dep_delay, score: stack, trees: "trees.probabilities[1]"}
"""

FLIGHT = Schema(
    "Flight",
    (
        Field("flight_id", "string"),
        Field("carrier", "enum", symbols=("AA", "UA")),
        Field("dep_delay", "double", optional=True, default=None),
        Field("month", "int"),
        Field("day", "int"),
        Field("embedding", "array", items=Field("items", "float"), size=4),
        Field("track", "array", items=Field("items", "double")),
        Field("history", "array", items=Field("items", "double"), size=3, optional=True, default=None),
        Field("departed_at", "timestamp", unit="ms"),
        Field("seats", "int", optional=True, default=100),
        Field("raw", "bytes"),
        Field("cancelled", "boolean"),
    ),
    path="schemas/flight.avsc",
)

SIGNATURES = {
    "features": Signature(
        (
            Tensor("carrier", "string", (1,)),
            Tensor("delay", "float32", (1,)),
            Tensor("date", "int64", (2,)),
            Tensor("embedding", "float32", (None,)),
        ),
        (Tensor("variable", "float32", (12,)),),
    ),
    "logistic": Signature((Tensor("X", "float32", (None,)),), (Tensor("label", "int64"), Tensor("probabilities", "float32", (2,)))),
    "trees": Signature((Tensor("variable", "float32", (12,)),), (Tensor("label", "int64"), Tensor("probabilities", "float32", (2,)))),
    "stack": Signature((Tensor("p", "float32", (2,)),), (Tensor("score", "float32", (1,)),)),
}

Problems = Callable[..., list[str]]


@pytest.fixture
def text() -> str:
    """A topology that is right in every way."""
    return TEXT


@pytest.fixture
def schemas() -> dict[str, Schema]:
    return {"departures": FLIGHT}


@pytest.fixture
def signatures() -> dict[str, Signature]:
    return dict(SIGNATURES)


@pytest.fixture
def problems() -> Problems:
    """problems(old, new, ...): everything found once these replacements are made in the topology, one line each."""

    def find(*edits: str, sink_schemas: dict[str, Schema] | None = None) -> list[str]:
        changed = TEXT
        for old, new in zip(edits[::2], edits[1::2], strict=True):
            assert changed.count(old) == 1, old
            changed = changed.replace(old, new)
        try:
            wire(parse_text(changed, "t.yaml"), {"departures": FLIGHT}, SIGNATURES, sink_schemas)
        except TopologyError as error:
            return [str(problem) for problem in error.problems]
        return []

    return find
