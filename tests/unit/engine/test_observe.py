"""Observers see what was executed, chunk by chunk, and can neither stop nor change the stream."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from penstock.batch import Batch, Failure
from penstock.engine import Stage
from penstock.engine.observe import Observer, Observers, Sampled
from penstock.registry.directory import DirectoryRegistry
from penstock.telemetry import Metrics
from penstock.testing import TopologyDriver, models

TOPOLOGY = """\
topology: table
sources: {items: {topic: items, schema: item.avsc}}
nodes: {price: {kind: model, model: table@1, inputs: {x: item}}}
sinks: {prices: {topic: prices, fields: {item: item, price: price}}}
"""

Drive = Callable[[Observers], TopologyDriver]


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Drive:
    """A driver of two rows per chunk; the model fails on items above 2."""
    folder = tmp_path_factory.mktemp("table")
    (folder / "item.avsc").write_text(json.dumps({"type": "record", "name": "Item", "fields": [{"name": "item", "type": "long"}]}))
    (folder / "table.yaml").write_text(TOPOLOGY)
    DirectoryRegistry(folder / "models").publish("table", models.gather([10, 20, 30]))
    path = Path(folder)
    return lambda observers: TopologyDriver(path / "table.yaml", models=path / "models", schemas=path, chunk_rows=2, observers=observers)


class Notes:
    """Writes down what it is shown."""

    name = "notes"

    def __init__(self) -> None:
        self.prices: list[list[float]] = []
        self.failed: list[list[int]] = []
        self.stages: set[tuple[str, int]] = set()

    def saw(self, stage: Stage, batch: Batch, failures: Sequence[Failure], *, generation: int) -> None:
        self.stages.add((stage.wired.source.name, generation))
        self.prices.append(batch.columns["price.y"].ravel().tolist())
        self.failed.append([failure.row for failure in failures])


class Vandal:
    """Overwrites every column, and does not raise."""

    name = "vandal"

    def saw(self, stage: Stage, batch: Batch, failures: Sequence[Failure], *, generation: int) -> None:
        for column in batch.columns.values():
            if column.flags.writeable:
                column[:] = 0


class Broken:
    """Raises at its second chunk."""

    name = "broken"

    def __init__(self) -> None:
        self.calls = 0

    def saw(self, stage: Stage, batch: Batch, failures: Sequence[Failure], *, generation: int) -> None:
        self.calls += 1
        if self.calls == 2:
            raise ZeroDivisionError("of all things")


def send(drive: Drive, *observers: Observer | Sampled, metrics: Metrics | None = None, items: int = 10) -> list[float]:
    """The prices of so many items, 0, 1, 2, 0, 1, ..., while they are observed."""
    driver = drive(Observers(observers, metrics))
    driver.send("items", *({"item": number % 3} for number in range(items)))
    return [event["price"] for event in driver.events("prices")]


def test_observer_sees_each_chunk_once_with_its_columns_and_failures(drive: Drive) -> None:
    notes = Notes()
    driver = drive(Observers([notes]))
    driver.send("items", {"item": 0}, {"item": 2}, {"item": 1}, {"item": 7})
    assert notes.prices == [[10, 30], [20]]
    assert notes.failed == [[], [1]]
    assert notes.stages == {("items", 0)}
    assert len(driver.dead_letters("items")) == 1


def test_sample_is_a_share_of_the_chunks_and_the_same_each_time(drive: Drive) -> None:
    def sample(share: float, seed: int) -> list[list[float]]:
        notes = Notes()
        send(drive, Sampled(notes, share, seed=seed), items=400)
        return notes.prices

    first = sample(0.25, seed=7)
    assert 30 <= len(first) <= 70, "of 200 chunks, a quarter"
    assert sample(0.25, seed=7) == first
    assert sample(0.25, seed=8) != first
    assert (len(sample(0.0, seed=7)), len(sample(1.0, seed=7))) == (0, 200)


def test_share_is_a_share() -> None:
    with pytest.raises(ValueError, match="it must be between 0 and 1"):
        Sampled(Notes(), 1.5)


def test_observer_that_raises_is_counted_logged_once_and_switched_off(drive: Drive, caplog: pytest.LogCaptureFixture) -> None:
    broken, notes, metrics = Broken(), Notes(), Metrics()
    with caplog.at_level(logging.ERROR):
        prices = send(drive, broken, notes, metrics=metrics)
    assert prices == [10, 20, 30] * 3 + [10]
    assert (broken.calls, len(notes.prices)) == (2, 5)
    assert metrics.snapshot()["observer_failures"] == {"broken": 1}
    assert metrics.snapshot()["observed"] == {"broken": 2, "notes": 5}
    assert [record.message for record in caplog.records] == [
        "the observer broken failed and is switched off; the stream continues without it"
    ]


def test_observer_that_writes_into_the_columns_changes_no_output(drive: Drive) -> None:
    assert send(drive, Vandal()) == send(drive) == [10, 20, 30] * 3 + [10]


def test_without_observers_there_is_nothing_to_call() -> None:
    assert not Observers()
    assert Observers([Notes()])
