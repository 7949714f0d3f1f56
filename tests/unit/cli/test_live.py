"""A worker's live view: its numbers are those of the pages, and it fits on the terminal."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from penstock.cli.live import Reading, Shown, drawable, frame, read, watching
from penstock.settings import Settings
from penstock.telemetry import Metrics
from penstock.telemetry.export import Merged, encode, registry
from penstock.telemetry.health import Verdict


def worker(records: int, *, nodes: int = 2, sources: int = 1, dead: int = 0) -> Metrics:
    """A worker's metrics after so many records, half of them in batches of 8 ms and half in ones of 40 ms."""
    metrics = Metrics()
    metrics.records_in.inc(records)
    metrics.records_out.inc(records - dead)
    metrics.generation.set(3)
    metrics.in_flight_batches.set(2)
    if dead:
        metrics.dead_letters.labels("decode", "DecodeError").inc(dead)
    for number in range(nodes):
        cells = metrics.node(f"node-{number}", f"model-{number}@7")
        cells.rows.inc(records)
        cells.failures.inc(number)
        cells.seconds.observe(records * 2e-6)
    for _ in range(records // 200):
        metrics.batch_seconds.observe(0.008)
        metrics.batch_seconds.observe(0.04)
    places = [(f"topic-{source}", partition) for source in range(sources) for partition in range(4)]
    lag: dict[tuple[str, ...], float] = {(topic, str(partition)): float(partition) for topic, partition in places}
    metrics.backlog_records.set_function(lambda: lag)
    metrics.seconds_behind.set_function(lambda: dict.fromkeys(lag, 1.5))
    return metrics


def reading(metrics: Metrics, at: float) -> Reading:
    page, _ = encode(registry(metrics))
    return read(page.decode(), at)


def test_several_workers_are_read_as_one() -> None:
    """Counts are summed; the generation is the newest one; what a worker lost when it was started again is no negative rate."""
    pages = {str(number): encode(registry(worker(1000)))[0].decode() for number in (1, 2)}
    together = read(encode(Merged(pages, {"1": 0, "2": 0}), "")[0].decode(), 0)
    assert (together.taken, together.generation, together.flight) == (2000, 3, 4)
    assert together.nodes["node-0", "model-0", "7"][0] == 2000
    view = shown(together, reading(worker(100), 1))
    assert view.per_second(lambda one: one.taken) == 0
    assert drawn(view, 100, 40)


def shown(*readings: Reading, missing: Sequence[str] = ()) -> Shown:
    view = Shown(topology="flights", brokers="localhost:9092", group="penstock.flights")
    for one in readings:
        view.add(one, missing)
    return view


def drawn(view: Shown, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=True, soft_wrap=True, color_system=None)
    console.print(frame(console, view))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue().splitlines()


def test_reading_has_the_numbers_of_the_page() -> None:
    found = reading(worker(1000, dead=4, sources=2), 5.0)
    assert (found.taken, found.written, found.generation, found.flight) == (1000, 996, 3, 2)
    assert found.letters == {("decode", "DecodeError"): 4}
    assert found.nodes == {("node-0", "model-0", "7"): (1000, 0, 0.002), ("node-1", "model-1", "7"): (1000, 1, 0.002)}
    assert len(found.lag) == 8
    assert found.lag["topic-1", "3"] == (3, 1.5)


def test_rates_are_those_of_the_last_seconds() -> None:
    """10,000 records a second for a minute, and then 100."""
    steps = [*range(0, 600_000, 10_000), *range(600_000, 601_000, 100)]
    view = shown(*(reading(worker(records), float(second)) for second, records in enumerate(steps)))
    assert view.per_second(lambda one: one.taken) == 100
    assert (view.now.at, view.then.at) == (69.0, 64.0)
    assert view.history(20) == "█" * 11 + "▁" * 9


def test_latencies_are_between_the_bounds_of_their_batches() -> None:
    """Half of the new batches took 8 ms and half 40 ms; what was before the window does not count."""
    old, new = reading(worker(0), 0.0), reading(worker(100_000), 1.0)
    view = shown(old, new)
    assert 5 < (view.quantile(0.25) or 0) < 10
    assert 20 < (view.quantile(0.99) or 0) <= 50
    assert shown(new, reading(worker(100_000), 2.0)).quantile(0.5) is None


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (80, 10), (40, 4)])
@pytest.mark.parametrize("nodes", [2, 30])
def test_view_fits_on_the_terminal(width: int, height: int, nodes: int) -> None:
    """What does not fit is left out; the throughput is always there."""
    view = shown(
        reading(worker(0), 0.0),
        reading(worker(5000, nodes=nodes, sources=3, dead=9), 1.0),
        missing=["models: being made ready, which takes as long as their golden records and their memory ask for it to take"],
    )
    lines = drawn(view, width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert "5,000 records/s" in "\n".join(lines)


def test_view_shows_state_nodes_backlog_and_dead_letters() -> None:
    text = "\n".join(drawn(shown(reading(worker(0), 0.0), reading(worker(5000, dead=9), 1.0), missing=["control: [old]"]), 80, 24))
    for part in (
        "group         penstock.flights",
        "not ready: control: [old]",
        "9 dead letters",
        "dead letters: 9 decode DecodeError",
        "model-1@7",
        "topic-0           4        6   1.5 s",
    ):
        assert part in text, text


def test_view_is_for_people_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Console(file=io.StringIO(), force_terminal=True)
    assert drawable(terminal, Settings())
    assert not drawable(terminal, Settings(log_format="json"))
    assert not drawable(Console(file=io.StringIO()), Settings())
    monkeypatch.setenv("TERM", "dumb")
    assert not drawable(Console(file=io.StringIO(), force_terminal=True), Settings())


class Broken:
    """Pages of a worker that cannot be read."""

    async def alive(self) -> Verdict:
        raise AssertionError("the view does not ask")

    async def ready(self) -> Verdict:
        return Verdict(True, {})

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        return b"\x00{ not a page", accept


def test_view_that_fails_leaves_the_worker_alone(caplog: pytest.LogCaptureFixture) -> None:
    console = Console(file=io.StringIO(), force_terminal=True)

    async def main() -> str:
        async with watching(console, Settings(), "flights")(Broken()):
            for _ in range(20):
                await asyncio.sleep(0)
        return "the worker's result"

    assert asyncio.run(main()) == "the worker's result"
    assert "the live view has failed; the worker goes on without it" in caplog.text
