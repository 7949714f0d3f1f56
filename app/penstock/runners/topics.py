"""The topics of a topology, and whether a worker can run on them: what is looked at before anything is read."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.control.topics import Topics
from penstock.errors import SettingsError
from penstock.nodes.window import changelogs as changelogs_of
from penstock.runtime import Loaded, readers
from penstock.settings import Settings
from penstock.topology.matches import changelogs as changelogs_of_matches
from penstock.topology.wiring import Matched, Stage
from penstock.transports.kafka.connection import Admin, TopicInfo

__all__ = ["changelogs", "described", "named", "of_releases", "tables", "written"]


def written(loaded: Loaded, settings: Settings) -> set[str]:
    """Returns the topics of the sinks, of the dead letters and of what nodes remember."""
    stages = loaded.wiring.stages
    letters = {one.source.dead_letter for stage in stages for one in stage.inputs}
    sinks = {emit.sink.topic for stage in stages for emit in stage.emits} | letters
    return sinks | {*changelogs(loaded, settings).values()}


def changelogs(loaded: Loaded, settings: Settings) -> dict[str, str]:
    """Returns the changelogs of the nodes that remember something, by node, and of the two sides of a match: MATCH.left and MATCH.right."""
    prefix = f"{settings.application}.{loaded.topology.name}"
    found = {node: topic for node, topic in changelogs_of(loaded.topology, prefix).items() if node in loaded.nodes}
    sides = changelogs_of_matches(loaded.topology, prefix)
    here = [side for stage in loaded.wiring.stages if isinstance(stage.gather, Matched) for side in stage.gather.remembers]
    return found | {side: sides[side] for side in here}


def tables(loaded: Loaded) -> dict[str, str]:
    """Returns the topics of the tables that are read, by table."""
    return {name: one.table.topic for name, one in readers(loaded).items()}


def of_releases(loaded: Loaded, settings: Settings) -> set[str]:
    """Returns the control and the status topic; none where releases are not followed."""
    return {*Topics.declared(settings.application, loaded.topology)} if settings.releases else set()


def named(loaded: Loaded, settings: Settings) -> set[str]:
    """Returns every topic that has to exist."""
    read = {topic for stage in loaded.wiring.stages for topic in stage.topics}
    return written(loaded, settings) | read | {*tables(loaded).values()} | of_releases(loaded, settings)


def described(admin: Admin, loaded: Loaded, settings: Settings) -> Mapping[str, TopicInfo]:
    """Returns every topic of the topology. Blocks.

    Raises TopicMissing with all that do not exist, SettingsError for a sink with fewer partitions than its source, TransportError.
    """
    stages = loaded.wiring.stages
    topics = admin.describe(named(loaded, settings))
    logs = changelogs(loaded, settings)
    for stage in stages:
        for topic in stage.topics[1:]:
            have, need = topics[topic].partitions, topics[stage.topics[0]].partitions
            if have != need:
                raise SettingsError(_unequal(stage, topic, have, need))
        kept = [step.node.name for step in stage.steps]
        if isinstance(stage.gather, Matched):
            kept += stage.gather.remembers
        for topic in (logs[name] for name in kept if name in logs):
            have, need = topics[topic].partitions, topics[stage.source.topic].partitions
            if have != need:
                why = f"the changelog {topic} has {have} partitions, but {stage.source.topic} has {need}"
                raise SettingsError(
                    f"{why}: it is kept by the partition of its events. kafka-topics --alter --topic {topic} --partitions {need}"
                    if have < need
                    else f"{why}: kafka-topics --delete --topic {topic}, then penstock topics create {loaded.topology.name}"
                )
        for emit in stage.emits:
            have, need = topics[emit.sink.topic].partitions, topics[stage.source.topic].partitions
            if loaded.share is not None and emit.sink.name in loaded.share.between and have != need:
                name, why = (
                    emit.sink.topic,
                    f"topic {emit.sink.topic} between two stages has {have} partitions, but {stage.source.topic} {need}",
                )
                more = f"kafka-topics --alter --topic {name} --partitions {need}"
                less = f"Read it to its end, then kafka-topics --delete --topic {name} and penstock topics create {loaded.topology.name}"
                raise SettingsError(f"{why}: outputs keep their input's partition. {more if have < need else less}")
            if emit.sink.key is None and have < need:
                raise SettingsError(
                    f"topic {emit.sink.topic} has {have} partitions, but {stage.source.topic} has {need}: outputs keep their "
                    f"input's partition, so it needs as many; or give sink {emit.sink.name!r} its own `key:`"
                )
    return topics


def _unequal(stage: Stage, topic: str, have: int, need: int) -> str:
    """Returns what is wrong with the topics of a stage whose partitions differ in number, and what to do."""
    first = stage.topics[0]
    if not isinstance(stage.gather, Matched):
        return f"topic {topic} has {have} partitions, but {first}, with which it is joined, has {need}"
    fewer, most = (topic, need) if have < need else (first, have)
    why = f"topic {topic} has {have} partitions, but {first}, with which {stage.gather.match.name} matches it, has {need}"
    return (
        f"{why}: events meet in the partition of their key. kafka-topics --alter --topic {fewer} --partitions {most}, before there are "
        "events in it: those of a key would be in two partitions"
    )
