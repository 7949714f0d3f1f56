"""A file becomes frozen values, or all its problems at once."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from penstock.errors import TopologyError
from penstock.provider import Provider
from penstock.schema import Missing
from penstock.topology.parse import parse, parse_text
from penstock.topology.spec import Mark, ModelRef, Ref, Releases, Requirement


def problems_in(text: str) -> list[str]:
    with pytest.raises(TopologyError) as caught:
        parse_text(text, "t.yaml")
    return [str(problem) for problem in caught.value.problems]


def test_values_are_what_the_file_says(text: str) -> None:
    topology = parse_text(text)
    assert topology.name == "flights"
    source = topology.sources[0]
    assert (source.topic, source.schema, source.format, source.id, source.time) == (
        "flights.departures",
        "flight.avsc",
        "json",
        "flight_id",
        "departed_at",
    )
    assert (source.dead_letter, source.max_bytes, source.mark) == ("flights.departures.dead-letter", 1_048_576, Mark(3, 3))
    features, logistic, trees, stack = topology.model_nodes
    assert features.model == ModelRef("flight-features", "1")
    assert [(one.tensor, [ref.text for ref in one.refs], one.stacked) for one in features.inputs] == [
        ("delay", ["dep_delay"], False),
        ("date", ["month", "day"], True),
    ]
    assert features.inputs[0].missing == Missing("fill", 0)
    assert logistic.inputs[0].refs == (Ref("features", "features"),)
    assert trees.model.version == "live"
    assert stack.inputs[0].refs[0] == Ref("logistic.probabilities[1]", "logistic", "probabilities", 1)
    assert topology.sinks[0].key == Ref("flight_id", "flight_id")
    assert [name for name, _ in topology.sinks[0].fields] == ["flight_id", "delay", "score", "trees"]


def test_optional_keys_of_a_source(text: str) -> None:
    source = parse_text(text.replace("    id:", "    format: avro\n    dead_letter: my.dlq\n    max_bytes: 10\n    id:")).sources[0]
    assert (source.format, source.dead_letter, source.max_bytes) == ("avro", "my.dlq", 10)


@pytest.mark.parametrize(
    ("threshold", "comparison", "bound"),
    [('">= 0.85"', ">=", 0.85), ('"<=-1"', "<=", -1.0), ("< .5e-3", "<", 0.0005), ("'>  +12.'", ">", 12.0)],
)
def test_requirements_are_taken_apart(text: str, threshold: str, comparison: str, bound: float) -> None:
    changed = text.replace("flight-trees@live}", f"flight-trees@live, require: {{auc: {threshold}, log loss: < 1}}}}")
    node = parse_text(changed).model_nodes[2]
    assert node.require == (Requirement("auc", comparison, bound), Requirement("log loss", "<", 1.0))
    assert [one.mark for one in node.require] == [Mark(16, 60), Mark(16, 60 + len(f"auc: {threshold}, "))]


@pytest.mark.parametrize(
    ("said", "column", "expected"),
    [
        ("auc: 0.85", 65, 'expected a threshold: >=, <=, > or < and a number, found the number 0.85 (for example ">= 0.85", with quotes)'),
        ("auc: '= 0.85'", 65, "'= 0.85' is not a threshold: >=, <=, > or < and a number (for example \">= 0.85\", with quotes)"),
        ("auc: '>= .nan'", 65, "'>= .nan' is not a threshold"),
        ("auc: '>= 1e999'", 65, "'>= 1e999' is not a threshold"),
        ("", 59, "nodes.trees.require: no metric is named here (name at least one metric)"),
    ],
)
def test_requirements_that_are_refused(text: str, said: str, column: int, expected: str) -> None:
    (problem,) = problems_in(text.replace("flight-trees@live}", f"flight-trees@live, require: {{{said}}}}}"))
    assert problem.startswith(f"t.yaml:16:{column}: nodes.trees.require")
    assert expected in problem


@pytest.mark.parametrize(
    "said", ["require: {auc: >= 0.85}", "require:\n      auc: >= 0.85", "require:\n      auc: > 0.85", "require:\n      auc: >0.85"]
)
def test_comparison_without_quotes_is_told_to_have_some(text: str, said: str) -> None:
    """To YAML `>` begins a folded text, which its own message is no help with."""
    (problem,) = problems_in(text.replace("    kind: feature\n", f"    kind: feature\n    {said}\n"))
    assert problem.startswith(f"t.yaml:{10 + said.count(chr(10)) + 1}:")
    assert problem.endswith('(put text that begins with > in quotes: ">= 0.85")')


def test_releases_have_defaults(text: str) -> None:
    """Also when the key is there and says little; the names of topics are made where the application is known."""
    assert parse_text(text).releases == Releases("off", "report", 60, "", "")
    assert parse_text(text + "releases: {check_every: 0}\n").releases == Releases(check_every=0)


def test_releases_are_what_the_file_says(text: str) -> None:
    said = (
        "signatures: require, on_invalid: rollback, check_every: 86400, unit: carrier, control: flights.releases, status: flights.workers"
    )
    found = parse_text(f"{text}releases: {{{said}}}\n").releases
    assert found == Releases("require", "rollback", 86_400, "carrier", "flights.releases", "flights.workers")


@pytest.mark.parametrize("word", ["off", '"off"', "'off'"])
def test_off_is_a_word(text: str, word: str) -> None:
    """In YAML 1.1 it is a boolean."""
    assert parse_text(f"{text}releases: {{signatures: {word}}}\n").releases.signatures == "off"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("signatures: false", "23:24: releases.signatures: 'false' is not one of off, warn, require (known: off, warn, require)"),
        ("signatures: on", "23:24: releases.signatures: 'on' is not one of off, warn, require (known: off, warn, require)"),
        ("on_invalid: roll-back", "23:24: releases.on_invalid: 'roll-back' is not one of report, rollback (did you mean 'rollback'?)"),
        ("check_every: 60s", "23:25: releases.check_every: expected a whole number from 0 to 86400, found '60s'"),
        ("check_every: 86401", "23:25: releases.check_every: 86401 is out of range (from 0 to 86400)"),
        (
            "control: a b",
            "23:21: releases.control: 'a b' is not a topic name (letters, digits, '.', '_' and '-')"
            " (rename it, for example flights.departures)",
        ),
        ("check_evry: 1", "23:12: releases: unknown key 'check_evry' (did you mean 'check_every'?)"),
    ],
)
def test_releases_that_are_refused(text: str, said: str, expected: str) -> None:
    assert problems_in(f"{text}releases: {{{said}}}\n") == [f"t.yaml:{expected}"]


def test_listed_sink_fields_are_named_by_their_last_part(text: str) -> None:
    start = text.index("    fields:")
    topology = parse_text(text[:start] + "    fields: [flight_id, stack, 'trees.probabilities[1]']\n")
    assert [name for name, _ in topology.sinks[0].fields] == ["flight_id", "stack", "probabilities"]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("reject", Missing("reject")), ("0.5", Missing("fill", 0.5)), ("UNKNOWN", Missing("fill", "UNKNOWN")), ("no", Missing("fill", "no"))],
)
def test_missing_rules(text: str, rule: str, expected: Missing) -> None:
    assert parse_text(text.replace("missing: 0", f"missing: {rule}")).model_nodes[0].inputs[0].missing == expected


@pytest.mark.parametrize("rule", ["nan", ".nan"])
def test_missing_nan(text: str, rule: str) -> None:
    missing = parse_text(text.replace("missing: 0", f"missing: {rule}")).model_nodes[0].inputs[0].missing
    assert missing is not None
    assert math.isnan(missing.value)


def test_stack_with_a_missing_rule(text: str) -> None:
    found = parse_text(text.replace("date: [month, day]", "date: {stack: [month, day], missing: -1}")).model_nodes[0].inputs[1]
    assert (found.stacked, len(found.refs), found.missing) == (True, 2, Missing("fill", -1))


def test_rule_for_null_of_one_part_is_sent_to_all(text: str) -> None:
    with pytest.raises(TopologyError, match=r"what replaces null is the same for all: \{stack: \[\.\.\.\], missing: VALUE\}"):
        parse_text(text.replace("date: [month, day]", "date: [month, {field: day, missing: 0}]"))


def test_one_alias_may_serve_two_nodes(text: str) -> None:
    changed = text.replace("inputs: {X: features}", "inputs: &x {X: features}").replace(
        "flight-trees@live}", "flight-trees@live, inputs: *x}"
    )
    topology = parse_text(changed)
    assert topology.model_nodes[1].inputs == topology.model_nodes[2].inputs


def test_all_problems_come_at_once_in_the_order_of_the_file() -> None:
    broken = """\
