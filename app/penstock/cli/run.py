"""`penstock run`: a topology on Kafka, in this process or in several."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from penstock.cli.live import drawable, watching
from penstock.cli.options import CONNECTION, with_settings
from penstock.cli.output import err
from penstock.errors import PenstockError, SettingsError
from penstock.settings import Settings, run_flags
from penstock.telemetry.health import Pages
from penstock.topology.find import find
from penstock.topology.names import did_you_mean
from penstock.topology.parse import parse

if TYPE_CHECKING:
    from penstock.runtime import Loaded

__all__ = ["run"]

Serve = Callable[[Pages], AbstractAsyncContextManager[None]]


@click.command()
@click.argument("topology", type=click.Path(path_type=Path))
@click.option("--live/--no-live", default=True, show_default=True, help="On a terminal, show a live view below the log.")
@click.option("--stage", "stages", multiple=True, metavar="NAME", help="Run this stage only, of a topology that is cut; may be repeated.")
@click.option("--process", hidden=True, help="What the parent lets this process run: one of `runtime.shares`.")
@click.option("--last-words", type=click.Path(path_type=Path), hidden=True, help="File for the error, which the parent then shows.")
@with_settings(*CONNECTION, *(name for name in run_flags() if name not in CONNECTION))
def run(
    topology: Path, live: bool, stages: tuple[str, ...], process: str | None, last_words: Path | None, settings: Settings
) -> None:  # fmt: skip
    """Run TOPOLOGY, a file or the name of one in topologies/, on Kafka: events in, predictions out, until Ctrl-C or SIGTERM.

    Everything is checked before the first event is read: the file, the schemas, every model (digest and golden
    records), the topics. The brokers acknowledge the outputs of an event before its offset is committed, so nothing is
    lost. After a crash, about the last second is scored again with the same event ids (at least once).

    \b
      penstock topics create flights --brokers localhost:9092
      penstock run flights --brokers localhost:9092 --workers 2

    Workers of one --application share the partitions, on this host and on others. Exit codes: `penstock --help`.
    Where a node has `materialize`, or sources are matched, each stage has separate processes, --workers each; `penstock plan` shows the
    stages.

    \b
      penstock run flights --stage trees --workers 4

    --http 127.0.0.1:9100 serves /healthz, /readyz and /metrics, for all --workers together. On a terminal, a live view of the workers
    is shown below their log.
    """
    serve = _pages(settings)
    if settings.releases:
        from penstock.control.trust.file import Trust

        Trust.load(settings.trust)  # one that cannot be used is an error before a broker is asked
    live = live and last_words is None and drawable(err, settings)
    file = find(topology, settings.topologies)
    processes = [process or ""] if last_words is not None else _processes(file, stages, settings)
    if settings.workers > 1 or len(processes) > 1:
        from penstock.runners.supervisor import supervise

        workers = _workers(processes, settings.workers)
        if live:
            serve = _both(serve, watching(err, settings, parse(file).name, workers=len(workers)))
        supervise(
            list(workers),
            settings.drain_timeout + settings.session_timeout,
            functools.partial(_own, settings.group_instance_id, workers),
            serve=serve,
            start_timeout=settings.broker_timeout + settings.prepare_timeout,
            relay=live,
        )
        return
    from penstock.runners.stream import StreamRunner

    try:
        loaded = _load(file, settings, dry=False)[processes[0]]
        if live:
            serve = _both(serve, watching(err, settings, loaded.topology.name))
        StreamRunner(loaded, settings, serve=serve).run()
    except PenstockError as error:
        if last_words is None or settings.debug:
            raise
        from penstock.cli.main import exit_code

        last_words.write_text(str(error), encoding="utf-8")
        click.get_current_context().exit(exit_code(error))


def _load(file: Path, settings: Settings, *, dry: bool) -> dict[str, Loaded]:
    """Returns what each process of the topology runs."""
    from penstock import runtime
    from penstock.codecs.schema_registry import open_schema_registry

    found = open_schema_registry(settings, dry=dry)
    loaded = runtime.load(file, models=settings.models, schemas=settings.schemas, absent=settings.releases, schema_registry=found)
    return runtime.shares(loaded, f"{settings.application}.{loaded.topology.name}")


def _processes(file: Path, stages: Sequence[str], settings: Settings) -> list[str]:
    """Returns the processes to run: those of these stages, or all. Raises SettingsError for a stage that the topology does not have."""
    declared = parse(file)
    if not stages and not declared.matches and all(node.materialize is None for node in declared.nodes):
        return [""]  # the models need not be looked at here
    there = {stage.name: process for process, loaded in _load(file, settings, dry=True).items() for stage in loaded.wiring.stages}
    for name in stages:
        if name not in there:
            raise SettingsError(f"--stage: {declared.name} has no stage {name!r}; {did_you_mean(name, sorted(there))}")
    return list(dict.fromkeys(there[name] for name in (stages or there)))


def _workers(processes: Sequence[str], count: int) -> dict[str, str]:
    """Returns the process of each worker, by the worker's name."""
    if len(processes) == 1:
        return {f"{number}": processes[0] for number in range(1, count + 1)}
    shown = {process: process or "sources" for process in processes}
    return {f"{shown[one]}-{number}" if count > 1 else shown[one]: one for one in processes for number in range(1, count + 1)}


def _own(group_instance_id: str, workers: Mapping[str, str], name: str, pages: str) -> list[str]:
    """Returns the arguments of one of several workers."""
    # Two members with one static identity would remove each other from the group.
    own = ["--group-instance-id", f"{group_instance_id}-{name}"] if group_instance_id else []
    return [*own, "--process", workers[name], "--http", pages]


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
