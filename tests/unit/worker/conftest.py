"""A program of one model over numbers, and chunks of events for it: what a worker scores, without a broker."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest

from penstock import runtime
from penstock.errors import InferenceError
from penstock.model.session import MEMORY, Session, _watchdog, limit_memory
from penstock.pipeline import Chunk, Program
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.runtime import Loaded
from penstock.settings import Settings
from penstock.testing import models

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
def memory() -> int:
    """The setting model_memory."""
    return MEMORY


@pytest.fixture
def make(tmp_path: Path, memory: int) -> Iterator[Make]:
    """Registers a model as the next version of `double`, and loads the topology with it."""
    (tmp_path / "reading.avsc").write_text(json.dumps(SCHEMA))
    registry = DirectoryRegistry(tmp_path / "models")

    def make(model: bytes) -> tuple[Loaded, Program]:
        version = registry.publish("double", model).version
        (tmp_path / "doubles.yaml").write_text(TOPOLOGY.format(version=version))
        loaded = runtime.load(tmp_path / "doubles.yaml", models=tmp_path / "models", schemas=tmp_path)
        return loaded, runtime.prepare(loaded, Settings(model_memory=memory))

    yield make
    limit_memory(MEMORY)


HEAVY = 10e6  # x of an event for which `models.growing` needs 40 MB: too much beside the 40 of `crowded`
small_pool = pytest.mark.parametrize("memory", [64 * 1024**2])


@contextlib.contextmanager
def crowded() -> Iterator[None]:
    """A live model runs in another thread all the time, and holds 40 MB of the pool. So much shows in the process's memory at once."""
    session, process = Session.load(models.lingering(), deadline=60), psutil.Process()

    def run(floats: float) -> None:
        with contextlib.suppress(InferenceError):
            session.run(["y"], {"x": np.full((1, 1), floats, np.float32)})

    run(20e6)  # more than there is: the pool is empty after it
    before = process.memory_info().rss
    thread = threading.Thread(target=run, args=(10e6,))
    thread.start()
    try:
        while process.memory_info().rss < before + 36e6:
            assert thread.is_alive()
        yield
        assert thread.is_alive()
    finally:
        session.deadline = 0.01  # ends its run
        _watchdog.watch(session)
        thread.join()


def reading(offset: int, x: float | None, partition: int = 0) -> Record:
    """An event; None for one that is not an event."""
    value = b"{" if x is None else json.dumps({"id": str(offset), "x": x}).encode()
    return Record("readings", value, offset=offset, partition=partition)


def chunk(xs: Sequence[float | None], start: int = 0) -> Chunk:
    """The events of one partition, from offset `start` on."""
    return Chunk([reading(start + at, x) for at, x in enumerate(xs)], (("readings", 0, len(xs)),))
