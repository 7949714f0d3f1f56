"""`penstock run`: a topology on Kafka, in this process or in several."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.cli.options import CONNECTION, with_settings
from penstock.settings import Settings, run_flags

__all__ = ["run"]


@click.command()
@click.argument("topology", type=click.Path(path_type=Path))
@with_settings(*CONNECTION, *(name for name in run_flags() if name not in CONNECTION))
def run(topology: Path, settings: Settings) -> None:
    """Run TOPOLOGY on Kafka: events in, predictions out, until Ctrl-C or SIGTERM.

    Everything is checked before the first event is read: the file, the schemas, every model (digest and golden
    records), the topics. Offsets are committed after the outputs that they caused were acknowledged, so nothing is
    lost; after a crash the last second or so is scored again, with the same event ids (at least once).

    \b
      penstock topics create topologies/flights.yaml --brokers localhost:9092
      penstock run topologies/flights.yaml --brokers localhost:9092 --workers 2

    Workers of one --application share the partitions, on this host and on others. Exit codes: `penstock --help`.
    """
    if settings.workers > 1:
        from penstock.runners.workers import supervise

        supervise(settings.workers, settings.drain_timeout + settings.session_timeout, settings.group_instance_id)
        return
    from penstock import runtime
    from penstock.runners.stream import StreamRunner

    loaded = runtime.load(topology, models=settings.models, schemas=settings.schemas, absent=settings.releases)
    StreamRunner(loaded, settings).run()
