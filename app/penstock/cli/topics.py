"""`penstock topics`: what a topology reads and writes, and making what is missing."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.cli.options import CONNECTION, with_settings
from penstock.cli.output import err, format_option, out, print_json, table
from penstock.settings import Settings

__all__ = ["topics"]


def needed(topology_file: Path) -> dict[str, str]:
    """Every topic of a topology, and what it is for, in the order of the file."""
    from penstock.topology import parse

    topology = parse(topology_file)
    roles = {source.topic: f"source {source.name}" for source in topology.sources}
    roles |= {sink.topic: f"sink {sink.name}" for sink in topology.sinks}
    return roles | {source.dead_letter: f"dead letters of {source.name}" for source in topology.sources}


@click.group()
def topics() -> None:
    """List or create the topics that a topology needs."""


@topics.command("ls")
@click.argument("topology", type=click.Path(path_type=Path))
@format_option
@with_settings(*CONNECTION)
def ls(topology: Path, form: str, settings: Settings) -> int:
    """Show the topics of TOPOLOGY and whether they exist. Exit code 1 when one is missing."""
    from penstock.transports.kafka.connection import Admin

    roles = needed(topology)
    there = Admin(settings).partitions()
    rows = [{"topic": name, "role": role, "partitions": there.get(name, 0)} for name, role in roles.items()]
    if form == "json":
        print_json(rows)
    else:
        shown = table("", "TOPIC", "ROLE", "PARTITIONS")
        for row in rows:
            shown.add_row(str(row["topic"]), str(row["role"]), str(row["partitions"] or "missing"))
        out.print(shown)
    return 0 if all(row["partitions"] for row in rows) else 1


@topics.command("create")
@click.argument("topology", type=click.Path(path_type=Path))
@click.option("--partitions", type=click.IntRange(1, 10_000), help="Partitions of new topics. [default: as many as the source has, else 4]")
@click.option(
    "--replication", type=click.IntRange(-1, 100), default=-1, show_default=True, help="Copies of each partition; -1: the brokers' default."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be created.")
@format_option
@with_settings(*CONNECTION)
def create(topology: Path, partitions: int | None, replication: int, dry_run: bool, form: str, settings: Settings) -> None:
    """Create the topics of TOPOLOGY that do not exist yet. Those that exist are left as they are.

    Predictions keep their input's partition, so all topics get the same number: `--partitions`, or the largest number
    that a source of the topology has already, or 4.
    """
    from penstock.topology import parse
    from penstock.transports.kafka.connection import Admin

    roles = needed(topology)
    admin = Admin(settings)
    there = admin.partitions()
    count = partitions or max((there.get(source.topic, 0) for source in parse(topology).sources), default=0) or 4
    missing = {name: count for name in roles if not there.get(name)}
    if missing and not dry_run:
        admin.create(missing, replication=replication)
    if form == "json":
        print_json(
            [{"topic": name, "created": name in missing and not dry_run, "partitions": missing.get(name) or there[name]} for name in roles]
        )
        return
    for name, role in roles.items():
        state = (
            f"{'would be created' if dry_run else 'created'} with {count} partitions"
            if name in missing
            else f"exists with {there[name]} partitions"
        )
        out.print(f"{name:40} {state:32} {role}", markup=False)
    if not missing:
        err.print("Nothing to do.")
