"""`penstock run`: a topology on Kafka, in this process or in several."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import click

from penstock.cli.live import drawable, watching
from penstock.cli.options import CONNECTION, with_settings
from penstock.cli.output import err
from penstock.errors import PenstockError
from penstock.settings import Settings, run_flags
from penstock.telemetry.health import Pages
from penstock.topology.find import find
from penstock.topology.parse import parse

__all__ = ["run"]

Serve = Callable[[Pages], AbstractAsyncContextManager[None]]


@click.command()
@click.argument("topology", type=click.Path(path_type=Path))
@click.option("--live/--no-live", default=True, show_default=True, help="On a terminal, show a live view below the log.")
@click.option("--last-words", type=click.Path(path_type=Path), hidden=True, help="File for the error, which the parent then shows.")
@with_settings(*CONNECTION, *(name for name in run_flags() if name not in CONNECTION))
def run(topology: Path, live: bool, last_words: Path | None, settings: Settings) -> None:
    """Run TOPOLOGY, a file or the name of one in topologies/, on Kafka: events in, predictions out, until Ctrl-C or SIGTERM.

    Everything is checked before the first event is read: the file, the schemas, every model (digest and golden
    records), the topics. The brokers acknowledge the outputs of an event before its offset is committed, so nothing is
    lost. After a crash, about the last second is scored again with the same event ids (at least once).

    \b
      penstock topics create flights --brokers localhost:9092
      penstock run flights --brokers localhost:9092 --workers 2

    Workers of one --application share the partitions, on this host and on others. Exit codes: `penstock --help`.
    --http 127.0.0.1:9100 serves /healthz, /readyz and /metrics, for all --workers together. On a terminal, a live view of the workers
    is shown below their log.
    """
    serve = _pages(settings)
    if settings.releases:
        from penstock.control.trust.file import Trust

        Trust.load(settings.trust)  # one that cannot be used is an error before a broker is asked
    live = live and last_words is None and drawable(err, settings)
    if settings.workers > 1:
        from penstock.runners.supervisor import supervise

        if live:
            name = parse(find(topology, settings.topologies)).name
            serve = _both(serve, watching(err, settings, name, workers=settings.workers))
        supervise(
            settings.workers,
            settings.drain_timeout + settings.session_timeout,
            functools.partial(_own, settings.group_instance_id),
            serve=serve,
            start_timeout=settings.broker_timeout + settings.prepare_timeout,
            relay=live,
        )
        return
    from penstock import runtime
    from penstock.codecs.schema_registry import open_schema_registry
    from penstock.runners.stream import StreamRunner

    try:
        file = find(topology, settings.topologies)
        found = open_schema_registry(settings, dry=False)
        loaded = runtime.load(file, models=settings.models, schemas=settings.schemas, absent=settings.releases, schema_registry=found)
        if live:
            serve = _both(serve, watching(err, settings, loaded.topology.name))
        StreamRunner(loaded, settings, serve=serve).run()
    except PenstockError as error:
        if last_words is None or settings.debug:
            raise
        from penstock.cli.main import exit_code

        last_words.write_text(str(error), encoding="utf-8")
        click.get_current_context().exit(exit_code(error))


def _own(group_instance_id: str, number: int, pages: str) -> list[str]:
    """Returns the arguments of one of several workers."""
    # Two members with one static identity would remove each other from the group.
    own = ["--group-instance-id", f"{group_instance_id}-{number}"] if group_instance_id else []
    return [*own, "--http", pages]


def _both(first: Serve | None, second: Serve) -> Serve:
    """Returns what does both while a worker lives."""
    if first is None:
        return second

    @asynccontextmanager
    async def serve(pages: Pages) -> AsyncIterator[None]:
        async with first(pages), second(pages):
            yield

    return serve


def _pages(settings: Settings) -> Serve | None:
    """Returns the server of the monitoring pages, or None without `--http`. The socket is bound here, before anything starts."""
    if not settings.http:
        return None
    from penstock.serving.app import listen, serving

    return functools.partial(serving, listen(settings.http))
