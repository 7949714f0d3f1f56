"""A topology as a picture: Mermaid for pages, rails like those of `git log --graph` for a terminal.

With a wiring every edge is exact. Without a wiring a name that is not a node counts as a field, drawn from every source
that it may belong to, and tensors that are wired only by their names are not drawn. A source whose topic a sink writes is
drawn below that sink.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from penstock.topology.kinds import kind_of
from penstock.topology.order import order
from penstock.topology.spec import Match, Node, Ref, Sink, Source, Table, Topology
from penstock.topology.wiring import Matched, Part, Stage, Wiring

__all__ = ["mermaid", "text"]


@dataclass(frozen=True, slots=True)
class _Item:
    """A vertex: `name` is unique (`sources.NAME`, ...), `reads` are the names of what it reads, `outline` is its shape in Mermaid."""

    name: str
    kind: str
    label: str
    detail: str
    reads: tuple[str, ...]
    outline: tuple[str, str]


_ENTITIES = str.maketrans({one: f"#{ord(one)};" for one in '"<>#&'})  # in the text of a parameter these would end the label


def mermaid(topology: Topology, wiring: Wiring | None = None) -> str:
    """Returns a Mermaid flowchart, which GitHub and many editors show."""
    items = _items(topology, wiring)
    ids = {item.name: f"{item.kind}_{number}" for number, item in enumerate(items)}
    lines = ["flowchart LR"]
    for item in items:
        opened, closed = item.outline
        lines.append(f'    {ids[item.name]}{opened}"<b>{item.label}</b><br/>{item.detail.translate(_ENTITIES)}"{closed}')
    lines += [f"    {ids[read]} --> {ids[item.name]}" for item in items for read in item.reads]
    return "\n".join(lines) + "\n"


def text(topology: Topology, wiring: Wiring | None = None) -> str:
    """Returns a drawing for a terminal: one line per vertex, its inputs as rails from above."""
    items = _items(topology, wiring)
    rails = list(_rails(items))
    width = max(map(len, rails))
    names, kinds = (max(len(part) for part in column) for column in zip(*((item.label, item.kind) for item in items), strict=True))
    lines = [topology.name]
    for rail, item in zip(rails, items, strict=True):
        lines.append(f"{rail:<{width}}  {item.kind:<{kinds}}  {item.label:<{names}}  {item.detail}".rstrip())
    return "\n".join(lines) + "\n"


def _items(topology: Topology, wiring: Wiring | None) -> list[_Item]:
    """Returns sources, tables, nodes and sinks, each after what it reads and otherwise in this order; those in a cycle come last."""
    edges = _edges_of_file(topology) if wiring is None else _edges_of_wiring(wiring)
    items = [_source(topology, source) for source in topology.sources]
    items += [_match(match) for match in topology.matches]
    items += [_table(table) for table in topology.tables]
    of_tables = {node.name: (f"tables.{node.table}",) for node in topology.lookups if topology.table(node.table) is not None}
    items += [_node(node, (*of_tables.get(node.name, ()), *edges[f"nodes.{node.name}"])) for node in topology.nodes]
    items += [_sink(sink, tuple(edges[f"sinks.{sink.name}"])) for sink in topology.sinks]
    by_name = {item.name: item for item in items}
    ordered, _ = order({item.name: item.reads for item in items})
    return [by_name[name] for name in dict.fromkeys([*ordered, *by_name])]


def _source(topology: Topology, source: Source) -> _Item:
    fed_by = tuple(f"sinks.{sink.name}" for sink in topology.sinks if sink.topic == source.topic)
    detail = f"{source.topic} ({', '.join(filter(None, (source.format, source.schema)))})"
    return _Item(f"sources.{source.name}", "source", source.name, detail, fed_by, ("([", "])"))


def _table(table: Table) -> _Item:
    detail = f"{table.topic} ({table.format}, {table.schema}) by {', '.join(table.keyed_by)}"
    return _Item(f"tables.{table.name}", "table", table.name, detail, (), ("[[", "]]"))


def _match(match: Match) -> _Item:
    by = ", ".join(f"{match.left}.{one} = {match.right}.{other}" for one, other in zip(*match.by, strict=False))
    kept = f", {match.left} without {match.right} too" if match.unmatched == "keep" else ""
    detail = f"by {by}, within {match.within_ms / 1000:g} s{kept}"
    return _Item(f"sources.{match.name}", "match", match.name, detail, tuple(f"sources.{name}" for name in match.sides), ("{{", "}}"))


def _node(node: Node, reads: tuple[str, ...]) -> _Item:
    kind = kind_of(node)
    detail = kind.detail(node) + (", materialised" if node.materialize is not None else "")
    return _Item(f"nodes.{node.name}", node.kind, node.name, detail, reads, kind.outline)


def _sink(sink: Sink, reads: tuple[str, ...]) -> _Item:
    detail = f"{sink.topic} ({sink.format}): {', '.join(field for field, _ in sink.fields)}"
    return _Item(f"sinks.{sink.name}", "sink", sink.name, detail, reads, ("[(", ")]"))


def _edges_of_wiring(wiring: Wiring) -> dict[str, dict[str, None]]:
    edges: dict[str, dict[str, None]] = _no_edges(wiring.topology)
    for stage in wiring.stages:
        for step in stage.steps:
            for part in (part for feed in step.feeds for part in feed.parts):
                edges[f"nodes.{step.node.name}"][_origin(part, _reads(stage))] = None
            if step.node.when is not None:
                edges[f"nodes.{step.node.name}"][f"nodes.{step.node.when.condition}"] = None
        for emit in stage.emits:
            parts = [field.part for field in emit.fields]
            for part in parts if emit.key is None else [*parts, emit.key]:
                edges[f"sinks.{emit.sink.name}"][_origin(part, _reads(stage))] = None
            if emit.sink.when is not None:
                edges[f"sinks.{emit.sink.name}"][f"nodes.{emit.sink.when.condition}"] = None
    return edges


def _reads(stage: Stage) -> str:
    """Returns the source whose events the stage runs."""
    return stage.gather.match.name if isinstance(stage.gather, Matched) else stage.source.name


def _origin(part: Part, source: str) -> str:
    """Returns the vertex that makes the part's column: a column of a node is named NODE.OUTPUT, one of a field has no dot."""
    node, dot, _ = part.column.partition(".")
    return f"nodes.{node}" if dot else f"sources.{source}"


