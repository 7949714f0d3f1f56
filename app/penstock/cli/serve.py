"""`penstock serve`: a topology as a service, over HTTP and gRPC, in this process or in several on the same ports."""

from __future__ import annotations

import asyncio
import functools
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import click

from penstock.cli.options import CONNECTION, with_settings
from penstock.errors import PenstockError, SettingsError
from penstock.settings import Settings
from penstock.telemetry.health import Pages
from penstock.topology.find import find

__all__ = ["serve"]

FLAGS = (
    "http", "grpc", "workers", "access", "audit", "serve_certfile", "serve_keyfile", "serve_cafile", "insecure_serve",
    "request_timeout", "max_body_bytes", "max_batch_rows", "max_connections", "idle_timeout", "drain_timeout",
    "models", "schemas", "model_trust", *CONNECTION, "releases", "application", "trust", "from_file",
    "unsigned_control", "signing_key", "roots",
    "store", "store_password_file", "store_cafile",
)  # fmt: skip


@click.command()
@click.argument("topology", type=click.Path(path_type=Path))
@click.option("--pages", default="", hidden=True, help="Where a worker serves its own pages.")
@click.option("--fleet", type=click.Path(path_type=Path), hidden=True, help="Where the supervisor serves the pages of all workers.")
@click.option("--last-words", type=click.Path(path_type=Path), hidden=True, help="File for the error, which the parent then shows.")
@with_settings(*FLAGS)
def serve(topology: Path, pages: str, fleet: Path | None, last_words: Path | None, settings: Settings) -> None:
    """Serve TOPOLOGY, a file or the name of one in topologies/, over HTTP and gRPC, until Ctrl-C or SIGTERM.

    Events as they are on Kafka (POST /v1/topologies/NAME:score), and tensors by the Open Inference Protocol v2, where the topology
    and each of its nodes are models. What waits together runs together, so a caller pays for no window. /openapi.json describes it all.

    \b
      penstock serve flights --http 127.0.0.1:8080 --grpc 127.0.0.1:8081
      curl -d @flight.json http://127.0.0.1:8080/v1/topologies/flights:score

    With --store, events of a topology with precomputed answers are looked up first, and scored where a store has no answer.

    With --brokers it serves the active generation of the control topic and follows releases as a worker does: `penstock deploy` waits
    for it. Without, it serves the versions that the file names.

    --workers N are N processes on the same ports, with one /readyz and one /metrics for all. Exit codes: `penstock --help`.
    """
    if not settings.http and not settings.grpc:
        raise SettingsError("nothing to serve on: give --http HOST:PORT, --grpc HOST:PORT, or both")
    from penstock.access.exposure import exposed_to_others

    secure, guarded = settings.serve_certfile is not None, settings.access is not None
    if why := exposed_to_others((settings.http, settings.grpc), tls=secure, access=guarded, allowed=settings.insecure_serve):
        raise SettingsError(why)
    if settings.signing_key is not None:  # otherwise the first caller who asks for a release would find that it cannot be used
        from penstock.control.trust import SigningKey

        SigningKey.load(settings.signing_key)
    if settings.workers > 1:
        _supervise(settings)
        return
    try:
        _serve(topology, pages, fleet, settings)
    except PenstockError as error:
        if last_words is None or settings.debug:
            raise
        from penstock.cli.main import exit_code

        last_words.write_text(str(error), encoding="utf-8")
        click.get_current_context().exit(exit_code(error))


def _serve(topology: Path, pages: str, fleet: Path | None, settings: Settings) -> None:
    from penstock import runtime
    from penstock.access import Audit, Gate
    from penstock.access.tls import ServerTls
    from penstock.codecs.schema_registry import open_schema_registry
    from penstock.operate.requests import Requests
    from penstock.runners.service import ServiceRunner
    from penstock.runners.supervisor import Elsewhere
    from penstock.serving.app import answering, listen, serving
    from penstock.serving.handlers import Service
    from penstock.serving.looking import Looking
    from penstock.stores.lookup import open_lookup

    file = find(topology, settings.topologies)
    gate = Gate.open(settings.access, time.time, shared=None if fleet is None else fleet.with_name("spent"))
    audit = None if settings.audit is None else Audit.open(settings.audit, time.time)
    tls = None
    if settings.serve_certfile is not None and settings.serve_keyfile is not None:
        tls = ServerTls(settings.serve_certfile, settings.serve_keyfile, settings.serve_cafile, time.time)
    if settings.grpc and fleet is None:
        listen(settings.grpc, name="grpc").close()  # gRPC's own message names no reason
    bound = listen(settings.http, shared=fleet is not None) if settings.http else None
    follows = bool(settings.brokers) and settings.releases
    loaded = runtime.load(
        file, models=settings.models, schemas=settings.schemas, absent=follows, schema_registry=open_schema_registry(settings),
        forgets="a service",
    )  # fmt: skip
    runner = ServiceRunner(loaded, settings)
    lookup = open_lookup(loaded, settings, metrics=runner.numbers)
    requests = Requests(settings) if follows else None
    service = Service(
        loaded, settings, lambda: runner.served, runner.numbers, observers=lambda: runner.observers, gate=gate, audit=audit,
        requests=requests, looking=None if lookup is None else Looking(loaded, lookup, lambda: runner.bindings),
    )  # fmt: skip

    @asynccontextmanager
    async def doors(own: Pages) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if requests is not None:
                await stack.enter_async_context(requests)
            if pages:
                await stack.enter_async_context(serving(listen(pages), own))
            opened: list[AbstractAsyncContextManager[Any]] = []
            if bound is not None:
                context = None if tls is None else tls.context
                opened.append(answering(bound, own if fleet is None else Elsewhere(fleet), service, tls=context))
            if settings.grpc:
                from penstock.serving.grpc import calling  # imports the library

                opened.append(calling(settings.grpc, service, shared=fleet is not None, tls=tls))
            async with _together(opened):
                try:
                    yield
                finally:
                    service.stop()
        service.close()

    runner.run(doors)


@asynccontextmanager
async def _together(doors: Sequence[AbstractAsyncContextManager[Any]]) -> AsyncIterator[None]:
    """Opens the doors, and closes them at the same time: each may take drain_timeout, and none accepts calls while another one closes."""
    opened: list[AbstractAsyncContextManager[Any]] = []
    try:
        for door in doors:
            await door.__aenter__()
            opened.append(door)
        yield
    finally:
        await asyncio.gather(*(door.__aexit__(None, None, None) for door in opened))


def _supervise(settings: Settings) -> None:
    from penstock.runners.supervisor import supervise
    from penstock.serving.app import listen, reserve, serving

    if settings.http.startswith("unix:"):
        raise SettingsError("http: several workers share a port, not a Unix socket; give --http HOST:PORT")
    held = {name: reserve(address, name) for name, address in (("http", settings.http), ("grpc", settings.grpc)) if address}
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:  # mode 0700
        fleet = Path(folder) / "fleet.sock"

        def own(_name: str, pages: str) -> list[str]:
            addresses = [part for name, (_, address) in held.items() for part in (f"--{name}", address)]
            return [*addresses, "--pages", pages, "--fleet", str(fleet)]

        supervise(
            [str(number) for number in range(1, settings.workers + 1)],
            settings.drain_timeout,
            own,
            serve=functools.partial(serving, listen(f"unix:{fleet}")),
            start_timeout=settings.prepare_timeout,
        )
