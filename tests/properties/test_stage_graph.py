"""Any stages that write to one another's topics: accepted when no circle is among them, and then in an order that runs downstream."""

from __future__ import annotations

import graphlib
import itertools
import re

from hypothesis import example, given
from hypothesis import strategies as st

from penstock.errors import TopologyError
from penstock.schema import Field, Schema
from penstock.signature import Signature, Tensor
from penstock.topology import draw
from penstock.topology.check import wire
from penstock.topology.parse import parse_text

EVENT = Schema("Event", (Field("v", "float"),))
MODEL = Signature((Tensor("x", "float32", (1,)),), (Tensor("y", "float32", (1,)),))

Edges = set[tuple[int, int]]
GRAPHS = st.integers(1, 6).flatmap(
    lambda count: st.tuples(st.permutations(range(count)), st.sets(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))))
)


def text_of(order: list[int], edges: Edges) -> str:
    """A source, a node and a sink of its own for each stage, in this order, and a sink for each edge."""
    sources = [f"  s{at}: {{topic: t{at}, schema: event.avsc}}" for at in order]
    nodes = [f"  n{at}: {{kind: model, model: m@1, inputs: {{x: s{at}.v}}}}" for at in order]
    sinks = [f"  out{at}: {{topic: out{at}, fields: {{v: n{at}}}}}" for at in order]
    sinks += [f"  from{a}to{b}: {{topic: t{b}, fields: {{v: n{a}}}}}" for a, b in sorted(edges)]
    return "\n".join(["topology: t", "sources:", *sources, "nodes:", *nodes, "sinks:", *sinks, ""])


def has_circle(count: int, edges: Edges) -> bool:
    sorter = graphlib.TopologicalSorter({b: {a for a, to in edges if to == b} for b in range(count)})
    try:
        sorter.prepare()
    except graphlib.CycleError:
        return True
    return False


@given(GRAPHS)
@example(([0], {(0, 0)}))
@example(([1, 0], {(0, 1)}))
@example(([0, 1, 2], {(0, 1), (1, 2), (2, 0)}))
@example(([3, 2, 1, 0], {(0, 1), (0, 2), (1, 3), (2, 3)}))
def test_graph_is_accepted_when_it_has_no_circle(graph: tuple[list[int], Edges]) -> None:
    order, edges = graph
    topology = parse_text(text_of(order, edges))
    names = [source.name for source in topology.sources]
    draw.text(topology)
    try:
        wiring = wire(topology, dict.fromkeys(names, EVENT), dict.fromkeys((node.name for node in topology.nodes), MODEL))
    except TopologyError as error:
        assert has_circle(len(order), edges)
        for problem in error.problems:
            found = [int(number) for number in re.findall(r"source s(\d)", problem.message)]
            assert "circles" in problem.message
            assert set(itertools.pairwise(found)) <= edges, "each printed step is one that events would go"
            assert found[0] == found[-1]
            line = text_of(order, edges).splitlines()[problem.line - 1]
            assert line.startswith(f"  from{found[-2]}to{found[-1]}:"), "it stands at the sink that closes the circle"
        return
    assert not has_circle(len(order), edges)
    stages = [int(stage.name.removeprefix("s")) for stage in wiring.stages]
    assert sorted(stages) == sorted(order)
    assert all(stages.index(a) < stages.index(b) for a, b in edges)
    if not edges:
        assert stages == order, "nothing asks for another order than the file's"
