"""Chains: a stage that reads a topic which another stage of the topology writes. Orders the stages, and finds the circles.

Stages that write to one another in a circle are refused: an event would go round without end, and each round would add more events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from penstock.topology.order import order
from penstock.topology.resolve import Finding
from penstock.topology.spec import Sink, Source, Topology

__all__ = ["readers", "stage_order"]


def readers(topology: Topology, sink: Sink) -> tuple[Source, ...]:
    """Returns the sources that read what the sink writes."""
    return tuple(source for source in topology.sources if source.topic == sink.topic)


def stage_order(topology: Topology, sinks: Mapping[str, Sequence[Sink]]) -> tuple[list[str], list[Finding]]:
    """Returns (the sources, each after those that feed it and otherwise in the file's order; one finding per circle).

    `sinks` are those that the stage of each source writes. A source in a circle, or fed by one, is not in the order.
    """
    ordered, circles = order(
        {source.name: [name for name in sinks if _link(sinks, name, topics_of(topology, source))] for source in topology.sources}
    )
    return ordered, list(_explain(topology, sinks, circles))


def topics_of(topology: Topology, source: Source) -> tuple[str, ...]:
    """Returns the topics that the stage of a source reads: of a match, those of both its sources."""
    match = topology.match(source.name)
    found = [source] if match is None else [one for name in match.sides if (one := topology.source(name)) is not None]
    return tuple(one.topic for one in found)


def _link(sinks: Mapping[str, Sequence[Sink]], writer: str, topics: Sequence[str]) -> Sink | None:
    return next((sink for sink in sinks[writer] if sink.topic in topics), None)


def _explain(topology: Topology, sinks: Mapping[str, Sequence[Sink]], circles: list[list[str]]) -> Iterator[Finding]:
    places = {source.name: place for place, source in enumerate(topology.sources)}
    for circle in circles:
        first = circle.index(min(circle, key=lambda name: places[name]))
        path = [topology.sources[places[name]] for name in (*circle[first:-1], *circle[:first])]
        links = [_link(sinks, before.name, topics_of(topology, one)) for before, one in zip(path, (*path[1:], path[0]), strict=True)]
        topics = [link.topic for link in links if link is not None]
        way = "".join(f" -> topic {topic} -> source {one.name}" for topic, one in zip(topics, (*path[1:], path[0]), strict=True))
        back = links[-1]
        assert back is not None, "a circle is made of links"
        fix = "write to a topic that these sources do not read"
        if len(topology.sources) > 1:
            fix += "; to limit a sink to one source, name its fields SOURCE.FIELD"
        yield back.at("topic"), f"sinks.{back.name}: events would go in circles: source {path[0].name}{way}", fix
