"""Penstock leads an event stream to its models: Kafka topics flow through a topology of ONNX models to prediction topics.

Score events from a program, without Kafka, through the same plan that a worker runs:

    from penstock import TopologyDriver

    driver = TopologyDriver("topologies/flights.yaml", models="models", schemas="schemas")
    driver.send("departures", {"flight_id": "A", "dep_delay": 413, ...})
    (prediction,) = driver.events("predictions")

Or use the parts: `parse` reads a topology file, `load` adds its schemas and models, `prepare` verifies and loads the models, and
`execute` runs columns through a stage of the plan:

    loaded = penstock.load("topologies/flights.yaml", models=Path("models"), schemas=Path("schemas"))
    program = penstock.prepare(loaded)
    batch = program.ports["departures"].decoder.decode(values)
    batch = penstock.execute(program.plan.stages["departures"], batch)

Importing the package costs nothing: each of its names is fetched when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.batch import Batch, Failure
    from penstock.codecs import load_schema
    from penstock.engine import Plan, execute
    from penstock.errors import (
        ConfigError,
        ControlError,
        ModelError,
        PenstockError,
        Problem,
        RecordError,
        SchemaError,
        SettingsError,
        TopologyError,
        TransportError,
    )
    from penstock.model.artifact import Artifact
    from penstock.model.golden import GoldenRecord
    from penstock.model.quarantine import quarantine
    from penstock.model.session import Session
    from penstock.model.verify import verify
    from penstock.pipeline import Program
    from penstock.record import Position, Record
    from penstock.registry.directory import DirectoryRegistry
    from penstock.runtime import Loaded, load, prepare
    from penstock.schema import Schema
    from penstock.settings import Settings
    from penstock.testing.broker import Broker, open_broker
    from penstock.testing.driver import TopologyDriver
    from penstock.topology.parse import parse, parse_text
    from penstock.topology.spec import Topology

__all__ = [
    "Artifact",
    "Batch",
    "Broker",
    "ConfigError",
    "ControlError",
    "DirectoryRegistry",
    "Failure",
    "GoldenRecord",
    "Loaded",
    "ModelError",
    "PenstockError",
    "Plan",
    "Position",
    "Problem",
    "Program",
    "Record",
    "RecordError",
    "Schema",
    "SchemaError",
    "Session",
    "Settings",
    "SettingsError",
    "Topology",
    "TopologyDriver",
    "TopologyError",
    "TransportError",
    "execute",
    "load",
    "load_schema",
    "open_broker",
    "parse",
    "parse_text",
    "prepare",
    "quarantine",
    "verify",
]

_HOMES = {
    "Artifact": "model.artifact",
    "Batch": "batch",
    "Broker": "testing.broker",
    "ConfigError": "errors",
    "ControlError": "errors",
    "DirectoryRegistry": "registry.directory",
    "Failure": "batch",
    "GoldenRecord": "model.golden",
    "Loaded": "runtime",
    "ModelError": "errors",
    "PenstockError": "errors",
    "Plan": "engine",
    "Position": "record",
    "Problem": "errors",
    "Program": "pipeline",
    "Record": "record",
    "RecordError": "errors",
    "Schema": "schema",
    "SchemaError": "errors",
    "Session": "model.session",
    "Settings": "settings",
    "SettingsError": "errors",
    "Topology": "topology.spec",
    "TopologyDriver": "testing.driver",
    "TopologyError": "errors",
    "TransportError": "errors",
    "execute": "engine",
    "load": "runtime",
    "load_schema": "codecs",
    "open_broker": "testing.broker",
    "parse": "topology.parse",
    "parse_text": "topology.parse",
    "prepare": "runtime",
    "quarantine": "model.quarantine",
    "verify": "model.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    return getattr(importlib.import_module(f"penstock.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
