"""`penstock batch`: a topology over files, a table, a piece of a topic or a stream, once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from penstock.cli.bounded import Outcome, run_bounded
from penstock.cli.options import CONNECTION, with_settings
from penstock.cli.output import counted, err, format_option, out, print_json
from penstock.cli.part import STANDARD, Part, bounded_options
from penstock.settings import Settings
from penstock.topology.find import find

if TYPE_CHECKING:
    from penstock.pipeline import Program
    from penstock.runtime import Loaded

__all__ = ["batch", "report"]

INTERRUPTED = 130


@click.command()
@click.argument("topology", type=click.Path(path_type=Path))
@click.argument("streams", required=False, type=click.Choice(["-"]), metavar="[-]")
@with_settings(*CONNECTION, "models", "model_trust", "schemas", "chunk_rows", "max_batch_rows")
@bounded_options
@click.option("--on", metavar="kafka://TOPIC", help="Runs are asked for by messages, over files below --in, to folders below --out.")
@click.option("--dry-run", is_flag=True, help="Show which columns feed which fields and what the first rows become; write nothing.")
@format_option
def batch(topology: Path, settings: Settings, part: Part, dry_run: bool, form: str) -> int:
    """Run TOPOLOGY over an input that has an end, and write its outputs to files.

    The plan, the numbers and the refusals are those of `penstock run`: what cannot be scored becomes a dead letter. The models are
    those that the topology file names: releases are not followed. Nothing is committed to a consumer group, and nothing is written
    to Kafka. The topology has one source. Files are Parquet, CSV, NDJSON, Arrow or Avro, by their endings.

    \b
      penstock batch flights --in 's3://bucket/2013/*.parquet' --out scores/ \\
          --workers 4
      penstock batch flights --in flights.csv --out scores.parquet
      penstock batch flights --in kafka://flights.departures --out scores/ \\
          --from 2026-11-28T00:00:00Z --to 2026-11-29T00:00:00Z
      penstock batch flights - < flights.ndjson > scores.ndjson

    Exit codes: 0 the end was reached (dead letters are counted), 1 it was reached and every event failed, 130 interrupted: go on with
    --resume. Others: `penstock --help`.
    """
    from penstock import runtime  # with the model runtime behind it: `--help` does without
    from penstock.codecs.schema_registry import open_schema_registry

    file = find(topology, settings.topologies)

    def prepared() -> tuple[Loaded, Program]:
        loaded = runtime.load(
            file, models=settings.models, schemas=settings.schemas, schema_registry=open_schema_registry(settings), forgets="penstock batch"
        )
        return loaded, runtime.prepare(loaded, settings)

    if part.on and part.share is None:
        from penstock.cli.asked import listen

        listen(prepared, part, settings)
        return 0
    loaded, program = prepared()
    models = {node: str(artifact) for node, artifact in loaded.artifacts.items()}
    if part.share is None:
        bound = ", ".join(f"{node}={version}" for node, version in models.items())
        err.print(f"models of the topology file: {bound} (releases are not followed)", markup=False)
    if dry_run:
        from penstock.cli.dry import dry_run as show

        return show(loaded, program, part, settings, form)
    ran = run_bounded(loaded, program, part, settings)
    if part.share is not None:
        return 0
    return report(ran, part, form, {"models": models})


def report(ran: Outcome, part: Part, form: str, more: Mapping[str, object], again: str = "go on with --resume") -> int:
    """Prints what a run has done, with `more` as JSON, and returns the exit code. `again` is what to do after an interruption."""
    if form == "json" and part.output != STANDARD:
        print_json({"read": ran.read, "written": ran.written, "dead_letters": ran.failed, "complete": ran.complete, **more})
    else:
        says = err if part.output == STANDARD else out
        made = f"{counted(ran.written, 'output')}, {counted(ran.failed, 'dead letter')}"
        says.print(f"{counted(ran.read, 'event')} read, {made}", markup=False)
    failed = bool(ran.read) and ran.failed == ran.read
    if ran.complete and not ran.read:
        asked = any(one is not None for one in (part.start, part.stop, part.limit, part.sample))
        none = "no event lies in the part that was asked for" if asked else "the input has no events"
        err.print(f"{none}; nothing was written", markup=False)
    elif ran.failed:
        none = "no event could be scored; " if failed else ""
        first = f", the first: {ran.first}" if ran.first else ""
        err.print(f"{none}dead letters: {ran.letters or 'above, on standard error'}{first}", style="yellow", markup=False)
    if not ran.complete:
        again = "a standard stream is not resumed" if STANDARD in (part.input, part.output) else again
        err.print(f"interrupted: what is written is whole; {again}", markup=False)
        return INTERRUPTED
    return int(failed)
