"""Events whose schema is fetched while the loop runs: nothing is lost or given up while a registry does not answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import runtime
from penstock.codecs.framing import frame_of
from penstock.codecs.schema_registry import open_schema_registry
from penstock.errors import TransportUnavailable
from penstock.pipeline import AtLeastOnce, Delivery, Fixed, Pace
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.settings import Settings
from penstock.testing import models
from penstock.transports.memory import Memory, MemorySink, MemorySource
from tests.schema_registry import Double, double

TOPOLOGY = """\
topology: table
sources: {items: {topic: items, format: avro-confluent, schema: item.avsc}}
nodes: {price: {kind: model, model: table@1, inputs: {x: item}}}
sinks: {prices: {topic: prices, fields: {price: price}}}
"""
ITEM = {"type": "record", "name": "Item", "fields": [{"name": "item", "type": "long"}]}


@pytest.fixture
def site() -> Iterator[Double]:
    with double() as running:
        yield running


class Worker:
    """A loop over topics in memory, with a registry."""

    def __init__(self, folder: Path, site: Double, *, topology: str = TOPOLOGY, **pace: Any) -> None:
        (folder / "item.avsc").write_text(json.dumps(ITEM))
        (folder / "table.yaml").write_text(topology)
        DirectoryRegistry(folder / "models").publish("table", models.gather([10, 20, 30]))
        registry = open_schema_registry(Settings(schema_registry_url=site.url, cache=folder / "cache"))
        loaded = runtime.load(folder / "table.yaml", models=folder / "models", schemas=folder, schema_registry=registry)
        self.memory = Memory(1)
        self.source = MemorySource(self.memory, ["items"])
        self.errors: list[BaseException] = []
        self.loop = Delivery(
            self.source,
            MemorySink(self.memory),
            AtLeastOnce(self.source),
            stages={"items": "items"},
            serving=Fixed(runtime.prepare(loaded)),
            fail=self.errors.append,
            pace=Pace(**pace),
        )
        self.source.assign()

    async def deliver(self, *values: bytes, key: bytes | None = None, headers: Any = ()) -> None:
        for value in values:
            self.memory.append(Record("items", value, key, headers, 1, 0))
        await self.loop.submit(await self.source.take(100))

    def prices(self) -> list[Any]:
        return [json.loads(one.value or b"")["price"] for one in self.memory.records("prices")]

    def letters(self) -> int:
        return len(self.memory.records("items.dead-letter"))


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_new_schema_is_fetched_while_the_loop_runs(site: Double, tmp_path: Path) -> None:
    worker = Worker(tmp_path, site)
    site.add("items-value", ITEM)
    run(worker.deliver(frame_of(1) + b"\x02", frame_of(5) + b"\x02", frame_of(1) + b"\x04"))
    assert (worker.prices(), worker.letters()) == ([20, 30], 1)


def test_events_wait_while_the_registry_does_not_answer(site: Double, tmp_path: Path) -> None:
    """The loop goes on when it does; meanwhile the event loop is free, for heartbeats."""
    worker = Worker(tmp_path, site)
    site.add("items-value", ITEM)
    site.status = 503

    async def work() -> None:
        delivery = asyncio.create_task(worker.deliver(frame_of(1) + b"\x02"))
        await asyncio.to_thread(site.heard, 5)
        assert (worker.prices(), worker.letters(), worker.source.positions.committable()) == ([], 0, {})
        assert worker.loop.waiting["items"].startswith("items waits for schema id 1: the schema registry does not answer")
        site.status = 0
        await delivery
        assert worker.loop.waiting == {}

    run(work())
    assert (worker.prices(), worker.letters(), worker.errors) == ([20], 0, [])


def test_loop_ends_when_the_registry_stays_away(site: Double, tmp_path: Path) -> None:
    """The events are not finished, so the next worker reads them again."""
    worker = Worker(tmp_path, site, schema_seconds=0.3)
    site.status = 503
    with pytest.raises(TransportUnavailable, match="the schema registry does not answer"):
        run(worker.deliver(frame_of(1) + b"\x02"))
    assert (worker.prices(), worker.letters(), worker.source.positions.committable()) == ([], 0, {})


def test_wait_ends_with_the_assignment(site: Double, tmp_path: Path) -> None:
    worker = Worker(tmp_path, site)
    site.status = 503

    async def work() -> None:
        delivery = asyncio.create_task(worker.deliver(frame_of(1) + b"\x02"))
        await asyncio.to_thread(site.heard, 5)
        worker.source.assign()
        await delivery

    run(work())
    assert (worker.prices(), worker.letters(), worker.errors) == ([], 0, [])


def test_worker_that_stops_does_not_wait_for_the_registry(site: Double, tmp_path: Path) -> None:
    """What waits is given up; the next owner reads it again."""
    worker = Worker(tmp_path, site)
    site.status = 503

    async def work() -> None:
        delivery = asyncio.create_task(worker.deliver(frame_of(1) + b"\x02"))
        await asyncio.to_thread(site.heard, 5)
        await worker.loop.close(patience=20)
        assert (worker.source.positions.working, worker.source.positions.committable()) == (0, {})
        await delivery

    run(work())
    assert (worker.prices(), worker.letters(), worker.errors) == ([], 0, [])


def test_frame_may_be_in_a_header(site: Double, tmp_path: Path) -> None:
    worker = Worker(tmp_path, site)
    site.add("items-value", ITEM)
    run(worker.deliver(b"\x02", headers=[("__value_schema_id", frame_of(1))]))
    assert worker.prices() == [20]


def test_schema_of_a_key_is_fetched_as_that_of_a_value(site: Double, tmp_path: Path) -> None:
    """From the subject of keys; values whose rows are made already are made once more, with the same result."""
    key = {"type": "record", "name": "Key", "fields": [{"name": "item", "type": "long"}]}
    (tmp_path / "key.avsc").write_text(json.dumps(key))
    keyed = TOPOLOGY.replace("schema: item.avsc", "schema: item.avsc, key_schema: key.avsc").replace(
        "{x: item}", "{x: {field: key.item, missing: reject}}"
    )
    worker = Worker(tmp_path, site, topology=keyed)
    assert "GET /subjects/items-key/versions/latest" in site.asked
    site.add("items-value", ITEM)
    site.add("items-key", key)
    run(worker.deliver(frame_of(1) + b"\x02", key=frame_of(2) + b"\x04"))
    assert (worker.prices(), worker.letters()) == ([30], 0)
