"""`penstock run`: a topology on Kafka, in this process or in several."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from penstock.cli.options import CONNECTION, with_settings
from penstock.settings import Settings, run_flags

if TYPE_CHECKING:
    from penstock.telemetry.health import Pages

__all__ = ["run"]


@click.command()
@click.argument("topology", type=click.Path(path_type=Path))
@with_settings(*CONNECTION, *(name for name in run_flags() if name not in CONNECTION))
def run(topology: Path, settings: Settings) -> None:
    """Run TOPOLOGY on Kafka: events in, predictions out, until Ctrl-C or SIGTERM.

    Everything is checked before the first event is read: the file, the schemas, every model (digest and golden
    records), the topics. The brokers acknowledge the outputs of an event before its offset is committed, so nothing is
    lost. After a crash, about the last second is scored again with the same event ids (at least once).

    \b
      penstock topics create topologies/flights.yaml --brokers localhost:9092
      penstock run topologies/flights.yaml --brokers localhost:9092 --workers 2

    Workers of one --application share the partitions, on this host and on others. Exit codes: `penstock --help`.
    --http 127.0.0.1:9100 serves /healthz, /readyz and /metrics, for all --workers together.
    """
    with _stopped_while_starting():
        serve = _pages(settings)
        if settings.workers > 1:
            from penstock.runners.supervisor import supervise

            supervise(
                settings.workers,
                settings.drain_timeout + settings.session_timeout,
                settings.group_instance_id,
                serve=serve,
                start_timeout=settings.broker_timeout + settings.prepare_timeout,
            )
            return
        from penstock import runtime
        from penstock.runners.stream import StreamRunner

        loaded = runtime.load(topology, models=settings.models, schemas=settings.schemas, absent=settings.releases)
        StreamRunner(loaded, settings, serve=serve).run()


@contextmanager
def _stopped_while_starting() -> Iterator[None]:
    """SIGTERM ends the process with 0 until a runner handles it: nothing was read yet, so nothing has to be finished."""
    if threading.current_thread() is not threading.main_thread():  # a program that calls the command: its signals are its own
        yield
        return

    def leave(*_: object) -> NoReturn:
        os._exit(0)  # an exception would become another one in the middle of a library's import

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _pages(settings: Settings) -> Callable[[Pages], AbstractAsyncContextManager[None]] | None:
    """Returns the server of the monitoring pages, or None without `--http`. The socket is bound here, before anything starts."""
    if not settings.http:
        return None
    from penstock.serving.app import listen, serving

    return functools.partial(serving, listen(settings.http))
