"""`penstock topics`: lists the topics that a topology reads and writes, and creates those that are missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import click
from rich.markup import escape

from penstock.cli.options import CONNECTION, with_settings
from penstock.cli.output import err, format_option, out, print_json, table
from penstock.control.topics import CONTROL_CONFIG, STATUS_CONFIG, Topics
from penstock.settings import Settings
from penstock.topology.find import find
from penstock.topology.parse import parse
from penstock.topology.spec import Table, Topology
from penstock.topology.stages import letters_of, topics_between

__all__ = ["topics"]


_COMPRESSION = {"none": "uncompressed"} | {one: one for one in ("lz4", "zstd", "snappy", "gzip")}
LETTER_HEADERS = 64 << 10  # bytes by which a dead letter may be larger than its record


class Need(NamedTuple):
    """The role of a topic, its partitions (None: as many as the sources have) and the configuration that it must have."""

    role: str
    partitions: int | None = None
    config: Mapping[str, str] = MappingProxyType({})


def needed(topology: Topology, application: str) -> dict[str, Need]:
    """Returns every topic of a topology with its role, in the order of the file."""
    releases = Topics.declared(application, topology)
    roles: dict[str, list[str]] = {}  # a topic may have several roles: in a chain, a source reads what a sink writes
    for source in topology.sources:
        roles.setdefault(source.topic, []).append(f"source {source.name}")
    for one in topology.tables:
        roles.setdefault(one.topic, []).append(f"table {one.name}")
    for sink in topology.sinks:
        roles.setdefault(sink.topic, []).append(f"sink {sink.name}")
    between = topics_between(topology, f"{application}.{topology.name}")
    for node, (topic, _) in between.items():
        roles.setdefault(topic, []).append(f"between stages: outputs of {node}")
    for source in topology.sources:
        roles.setdefault(source.dead_letter, []).append(f"dead letters of {source.name}")
    for node, (topic, _) in between.items():
        roles.setdefault(letters_of(topic), []).append(f"dead letters behind {node}")
    logs = _changelogs(topology, application) if topology.windows or topology.matches else {}
    for node, (topic, _) in logs.items():
        roles.setdefault(topic, []).append(f"what {node} remembers")
    configs = {
        topic: {"retention.ms": str(spec.retention_ms), "compression.type": _COMPRESSION[spec.compression]}
        for topic, spec in between.values()
    }
    configs |= dict(logs.values())
    read = {source.topic for source in topology.sources}
    configs |= {one.topic: _kept(one) for one in topology.tables if one.topic not in read}
    return {topic: Need(", ".join(labels), config=configs.get(topic, {})) for topic, labels in roles.items()} | {
        releases.control: Need("releases: the control log", 1, CONTROL_CONFIG),
        releases.status: Need("releases: what workers report", 1, STATUS_CONFIG),
    }


def _kept(table: Table) -> dict[str, str]:
    """Returns the configuration of a table's topic: of each key the last record stays, and for the history the others."""
    return {"cleanup.policy": "compact", **({"min.compaction.lag.ms": str(table.history_ms)} if table.history_ms else {})}