topology: 7
sources:
  departures: {topik: a, schema: ../flight.avsc, max_bytes: 1.5, format: jsn}
nodes:
  1st: {kind: model, model: flight-features}
  n: {kind: modle, model: m@1, inputs: {a: {field: x, stack: [y]}, b: [], c: x..y, d: {field: x, missing: []}}}
  n: {kind: model, model: m@1}
sinks:
  s: {topic: a b, fields: {}}
  t: null
extra: 1
"""
    assert problems_in(broken) == [
        "t.yaml:1:11: topology: expected a name (letters, digits, _ and -, not beginning with a digit), found the number 7",
        "t.yaml:3:15: sources.departures: the key 'topic' is missing (add topic: a topic name (letters, digits, '.', '_' and '-'))",
        "t.yaml:3:16: sources.departures: unknown key 'topik' (did you mean 'topic'?)",
        "t.yaml:3:34: sources.departures.schema: '../flight.avsc' is not a file of the schemas folder"
        " (give the path inside the folder, for example flight.avsc)",
        "t.yaml:3:61: sources.departures.max_bytes: expected a whole number from 1 to 104857600, found '1.5'",
        "t.yaml:3:74: sources.departures.format: 'jsn' is not one of json, json-confluent, avro, avro-confluent, protobuf, "
        "protobuf-confluent, bytes (did you mean 'json'?)",
        "t.yaml:5:3: nodes: '1st' is not a name (letters, digits, _ and -, not beginning with a digit) (rename the node)",
        "t.yaml:5:29: nodes.1st.model: 'flight-features' is not name@version or name@alias"
        " (a version begins with a digit, an alias with a letter: flight-features@1 or flight-features@live)",
        "t.yaml:6:13: nodes.n.kind: 'modle' is not one of feature, model, ensemble, rule, window, lookup (did you mean 'model'?)",
        "t.yaml:6:44: nodes.n.inputs.a: exactly one of 'field' or 'stack' or 'reshape' or 'mask' belongs here",
        "t.yaml:6:71: nodes.n.inputs.b: the list is empty (name at least one, or remove the key)",
        "t.yaml:6:78: nodes.n.inputs.c: 'x..y' is not a reference: field, source.field, node or node.output, each with an optional [index]",
        "t.yaml:6:107: nodes.n.inputs.d.missing: expected a number, text or a boolean, found a list",
        "t.yaml:7:3: duplicate key 'n', first on line 6 (keep one of the two)",
        "t.yaml:9:14: sinks.s.topic: 'a b' is not a topic name (letters, digits, '.', '_' and '-')"
        " (rename it, for example flights.departures)",
        "t.yaml:9:27: sinks.s.fields: no field is named here (name at least one field)",
        "t.yaml:10:6: sinks.t: expected a mapping with topic, fields, format, schema, key, when, found nothing",
        "t.yaml:11:1: unknown key 'extra' (known: topology, sources, tables, nodes, sinks, providers, releases, precomputed)",
    ]


def test_file_is_named_in_problems_and_in_the_topology(tmp_path: Path, text: str) -> None:
    path = tmp_path / "flights.yaml"
    path.write_text(text, encoding="utf-8-sig")
    assert parse(path).file == str(path)


@pytest.mark.parametrize(("data", "expected"), [(b"a\n\xff", ":2:1: not UTF-8"), (b"x" * 1_048_577, ":1:1: the file has 1,048,577 bytes")])
def test_bytes_that_are_no_topology(tmp_path: Path, data: bytes, expected: str) -> None:
    path = tmp_path / "flights.yaml"
    path.write_bytes(data)
    with pytest.raises(TopologyError, match=expected):
        parse(path)


@pytest.mark.parametrize("name", ["absent.yaml", ".", "null\0byte", "pipe"])
def test_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TopologyError, match="cannot be read"):
        parse(f"{tmp_path}/{name}")


def test_nothing_is_expanded_from_the_environment(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPIC", "secret")
    assert "'${TOPIC}' is not a topic name" in problems_in(text.replace("flights.predictions", "${TOPIC}"))[0]


def test_providers_are_taken_as_the_file_writes_them(text: str) -> None:
    said = "[{OpenVINOExecutionProvider: {device_type: CPU, num_of_threads: 04, model_priority: true}}, CPUExecutionProvider]"
    topology = parse_text(
        text.replace("flight-trees@live}", f"flight-trees@live, providers: {said}}}") + "providers: [CUDAExecutionProvider]\n"
    )
    options = (("device_type", "CPU"), ("num_of_threads", "04"), ("model_priority", "true"))
    assert topology.providers == (Provider("CUDAExecutionProvider"),)
    assert topology.model_nodes[2].providers == (Provider("OpenVINOExecutionProvider", options), Provider("CPUExecutionProvider"))
    assert topology.model_nodes[1].providers == ()
    assert [(where, len(found)) for where, _, found in topology.provided()] == [("providers", 1), ("nodes.trees.providers", 2)]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("[]", "providers: the list is empty"),
        ("[cuda]", "providers[0]: 'cuda' is not an execution provider, as onnxruntime names it: CUDAExecutionProvider"),
        ("CUDAExecutionProvider", "providers: expected a list, found text"),
        ("[[CUDAExecutionProvider]]", "providers[0]: expected an execution provider or a mapping, found a list"),
        (
            "[{CUDAExecutionProvider: 1}]",
            "providers[0].CUDAExecutionProvider: expected a mapping with a key for each option, found a number",
        ),
        ("[{CUDAExecutionProvider: {device_id: [1]}}]", "device_id: expected a number, text or a boolean, found a list"),
    ],
)
def test_providers_that_are_refused(text: str, said: str, expected: str) -> None:
    (problem,) = problems_in(f"{text}providers: {said}\n")
    assert expected in problem
