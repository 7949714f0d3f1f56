"""`penstock features`: what windows and lookups have at each event of an input that has an end, as a table to train from."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from penstock.cli.batch import report
from penstock.cli.bounded import run_bounded
from penstock.cli.options import CONNECTION, with_settings
from penstock.cli.output import counted, err, format_option
from penstock.cli.part import Part, edge, ordered_options
from penstock.errors import ConfigError, Problem
from penstock.settings import Settings
from penstock.topology.find import find

if TYPE_CHECKING:
    from penstock.runtime import Loaded

__all__ = ["features"]


@click.command()
@click.argument("topology", type=click.Path(path_type=Path))
@click.argument("streams", required=False, type=click.Choice(["-"]), metavar="[-]")
@with_settings(*CONNECTION, "models", "model_trust", "schemas", "chunk_rows", "max_batch_rows")
@ordered_options
@click.option("--since", metavar="TIME", help="Write events of this time or later; those before it only fill the windows.")
@click.option("--nodes", metavar="NAME,NAME", help="The windows and lookups to compute.  [default: all]")
@click.option("--table", "tables", multiple=True, metavar="NAME=FILES", help="The rows of a table.  [default: read from its topic]")
@format_option
def features(
    topology: Path, settings: Settings, part: Part, since: str | None, nodes: str | None, tables: tuple[str, ...], form: str
) -> int:
    """Write a row for each event of an input: the fields that TOPOLOGY reads, the features of its windows, and what it looks up.

    The features are those that the stream has at that event, to the bit: they come from the events before it and from nothing later,
    and an event that the stream refuses is a dead letter here too. A column of a window is called NODE_FEATURE (of last_k, NODE_FEATURE_0
    is the newest value), one of a lookup NODE_FIELD; one without a value is null. Of the models, only those that a window reads have to be
    registered. A table with a history has the row of the event's time; any other has its last row, for all events.

    \b
      penstock features flights-windows --in 2013/ --out features.parquet
      penstock features flights-windows --in kafka://flights.departures \\
          --out rows/ --from 2026-11-27T00:00:00Z --since 2026-11-28T00:00:00Z

    The events have to come in the order of the stream. Several files are one stream, in the order of their names; the partitions of a
    topic each have their own windows, as in the stream. Windows begin empty: start as much earlier as the longest of them reaches back,
    and write --since the first event that you want. A run uses one process, reads every event, and is never resumed, because what its
    windows remembered is gone when it ends: --workers, --sample and --resume are refused.

    Exit codes: 0 the end was reached (dead letters are counted), 1 it was reached and every event failed, 130 interrupted: begin anew.
    Others: `penstock --help`.
    """
    from penstock import runtime  # with the model runtime behind it: `--help` does without
    from penstock.codecs.schema_registry import open_schema_registry
    from penstock.runners.features import computing
    from penstock.runners.tables import read_tables
    from penstock.state import OneAfterAnother, States

    begin = edge(since)
    if begin is not None and not isinstance(begin, datetime):
        raise click.UsageError(f"--since {since}: give a time, such as 2026-11-29T08:00:00Z")
    chosen = [one.strip() for one in (nodes or "").split(",") if one.strip()]
    file = find(topology, settings.topologies)
    registry = open_schema_registry(settings)
    whole = runtime.load(file, models=settings.models, schemas=settings.schemas, absent=True, schema_registry=registry)
    loaded = computing(whole, chosen, begin)
    if part.topic:
        _met(whole, part.topic, settings)
    else:
        _timed(loaded)
    given = dict(one.partition("=")[::2] for one in tables)
    if any(not name or not path for name, path in given.items()):
        raise click.UsageError("--table: write NAME=FILES, such as airports=airports.parquet")
    rows = read_tables(loaded, given, settings)
    states = States(tables=rows) if part.topic else OneAfterAnother(tables=rows)
    ran = run_bounded(loaded, runtime.prepare(loaded, settings), part, settings, states=states)
    counts = {node: dict(seen) for node, seen in states.counts.items()}
    models = {node: str(artifact) for node, artifact in loaded.artifacts.items()}
    code = report(ran, part, form, {"windows": counts, "models": models}, "begin anew, with another --out")
    for node, seen in counts.items():
        if late := seen.get("late"):
            what = f"nodes.{node}: {counted(late, 'event')} came later than its lateness allows: is the input in the order of the stream?"
            err.print(what, style="yellow", markup=False)
    return code


def _met(whole: Loaded, topic: str, settings: Settings) -> None:
    """Raises ConfigError where the events of a key meet only in a topic between stages: here they are in several partitions."""
    from penstock.transports.kafka.connection import Admin

    keyed = next((one for one in whole.topology.nodes if one.materialize is not None and one.materialize.key is not None), None)
    if keyed is not None and Admin(settings).partitions().get(topic, 0) > 1:
        what = f"nodes.{keyed.name}.materialize: its records have another key, and so another partition than in {topic}"
        fix = "compute features from files in the order of the events, or from a topic of one partition"
        raise ConfigError(Problem(whole.topology.file, keyed.mark.line, keyed.mark.column, what, fix))


def _timed(loaded: Loaded) -> None:
    """Raises ConfigError for windows and lookups by the time of records, which files do not have."""
    from penstock.topology.kinds.reads import TIME, TIME_US
    from penstock.topology.spec import LookupNode, WindowNode

    (stage,) = loaded.wiring.stages
    for step in stage.steps:
        timed = isinstance(step.node, WindowNode) or (isinstance(step.node, LookupNode) and step.node.historical)
        if timed and not any(feed.tensor.name in (TIME, TIME_US) for feed in step.feeds):
            what = f"nodes.{step.node.name}: its time is that of the records, and rows of files have none"
            fix = "name the field of the event time: time: FIELD in the source; or read kafka://TOPIC"
            raise ConfigError(Problem(loaded.topology.file, step.node.mark.line, step.node.mark.column, what, fix))