def _changelogs(topology: Topology, application: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Returns the topic of what each window and each side of a match remembers, and its configuration, by node."""
    from penstock.nodes.window import changelogs
    from penstock.topology.matches import changelogs as changelogs_of_matches
    from penstock.transports.kafka.changelog import CHANGELOG_CONFIG

    prefix = f"{application}.{topology.name}"
    found = changelogs(topology, prefix) | changelogs_of_matches(topology, prefix)
    return {node: (topic, dict(CHANGELOG_CONFIG)) for node, topic in found.items()}


def _with_limits(needs: Mapping[str, Need], topology: Topology, limits: Mapping[str, int]) -> dict[str, Need]:
    """Returns the needs; dead-letter topics take what their source takes (`limits`, bytes by topic) and the headers of a letter."""
    found = dict(needs)
    for source in topology.sources:
        need = found[source.dead_letter]
        most = max(limits[source.topic] + LETTER_HEADERS, int(need.config.get("max.message.bytes", 0)))
        found[source.dead_letter] = need._replace(config={**need.config, "max.message.bytes": str(most)})
    return found


def _count(topology: Topology, there: Mapping[str, int]) -> int:
    """Returns the partitions of new topics. `there` has the partitions of those that exist, by topic.

    A source needs a sink with at least as many partitions, so without a source the smallest sink decides.
    """
    sources = [there[one.topic] for one in topology.sources if there.get(one.topic)]
    sinks = [there[one.topic] for one in topology.sinks if there.get(one.topic)]
    return max(sources) if sources else min(sinks, default=4)


@click.group()
def topics() -> None:
    """List or create the topics that a topology needs."""


@topics.command("ls")
@click.argument("topology", type=click.Path(path_type=Path))
@format_option
@with_settings(*CONNECTION, "application")
def ls(topology: Path, form: str, settings: Settings) -> int:
    """Show the topics of TOPOLOGY and whether they exist. Exit code 1 when one is missing."""
    from penstock.transports.kafka.connection import Admin

    needs = needed(parse(find(topology, settings.topologies)), settings.application)
    there = Admin(settings).partitions()
    rows = [{"topic": name, "role": need.role, "partitions": there.get(name, 0)} for name, need in needs.items()]
    if form == "json":
        print_json(rows)
    else:
        shown = table("", "topic", "role", "partitions", wraps="role")
        for row in rows:
            shown.add_row(*map(escape, (str(row["topic"]), str(row["role"]), str(row["partitions"] or "missing"))))
        out.print(shown)
    return 0 if all(row["partitions"] for row in rows) else 1


@topics.command("create")
@click.argument("topology", type=click.Path(path_type=Path))
@click.option(
    "--partitions", type=click.IntRange(1, 10_000), help="Partitions of new topics. [default: as many as the topics that exist, else 4]"
)
@click.option(
    "--replication", type=click.IntRange(-1, 100), default=-1, show_default=True, help="Copies of each partition; -1: the brokers' default."
)
@click.option("--dry-run", is_flag=True, help="Only print what would be created.")
@format_option
@with_settings(*CONNECTION, "application")
def create(topology: Path, partitions: int | None, replication: int, dry_run: bool, form: str, settings: Settings) -> None:
    """Create the topics of TOPOLOGY that do not exist yet. Existing topics are not changed.

    Predictions keep their input's partition, so all topics get the same number: `--partitions`, else the largest number
    that a source of the topology already has; without any source, the smallest number of its existing sinks, else 4. The
    control log and the status topic have one partition, and their names begin with --application. The control log keeps
    every message; the status topic keeps the last report of each worker. A dead-letter topic takes larger records than its
    source.
    """
    from penstock.transports.kafka.connection import DEFAULT_LIMIT, Admin

    declared = parse(find(topology, settings.topologies))
    needs = needed(declared, settings.application)
    admin = Admin(settings)
    there = admin.partitions()
    count = partitions or _count(declared, there)
    missing = {name: need.partitions or count for name, need in needs.items() if not there.get(name)}
    if missing and not dry_run:
        sources = [source.topic for source in declared.sources if there.get(source.topic)]
        known = {name: info.max_message_bytes for name, info in admin.describe(sources).items()} if sources else {}
        needs = _with_limits(needs, declared, {source.topic: known.get(source.topic) or DEFAULT_LIMIT for source in declared.sources})
        for config in {tuple(needs[name].config.items()) for name in missing}:
            alike = {name: number for name, number in missing.items() if tuple(needs[name].config.items()) == config}
            admin.create(alike, replication=replication, config=dict(config))
    if form == "json":
        print_json(
            [{"topic": name, "created": name in missing and not dry_run, "partitions": missing.get(name) or there[name]} for name in needs]
        )
        return
    for name, need in needs.items():
        many = missing.get(name) or there[name]
        state = ("would be created" if dry_run else "created") if name in missing else "exists"
        state += f" with {many} partition{'s' if many > 1 else ''}"
        out.print(f"{name:40} {state:32} {need.role}", markup=False)
    if not missing:
        err.print("Nothing to do.")
