"""A program of one model over numbers, and chunks of events for it: what a worker scores, without a broker."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from penstock import runtime
from penstock.pipeline import Chunk, Program
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.runtime import Loaded

TOPOLOGY = """\
topology: doubles
sources: {{readings: {{topic: readings, schema: reading.avsc, id: id}}}}
nodes: {{double: {{kind: model, model: "double@{version}"}}}}
sinks: {{doubled: {{topic: doubled, fields: {{id: id, y: double}}}}}}
"""
SCHEMA = {"type": "record", "name": "Reading", "fields": [{"name": "id", "type": "string"}, {"name": "x", "type": "double"}]}

Make = Callable[[bytes], tuple[Loaded, Program]]
STAGE = "readings"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Registers a model as the next version of `double`, and loads the topology with it."""
    (tmp_path / "reading.avsc").write_text(json.dumps(SCHEMA))
    registry = DirectoryRegistry(tmp_path / "models")

    def make(model: bytes) -> tuple[Loaded, Program]:
        version = registry.publish("double", model).version
        (tmp_path / "doubles.yaml").write_text(TOPOLOGY.format(version=version))
        loaded = runtime.load(tmp_path / "doubles.yaml", models=tmp_path / "models", schemas=tmp_path)
        return loaded, runtime.prepare(loaded)

    return make


def reading(offset: int, x: float | None, partition: int = 0) -> Record:
    """An event; None for one that is not an event."""
    value = b"{" if x is None else json.dumps({"id": str(offset), "x": x}).encode()
    return Record("readings", value, offset=offset, partition=partition)


def chunk(xs: Sequence[float | None], start: int = 0) -> Chunk:
    """The events of one partition, from offset `start` on."""
    return Chunk([reading(start + at, x) for at, x in enumerate(xs)], (("readings", 0, len(xs)),))
