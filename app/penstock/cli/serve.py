"""`penstock serve`: a topology as a service, over HTTP and gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import click

from penstock.cli.options import with_settings
from penstock.errors import SettingsError
from penstock.settings import Settings
from penstock.telemetry.health import Pages
from penstock.topology.find import find

__all__ = ["serve"]

FLAGS = (
    "http", "grpc", "workers", "models", "schemas", "model_trust", "request_timeout", "max_body_bytes", "max_batch_rows", "max_connections",
    "idle_timeout", "drain_timeout",
)  # fmt: skip


@click.command()
@click.argument("topology", type=click.Path(path_type=Path))
@with_settings(*FLAGS)
def serve(topology: Path, settings: Settings) -> None:
    """Serve TOPOLOGY, a file or the name of one in topologies/, over HTTP and gRPC, until Ctrl-C or SIGTERM.

    \b
      penstock serve flights --http 127.0.0.1:8080 --grpc 127.0.0.1:8081
      curl -d @flight.json http://127.0.0.1:8080/v1/topologies/flights:score
    """
    if not settings.http and not settings.grpc:
        raise SettingsError("nothing to serve on: give --http HOST:PORT, --grpc HOST:PORT, or both")
    from penstock import runtime
    from penstock.codecs.schema_registry import open_schema_registry
    from penstock.runners.service import ServiceRunner
    from penstock.serving.app import answering, listen
    from penstock.serving.handlers import Service

    bound = listen(settings.http) if settings.http else None
    file = find(topology, settings.topologies)
    loaded = runtime.load(file, models=settings.models, schemas=settings.schemas, schema_registry=open_schema_registry(settings))
    runner = ServiceRunner(loaded, settings)
    service = Service(loaded, settings, lambda: runner.served, runner.metrics_of)

    @asynccontextmanager
    async def doors(pages: Pages) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if bound is not None:
                await stack.enter_async_context(answering(bound, pages, service))
            if settings.grpc:
                from penstock.serving.grpc import calling

                await stack.enter_async_context(calling(settings.grpc, service))
            try:
                yield
            finally:
                service.stop()
        service.close()

    runner.run(doors)
