"""Names that mean two things and topics that carry two things; found without schemas and models."""

from __future__ import annotations

import pytest

from penstock.topology.check import check
from penstock.topology.parse import parse_text


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  features:\n", "  departures:\n", "'departures' is a node here and a source on line 3"),
        (
            "topic: flights.predictions",
            "topic: flights.departures",
            "events would go in circles: source departures -> topic flights.departures -> source departures",
        ),
        ("topic: flights.predictions", "topic: flights.departures.dead-letter", "is the dead-letter topic of the source 'departures'"),
        ("topic: flights.predictions", "topic: __consumer_offsets", "reserved"),
        ("topic: flights.predictions", "topic: ..", "'..' is not a topic name"),
        ("topic: flights.departures", f"topic: {'x' * 240}", "has 252 characters, Kafka allows 249"),
        (
            "    id:",
            "    dead_letter: flights.departures\n    id:",
            "the dead-letter topic 'flights.departures' is a topic that a source reads",
        ),
        ("    key:", "    format: avro\n    key:", "sinks.predictions: the format avro needs a schema"),
        ("nodes:", "  again: {topic: flights.departures, schema: f.avsc}\nnodes:", "is already read by 'departures'"),
        ("sinks:", "sinks:\n  x: {topic: flights.predictions, schema: x.avsc, fields: [a]}", "in another format or schema"),
        ("nodes:", "providers: [CPUExecutionProvider, CPUExecutionProvider]\nnodes:", "CPUExecutionProvider is named twice"),
        ("nodes:", "providers: [CPUExecutionProvider: {a: 1}]\nnodes:", "CPUExecutionProvider has no options"),
        ("sinks:", "sinks:\n  x: {topic: x, fields: [logistic.b, trees.b]}", "two fields are called 'b'"),
        ("sinks:", "sinks:\n  x: {topic: x, fields: ['logistic.dense/Bias:0']}", "'dense/Bias:0' cannot name a field"),
    ],
)
def test_clashes_between_values(text: str, old: str, new: str, expected: str) -> None:
    _, found = check(parse_text(text.replace(old, new, 1)), {}, {}, {})
    assert len(found) == 1
    assert expected in found[0].message


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("topic: flights.predictions", "topic: flights.departures", (20, 12)),
        ("topic: flights.departures", "topic: __offsets", (4, 12)),
        ("topic: flights.departures", f"topic: {'x' * 240}", (4, 12)),
        ("    id:", "    dead_letter: flights.departures\n    id:", (6, 18)),
        ("    key:", "    format: avro\n    key:", (21, 13)),
        ("nodes:", "  again: {topic: flights.departures, schema: f.avsc}\nnodes:", (8, 18)),
    ],
)
def test_clash_is_told_where_the_value_stands(text: str, old: str, new: str, place: tuple[int, int]) -> None:
    _, (found,) = check(parse_text(text.replace(old, new, 1)), {}, {}, {})
    assert (found.line, found.column) == place


@pytest.mark.parametrize(
    ("said", "column", "expected"),
    [
        ("control: flights.departures", 21, "releases.control: the topic 'flights.departures' is read by the source 'departures'"),
        ("status: flights.predictions", 20, "releases.status: the topic 'flights.predictions' is written by the sink 'predictions'"),
        ("status: flights.departures.dead-letter", 20, "is the dead-letter topic of the source 'departures'"),
        ("control: one, status: one", 34, "releases.status: the topic 'one' is already releases.control"),
        ("control: __consumer_offsets", 21, "releases.control: the topic '__consumer_offsets' is reserved"),
    ],
)
def test_topics_of_releases_carry_nothing_else(text: str, said: str, column: int, expected: str) -> None:
    _, (found,) = check(parse_text(f"{text}releases: {{{said}}}\n"), {}, {}, {})
    assert (found.line, found.column) == (23, column)
    assert expected in found.message


def test_two_sinks_may_share_a_topic_in_one_format(text: str) -> None:
    changed = text + "  more: {topic: flights.predictions, fields: [flight_id]}\n"
    assert check(parse_text(changed), {}, {}, {})[1] == []
