"""The topics of a topology, and whether a worker can run on them: what is looked at before anything is read."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.control.topics import Topics
from penstock.errors import SettingsError
from penstock.nodes.window import changelogs as changelogs_of
from penstock.runtime import Loaded, readers
from penstock.settings import Settings
from penstock.transports.kafka.connection import Admin, TopicInfo

__all__ = ["changelogs", "described", "of_releases", "tables", "written"]


def written(loaded: Loaded, settings: Settings) -> set[str]:
    """Returns the topics of the sinks, of the dead letters and of what nodes remember."""
    stages = loaded.wiring.stages
    letters = {one.source.dead_letter for stage in stages for one in stage.inputs}
    sinks = {emit.sink.topic for stage in stages for emit in stage.emits} | letters
    return sinks | {*changelogs(loaded, settings).values()}


def changelogs(loaded: Loaded, settings: Settings) -> dict[str, str]:
    """Returns the changelogs of the nodes that remember something, by node."""
    found = changelogs_of(loaded.topology, f"{settings.application}.{loaded.topology.name}")
    return {node: topic for node, topic in found.items() if node in loaded.nodes}


def tables(loaded: Loaded) -> dict[str, str]:
    """Returns the topics of the tables that are read, by table."""
    return {name: one.table.topic for name, one in readers(loaded).items()}


def of_releases(loaded: Loaded, settings: Settings) -> set[str]:
    """Returns the control and the status topic; none where releases are not followed."""
    return {*Topics.declared(settings.application, loaded.topology)} if settings.releases else set()


def described(admin: Admin, loaded: Loaded, settings: Settings) -> Mapping[str, TopicInfo]:
    """Returns every topic of the topology. Blocks.

    Raises TopicMissing with all that do not exist, SettingsError for a sink with fewer partitions than its source, TransportError.
    """
    stages = loaded.wiring.stages
    read = {topic for stage in stages for topic in stage.topics}
    topics = admin.describe(written(loaded, settings) | read | {*tables(loaded).values()} | of_releases(loaded, settings))
    logs = changelogs(loaded, settings)
    for stage in stages:
        for topic in stage.topics[1:]:
            have, need = topics[topic].partitions, topics[stage.topics[0]].partitions
            if have != need:
                raise SettingsError(f"topic {topic} has {have} partitions, but {stage.topics[0]}, with which it is joined, has {need}")
        for topic in (logs[step.node.name] for step in stage.steps if step.node.name in logs):
            have, need = topics[topic].partitions, topics[stage.source.topic].partitions
            if have != need:
                why = f"the changelog {topic} has {have} partitions, but {stage.source.topic} has {need}"
                raise SettingsError(
                    f"{why}: a window is kept by the partition of its events. kafka-topics --alter --topic {topic} --partitions {need}"
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
