"""Whatever is in a topology file, the parser gives a Topology or a TopologyError, the same one each time, with real lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from penstock.errors import Problem, TopologyError
from penstock.topology import draw
from penstock.topology.parse import parse, parse_text
from penstock.topology.spec import Topology

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
  stack: {kind: ensemble, model: stack@live, inputs: {p: ["features.probabilities[1]"]}}
sinks:
  predictions:
    topic: flights.predictions
    key: flight_id
    fields: {score: stack, flight_id: flight_id}
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
@settings(deadline=None)
def test_any_text(text: str) -> None:
    holds(text)


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
@settings(deadline=None)
def test_any_words_of_the_language(text: str) -> None:
    holds(text)


@given(st.lists(st.tuples(st.integers(0, len(GOOD)), st.integers(0, 12), st.sampled_from(PIECES)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=200)
def test_good_file_with_a_few_changes(edits: list[tuple[int, int, str]]) -> None:
    text = GOOD
    for start, length, piece in edits:
        text = text[:start] + piece + text[start + length :]
    holds(text)


@given(st.binary(max_size=200))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    """Each example writes the file anew, so the folder may be shared."""
    path = tmp_path / "t.yaml"
    path.write_bytes(data)
    with pytest.raises(TopologyError):  # 200 bytes at random are no topology
        parse(path)


def test_unchanged_file_is_good() -> None:
    assert isinstance(outcome(GOOD), Topology)
