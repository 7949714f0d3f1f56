"""Penstock leads an event stream to its models: Kafka topics flow through a topology of ONNX models to prediction topics.

For programs that score without Kafka, the whole way from a file to scores:

    from pathlib import Path

    import penstock

    loaded = penstock.load("topologies/flights.yaml", models=Path("models"), schemas=Path("schemas"))
    program = penstock.prepare(loaded)
    batch = program.ports["departures"].decoder.decode(values)
    batch = penstock.execute(program.plan.stages["departures"], batch)

Importing the package costs nothing: each of its names is fetched when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.batch import Batch
    from penstock.engine import Plan, execute
    from penstock.errors import PenstockError
    from penstock.pipeline import Program
    from penstock.runtime import Loaded, load, prepare
    from penstock.settings import Settings

__all__ = ["Batch", "Loaded", "PenstockError", "Plan", "Program", "Settings", "execute", "load", "prepare"]

_HOMES = {
    "Batch": "batch",
    "Loaded": "runtime",
    "PenstockError": "errors",
    "Plan": "engine",
    "Program": "pipeline",
    "Settings": "settings",
    "execute": "engine",
    "load": "runtime",
    "prepare": "runtime",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    return getattr(importlib.import_module(f"penstock.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
