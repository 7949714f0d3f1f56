"""Penstock leads an event stream to its models: Kafka topics flow through a topology of ONNX models to prediction topics.

Score events from a program, without Kafka, through the same plan that a worker runs:

    import penstock

    with penstock.open("topologies/flights.yaml") as plan:
        answer = plan.score({"flight_id": "A", "dep_delay": 413, ...})

Swap its models from a program: `connect`. Test a topology with keys, headers, timestamps and dead letters: `TopologyDriver`.

Importing the package costs nothing: each of its names is fetched when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.batch import Batch, Failure
    from penstock.codecs import load_schema
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
    from penstock.operate.connect import Releases, connect
    from penstock.record import Position, Record
    from penstock.registry.directory import DirectoryRegistry
    from penstock.schema import Schema
    from penstock.scorer import Scored, Scorer, open
    from penstock.settings import Settings
    from penstock.testing.broker import Broker, open_broker
    from penstock.testing.driver import TopologyDriver
    from penstock.topology.parse import parse, parse_text
    from penstock.topology.spec import Topology
    from penstock.worker.following import Followed

__all__ = [
    "Artifact",
    "Batch",
    "Broker",
    "ConfigError",
    "ControlError",
    "DirectoryRegistry",
    "Failure",
    "Followed",
    "GoldenRecord",
    "ModelError",
    "PenstockError",
    "Position",
    "Problem",
    "Record",
    "RecordError",
    "Releases",
    "Schema",
    "SchemaError",
    "Scored",
    "Scorer",
    "Session",
    "Settings",
    "SettingsError",
    "Topology",
    "TopologyDriver",
    "TopologyError",
    "TransportError",
    "connect",
    "load_schema",
    "open",
    "open_broker",
    "parse",
    "parse_text",
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
    "Followed": "worker.following",
    "GoldenRecord": "model.golden",
    "ModelError": "errors",
    "PenstockError": "errors",
    "Position": "record",
    "Problem": "errors",
    "Record": "record",
    "RecordError": "errors",
    "Releases": "operate.connect",
    "Schema": "schema",
    "SchemaError": "errors",
    "Scored": "scorer",
    "Scorer": "scorer",
    "Session": "model.session",
    "Settings": "settings",
    "SettingsError": "errors",
    "Topology": "topology.spec",
    "TopologyDriver": "testing.driver",
    "TopologyError": "errors",
    "TransportError": "errors",
    "connect": "operate.connect",
    "load_schema": "codecs",
    "open": "scorer",
    "open_broker": "testing.broker",
    "parse": "topology.parse",
    "parse_text": "topology.parse",
    "quarantine": "model.quarantine",
    "verify": "model.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    return getattr(importlib.import_module(f"penstock.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