def _edges_of_file(topology: Topology) -> dict[str, dict[str, None]]:
    edges = _no_edges(topology)
    for node in topology.nodes:
        refs = kind_of(node).refs(node)
        # Without references all tensors are wired by name, most likely to fields.
        edges[f"nodes.{node.name}"].update(_meant(topology, refs) if refs else _meant(topology, [Ref("", "")]))
        edges[f"nodes.{node.name}"].update(_meant(topology, [node.when.ref] if node.when else []))
    for sink in topology.sinks:
        written = [ref for _, ref in sink.fields]
        edges[f"sinks.{sink.name}"].update(_meant(topology, written if sink.key is None else [*written, sink.key]))
        edges[f"sinks.{sink.name}"].update(_meant(topology, [sink.when.ref] if sink.when else []))
    return edges


def _meant(topology: Topology, refs: Iterable[Ref]) -> dict[str, None]:
    found: dict[str, None] = {}
    for ref in refs:
        if topology.node(ref.head):
            found[f"nodes.{ref.head}"] = None
        elif topology.source(ref.head) or topology.match(ref.head):
            found[f"sources.{ref.head}"] = None
        else:
            found.update(dict.fromkeys(f"sources.{source.name}" for source in topology.sources))
    return found


def _no_edges(topology: Topology) -> dict[str, dict[str, None]]:
    return {name: {} for name in [*(f"nodes.{node.name}" for node in topology.nodes), *(f"sinks.{sink.name}" for sink in topology.sinks)]}


def _rails(items: list[_Item]) -> Iterator[str]:
    """Yields the rails beside each item: a lane goes down from an item to its last reader, which joins it from the right."""
    last = {read: number for number, item in enumerate(items) for read in item.reads}
    lanes: list[str | None] = []
    for number, item in enumerate(items):
        joined = [lane for lane, name in enumerate(lanes) if name is not None and name in item.reads]
        ending = {lane for lane in joined if last[lanes[lane] or ""] == number}
        first = joined[0] if joined else len(lanes) + 1
        own = next((lane for lane in range(joined[-1] + 1 if joined else 0, len(lanes)) if lanes[lane] is None), len(lanes))
        if own == len(lanes):
            lanes.append(None)
        cells = [_cell(lane, first, own, lane in joined, lane in ending, lanes[lane] is not None) for lane in range(len(lanes))]
        yield "".join(cells).rstrip()
        for lane in ending:
            lanes[lane] = None
        lanes[own] = item.name if last.get(item.name, -1) > number else None


def _cell(lane: int, first: int, own: int, joins: bool, ends: bool, live: bool) -> str:
    if lane == own:
        return "● "
    if not first <= lane < own:
        return "│ " if live else "  "
    if joins:
        corner = ("╰" if ends else "├") if lane == first else ("┴" if ends else "┼")
        return corner + "─"
    return "│─" if live else "──"
