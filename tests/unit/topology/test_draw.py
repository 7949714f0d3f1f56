"""The drawings show who reads whom."""

from __future__ import annotations

from penstock.schema import Schema
from penstock.signature import Signature
from penstock.topology import draw
from penstock.topology.check import wire
from penstock.topology.parse import parse_text


def test_text(text: str, schemas: dict[str, Schema], signatures: dict[str, Signature]) -> None:
    topology = parse_text(text)
    assert (
        draw.text(topology, wire(topology, schemas, signatures))
        == """\
flights
●            source    departures   flights.departures (json, flight.avsc)
├─●          feature   features     flight-features@1
│ ├─●        model     logistic     flight-logistic@1
│ ╰─│─●      model     trees        flight-trees@live
│   ╰─┼─●    ensemble  stack        stack@2
╰─────┴─┴─●  sink      predictions  flights.predictions (json): flight_id, delay, score, trees
"""
    )


def test_mermaid(text: str, schemas: dict[str, Schema], signatures: dict[str, Signature]) -> None:
    topology = parse_text(text)
    assert (
        draw.mermaid(topology, wire(topology, schemas, signatures))
        == """\
flowchart LR
    source_0(["<b>departures</b><br/>flights.departures (json, flight.avsc)"])
    feature_1["<b>features</b><br/>flight-features@1"]
    model_2["<b>logistic</b><br/>flight-logistic@1"]
    model_3["<b>trees</b><br/>flight-trees@live"]
    ensemble_4{{"<b>stack</b><br/>stack@2"}}
    sink_5[("<b>predictions</b><br/>flights.predictions (json): flight_id, delay, score, trees")]
    source_0 --> feature_1
    feature_1 --> model_2
    feature_1 --> model_3
    model_2 --> ensemble_4
    model_3 --> ensemble_4
    source_0 --> sink_5
    ensemble_4 --> sink_5
    model_3 --> sink_5
"""
    )


def test_without_a_wiring_what_the_file_says_is_drawn(text: str) -> None:
    """The trees are wired by name only, so they seem to read the event; the rest is as above."""
    drawn = draw.mermaid(parse_text(text))
    assert "source_0 --> model_3" in drawn
    assert "feature_1 --> model_2" in drawn
    assert "model_2 --> ensemble_4" in drawn


def test_parameters_cannot_break_the_drawing(text: str) -> None:
    """Their text is the author's: a quote would end a label of Mermaid."""
    changed = text.replace("model: stack@2,", """model: stack@2, parameters: {mode: '"<b>#1\n\nx', w: [0.5, 2]},""")
    assert 'stack@2; mode: "\\"<b>#1\\nx"; w: [0.5, 2]\n' in draw.text(parse_text(changed))
    (line,) = [line for line in draw.mermaid(parse_text(changed)).splitlines() if "stack@2" in line]
    assert line.endswith('<br/>stack@2; mode: #34;\\#34;#60;b#62;#35;1\\nx#34;; w: [0.5, 2]"}}')


def test_several_sources_and_a_cycle_are_drawn_too() -> None:
    """A drawing is most wanted while a topology is not right yet."""
    text = """\
topology: t
sources: {air: {topic: a, schema: a.avsc}, sea: {topic: b, schema: a.avsc}}
nodes:
  a: {kind: model, model: m@1, inputs: {x: b, y: air.speed}}
  b: {kind: model, model: m@1, inputs: {x: a, y: shared}}
sinks: {p: {topic: c, key: sea.id, fields: [b]}}
"""
    assert (
        draw.text(parse_text(text))
        == """\
t
●          source  air  a (json, a.avsc)
│ ●        source  sea  b (json, a.avsc)
├─│─●      model   a    m@1
╰─┼─┴─●    model   b    m@1
  ╰───┴─●  sink    p    c (json): b
"""
    )
