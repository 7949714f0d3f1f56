"""A topology that is cut gives what it gives in one process, wherever it is cut: the same bytes, in the same order, with the same failures."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from penstock import runtime
from penstock.errors import TopologyError
from penstock.pipeline import Answered, Answers
from penstock.record import Record
from penstock.runtime import Loaded
from penstock.topology.parse import parse
from penstock.topology.spec import Materialize
from penstock.topology.stages import cut

ROOT = Path(__file__).parents[2]
TOPOLOGIES = ("flights", "flights-cascade", "flights-desk")
ROWS = 60


@cache
def events() -> list[Record]:
    """Real events, and some with what nobody wants: nulls, numbers out of range, no event at all."""
    with gzip.open(ROOT / "examples/flights/sample/departures.ndjson.gz", "rt") as lines:
        flights = [json.loads(line) for line, _ in zip(lines, range(ROWS), strict=False)]
    for at, change in enumerate(({"dep_delay": None}, {"dep_delay": 3e38}, {"carrier": "é\u2028"}, {"carrier": None}, {"hour": 1 << 40})):
        flights[3 * at] |= change
    values = [json.dumps(one).encode() for one in flights]
    return [Record("flights.departures", value, None, ()) for value in [*values, b"", b"{}", b"\xff"]]


def subsets() -> Iterator[tuple[str, tuple[str, ...]]]:
    for name in TOPOLOGIES:
        nodes = [node.name for node in parse(ROOT / f"topologies/{name}.yaml").nodes if not node.name.endswith("?")]
        for count in range(1, len(nodes) + 1):
            yield from ((name, chosen) for chosen in itertools.combinations(nodes, count))


def loaded(name: str, materialised: tuple[str, ...]) -> Loaded:
    topology = parse(ROOT / f"topologies/{name}.yaml")
    nodes = [replace(node, materialize=Materialize()) for node in topology.nodes if node.name in materialised]
    return runtime.load(topology.with_nodes(nodes), models=ROOT / "models", schemas=ROOT / "schemas")


@cache
def fused(name: str) -> Answered:
    program = runtime.prepare(loaded(name, ()))
    return Answers(program, "departures").run(events())


@pytest.mark.parametrize(("name", "materialised"), [*subsets()])
def test_where_it_is_cut_changes_nothing(name: str, materialised: tuple[str, ...]) -> None:
    try:
        whole = loaded(name, materialised)
    except TopologyError as error:
        assert "come from different stages" in str(error)
        return
    shares = runtime.shares(whole, "app")
    found = cut(whole.wiring, "app")
    assert [*shares] == [*found.processes]
    (share, *_) = (one.share for one in shares.values())
    program = runtime.prepare(replace(whole, wiring=found.wiring, share=share))
    first = [stage.name for stage in found.wiring.stages if not stage.inputs[0].behind]
    answered, expected = [Answers(program, one).run(events()) for one in first], fused(name)
    answers = {sink: answer for one in answered for sink, answer in one.answers.items()}
    for sink, answer in expected.answers.items():
        assert answers[sink].values == answer.values
        assert [*answers[sink].rows] == [*answer.rows]
    assert {one.row for each in answered for one in each.failures} == {one.row for one in expected.failures}
