"""Whatever is in a topology file, parsing and checking end in values or in a TopologyError, the same one each time, with real lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from penstock.errors import Problem, TopologyError
from penstock.schema import Field, Schema
from penstock.signature import Signature, Tensor
from penstock.topology import draw
from penstock.topology.check import wire
from penstock.topology.parse import parse, parse_text
from penstock.topology.spec import Topology
from penstock.topology.wiring import Wiring

GOOD = """\
topology: flights
sources:
  departures: {topic: flights.departures, schema: flight.avsc, id: flight_id, time: departed_at}
nodes:
  features:
    kind: feature
    model: flight-features@1
    inputs:
      delay: &delay {field: dep_delay, missing: 0}
      again: *delay
      date: [month, day]
  stack:
    kind: ensemble
    model: stack@live
    inputs: {p: ["features.probabilities[1]"]}
    require: {auc: ">= 0.85", loss: < 1}
    parameters: {w: [0.5, 1], on: true}
sinks:
  predictions:
    topic: flights.predictions
    key: flight_id
    fields: {score: stack, flight_id: flight_id}
releases: {signatures: off, on_invalid: rollback, check_every: 5, control: flights.control}
"""
PIECES = [
    *re.findall(r"\w+|\s+|[^\w\s]", GOOD),
    "<<",
    "!!python/object:x",
    "%YAML 1.1",
    "---",
    "...",
    "\t",
    "\x85",
    "\u2028",
    "\0",
    "\ufeff",
    "?",
    ".inf",
]


def outcome(text: str) -> Topology | tuple[Problem, ...]:
    try:
        return parse_text(text)
    except TopologyError as error:
        return error.problems


def lines_of(text: str) -> int:
    """Lines as YAML counts them."""
    return len(re.split("\r\n|[\n\r\x85\u2028\u2029]", text))


def holds(text: str) -> None:
    found = outcome(text)
    assert outcome(text) == found, "parsing is a function of the text"
    if isinstance(found, Topology):
        draw.text(found)
        draw.mermaid(found)
    else:
        assert found
        for problem in found:
            assert 1 <= problem.line <= lines_of(text)
            assert problem.column >= 1
            assert problem.message


@given(st.text(alphabet=st.characters(codec=None, exclude_categories=())))
@example("\ud800")
@example("\r\u2028a: [")
@example('a: "\\UFFFFFFFF"')
def test_any_text(text: str) -> None:
    holds(text)


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
@example("---")
def test_any_words_of_the_language(text: str) -> None:
    holds(text)


@given(st.lists(st.tuples(st.integers(0, len(GOOD)), st.integers(0, 12), st.sampled_from(PIECES)), min_size=1, max_size=4))
def test_good_file_with_a_few_changes(edits: list[tuple[int, int, str]]) -> None:
    text = GOOD
    for start, length, piece in edits:
        text = text[:start] + piece + text[start + length :]
    holds(text)


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    """Each example writes the file anew, so the folder may be shared."""
    path = tmp_path / "t.yaml"
    path.write_bytes(data)
    with pytest.raises(TopologyError):  # 200 bytes at random are no topology
        parse(path)


FLIGHT = Schema(
    "Flight",
    (
        Field("flight_id", "string"),
        Field("departed_at", "timestamp", unit="ms"),
        Field("dep_delay", "double", optional=True, default=None),
        Field("month", "int"),
        Field("day", "int"),
        Field("track", "array", items=Field("items", "float")),
        Field("raw", "bytes"),
    ),
)
FEATURES = Signature(
    (Tensor("delay", "float32", (1,)), Tensor("again", "float64"), Tensor("date", "int64", (None,))),
    (Tensor("probabilities", "float32", (2,)), Tensor("label", "int64")),
)
STACK = Signature((Tensor("p", "float32", (1,)), Tensor("w", "float32", (2,)), Tensor("on", "bool")), (Tensor("score", "float32", (1,)),))
WORDS = [word.span() for word in re.finditer(r"[\w.@-]+(\[\d\])?", GOOD)]
REFS = [
    *(field.name for field in FLIGHT.fields),
    *("features", "stack", "departures", "features.label", "features.probabilities", "departures.month", "track[2]", "stack.score[0]"),
    *("features.probabilities[7]", "[month, dep_delay]", "{field: dep_delay, missing: nan}", "{field: track, missing: x}"),
]


@given(st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(REFS)), max_size=4, unique_by=lambda edit: edit[0]))
def test_names_swapped_at_random_are_wired_or_refused(edits: list[tuple[tuple[int, int], str]]) -> None:
    """Every column of a wiring is read from a field that is there, and every part of it is a column or an output that was asked for."""
    text = GOOD
    for (start, end), word in sorted(edits, reverse=True):
        text = text[:start] + word + text[end:]
    try:
        topology = parse_text(text)
        signatures = {node.name: FEATURES if node.name == "features" else STACK for node in topology.nodes}
        wiring = wire(topology, {source.name: FLIGHT for source in topology.sources}, signatures)
    except TopologyError as error:
        refused = error.problems
    else:
        refused = ()
        holds_together(wiring)
    assert all(1 <= problem.line <= lines_of(text) for problem in refused)


def holds_together(wiring: Wiring) -> None:
    for stage in wiring.stages:
        made = {column.name for column in stage.inputs[0].columns}
        assert {column.field for column in stage.inputs[0].columns} <= {field.name for field in FLIGHT.fields}
        for step in stage.steps:
            assert {part.column for feed in step.feeds for part in feed.parts} <= made, "a step reads only what was made before it"
            made |= {f"{step.node.name}.{tensor.name}" for tensor in step.outputs}
        assert {field.part.column for emit in stage.emits for field in emit.fields} <= made


def test_unchanged_file_is_good() -> None:
    assert isinstance(outcome(GOOD), Topology)
