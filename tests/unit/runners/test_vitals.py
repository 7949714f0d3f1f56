"""The vital signs are read at the moment somebody asks; the pages, the metrics and the watchdog see the same worker."""

from __future__ import annotations

import asyncio
import time

import pytest

from penstock.errors import Stalled
from penstock.model.session import Session
from penstock.runners import vitals as module
from penstock.runners.health import Phase
from penstock.runners.vitals import Vitals
from penstock.settings import Settings
from penstock.telemetry import Metrics
from penstock.testing import models
from penstock.transports.kafka.state import PartitionState, SourceState


def behind() -> PartitionState:
    return PartitionState(("flights", 0), 10, end=50, heard=1.0, newest=time.time() - 100)


class Worker:
    """The parts of a worker that its vital signs are read from."""

    def __init__(self, **settings: float) -> None:
        self.consumer: SourceState | None = None
        self.sessions: list[Session] = []
        self.control = self.models = ""
        self.metrics = Metrics()
        self.vitals = Vitals(
            Settings(**settings),  # type: ignore[arg-type]  # those of the test are numbers
            self.metrics,
            {"departures": "flights"},
            consumer=lambda: self.consumer,
            sessions=lambda: self.sessions,
            control=lambda: self.control,
            models=lambda: self.models,
        )

    def run(self, *partitions: PartitionState, in_flight: int = 0) -> None:
        self.vitals.phase = Phase.RUNNING
        self.consumer = SourceState(settled=True, room=True, in_flight=in_flight, answering=True, partitions=partitions)


def test_series_of_partitions_are_those_of_the_assignment() -> None:
    worker = Worker()
    assert worker.metrics.snapshot()["backlog_records"] == {}
    worker.run(behind(), PartitionState(("flights", 1), 7))
    found = worker.metrics.snapshot()
    assert found["backlog_records"] == {"flights,0": 40}
    assert found["next_offset"] == {"flights,0": 10, "flights,1": 7}
    assert found["seconds_behind"]["flights,0"] == pytest.approx(100, abs=30)
    worker.run()
    assert worker.metrics.snapshot()["next_offset"] == {}


def test_ready_is_one_value_for_page_and_metrics() -> None:
    worker = Worker()
    worker.run(behind())
    assert asyncio.run(worker.vitals.ready()).good
    worker.control = "the control topic cannot be read"
    verdict = asyncio.run(worker.vitals.ready())
    assert (verdict.good, verdict.body["missing"]) == (False, ["control: the control topic cannot be read"])
    assert worker.metrics.snapshot()["ready"] == {
        "running": 1,
        "partitions": 1,
        "control": 0,
        "models": 1,
        "state": 1,
        "schemas": 1,
        "outputs": 1,
    }
    assert not worker.vitals.health().ready


def test_page_of_metrics_is_shown_again_to_a_client_that_hurries(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker()

    async def page(accept: str = "") -> str:
        return (await worker.vitals.metrics(accept))[0].decode()

    first = asyncio.run(page())
    worker.metrics.records_in.inc(5)
    monkeypatch.setattr(module, "FRESH", 3600.0)
    assert asyncio.run(page()) == first
    assert "penstock_records_in_total 5.0" in asyncio.run(page("application/openmetrics-text")), "another format is another page"
    monkeypatch.setattr(module, "FRESH", -1.0)
    assert "penstock_records_in_total 5.0" in asyncio.run(page())


def test_watchdog_ends_the_worker_and_names_what_stands_still() -> None:
    worker = Worker(stall_timeout=30, broker_timeout=15)
    worker.run(behind())
    for now in range(0, 31, 2):
        worker.vitals.look(now)
    with pytest.raises(Stalled, match=r"flights/0 has made no progress at offset 10 for 30 s: 40 records wait.*stall_timeout"):
        worker.vitals.look(32.0)


def test_watchdog_waits_longer_than_brokers_hold_a_fetch() -> None:
    """Else a bound of 5 s would ring for an idle topic with `fetch_wait_ms` 30,000."""
    worker = Worker(stall_timeout=5, fetch_wait_ms=30_000)
    worker.run(PartitionState(("flights", 0), 10, end=10, heard=1.0))
    for now in range(0, 90, 10):
        worker.vitals.look(now)


def test_watchdog_is_off_at_zero() -> None:
    worker = Worker(stall_timeout=0)
    worker.run(behind())
    for now in range(0, 10_000, 1000):
        worker.vitals.look(now)


def test_what_is_in_flight_goes_on_while_counters_move_or_a_model_runs() -> None:
    worker = Worker(stall_timeout=30, broker_timeout=15)
    worker.run(in_flight=3)
    for now in range(0, 40, 5):
        worker.vitals.look(now)
    worker.metrics.decode_seconds.inc(0.01)
    for now in range(45, 95, 5):
        worker.vitals.look(now)
    with pytest.raises(Stalled, match="none of 3 batches in flight has made progress for 45 s"):
        worker.vitals.look(95.0)


def test_a_run_of_a_model_is_an_excuse_until_its_deadline_has_passed_twice() -> None:
    session = Session.load(models.linear([2.0]), deadline=0.5)
    assert not session.within_deadline(time.monotonic())
    session._began = began = time.monotonic()
    try:
        assert session.within_deadline(began + 0.9)
        assert not session.within_deadline(began + 1.1)
    finally:
        session._began = 0.0


def test_picture_is_of_the_moment() -> None:
    worker = Worker()
    assert worker.vitals.picture().phase is Phase.STARTING
    worker.run(behind())
    assert worker.vitals.picture().consumer == worker.consumer
