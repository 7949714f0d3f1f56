"""The published JSON Schema, the parser and the table are one language."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from penstock.errors import TopologyError
from penstock.topology.language import json_schema
from penstock.topology.parse import parse_text

ROOT = Path(__file__).parents[3]
PUBLISHED = ROOT / "schemas/topology.schema.json"

HEAD = "topology: t\nsources: {s: {topic: a, schema: a.avsc}}\n"
NODES = "nodes: {n: {kind: model, model: m@1}}\n"
SINKS = "sinks: {p: {topic: b, fields: [n]}}\n"

GOOD = [
    HEAD + NODES + SINKS,
    HEAD + NODES + "sinks: {p: {topic: b, format: avro, schema: deep/er/b.avsc, key: s.id, fields: {x: 'n.y[0]'}}}\n",
    HEAD + "nodes: {n: {kind: ensemble, model: m@live, inputs: {x: a, y: [a, b], z: {field: a, missing: nan}}}}\n" + SINKS,
    HEAD + "nodes: {n: {kind: feature, model: m@1.2-rc, inputs: {'onnx::Gemm_0': {stack: [a, n.b/c:0], missing: true}}}}\n" + SINKS,
    HEAD + "nodes: {n: {kind: model, model: m@1, inputs: {}}}\n" + SINKS,
    HEAD + "nodes: {n: {kind: model, model: m@1, require: {auc: '>= 0.85', log loss: '<-1.5e-3'}}}\n" + SINKS,
    HEAD + "nodes: {n: {kind: model, model: m@1, parameters: {w: [0.5, 1], 'on': true, m: [[a, 1], [false]]}}}\n" + SINKS,
    HEAD + "nodes: {n: {kind: model, model: m@1, parameters: {}}}\n" + SINKS,
    HEAD + NODES + SINKS + "releases: {}\n",
    HEAD + NODES + SINKS + "releases: {signatures: 'off', on_invalid: rollback, check_every: 0, unit: u.id, control: c, status: d}\n",
    "topology: t\nsources: {s: {topic: a, schema: a.avsc, format: avro-confluent, id: i, time: t, dead_letter: d, max_bytes: 1}}\n"
    + NODES
    + SINKS,
]

BAD = [
    "[]",
    "topology: t",
    HEAD + NODES,
    HEAD + "nodes: {}\n" + SINKS,
    HEAD + NODES + SINKS + "more: 1",
    HEAD + "nodes: {n: {kind: model, model: m@1, require: {}}}\n" + SINKS,
    HEAD + "nodes: {n: {kind: model, model: m@1, require: {auc: 0.85}}}\n" + SINKS,
    HEAD + "nodes: {n: {kind: model, model: m@1, require: {auc: '0.85'}}}\n" + SINKS,
    HEAD + "nodes: {n: {kind: model, model: m@1, require: {'': '< 1'}}}\n" + SINKS,
    HEAD + "nodes: {n: {kind: model, model: m@1, parameters: [1]}}\n" + SINKS,
    HEAD + "nodes: {n: {kind: model, model: m@1, parameters: {w: null}}}\n" + SINKS,
    HEAD + "nodes: {n: {kind: model, model: m@1, parameters: {w: []}}}\n" + SINKS,
    HEAD + "nodes: {n: {kind: model, model: m@1, parameters: {w: [1, []]}}}\n" + SINKS,
    HEAD + "nodes: {n: {kind: model, model: m@1, parameters: {w: [{a: 1}]}}}\n" + SINKS,
    HEAD + NODES + SINKS + "releases:\n",
    HEAD + NODES + SINKS + "releases: {signatures: false}\n",
    HEAD + NODES + SINKS + "releases: {check_every: -1}\n",
    HEAD + NODES + SINKS + "releases: {check_every: 1.5}\n",
    HEAD + NODES + SINKS + "releases: {control: ''}\n",
    HEAD + NODES + SINKS + "releases: {unit: a b}\n",
    HEAD + NODES + "sinks: {p: {topic: b}}",
    HEAD + NODES + "sinks: {p: {topic: b, fields: []}}",
    HEAD + NODES + "sinks: {p: {topic: b, fields: n}}",
    HEAD + NODES + "sinks: {p: {topic: b, fields: {a-b: n}}}",
    HEAD + NODES + "sinks: {p: {topic: b/c, fields: [n]}}",
    HEAD + NODES + "sinks: {p: {topic: 1, fields: [n]}}",
    HEAD + NODES + "sinks: {1p: {topic: b, fields: [n]}}",
    HEAD + "nodes: {n: {kind: models, model: m@1}}\n" + SINKS,
    HEAD + "nodes: {n: {kind: model, model: m}}\n" + SINKS,
    HEAD + "nodes: {n: {kind: model, model: m@1, inputs: []}}\n" + SINKS,
    HEAD + "nodes: {n: {kind: model, model: m@1, inputs: {x: {}}}}\n" + SINKS,
    HEAD + "nodes: {n: {kind: model, model: m@1, inputs: {x: {field: a, stack: [a]}}}}\n" + SINKS,
    HEAD + "nodes: {n: {kind: model, model: m@1, inputs: {x: {field: a, missing: null}}}}\n" + SINKS,
    HEAD + "nodes: {n: {kind: model, model: m@1, inputs: {x: 'a[-1]'}}}\n" + SINKS,
    "topology: t\nsources: {s: {topic: a, schema: ../a.avsc}}\n" + NODES + SINKS,
    "topology: t\nsources: {s: {topic: a, schema: a.avsc, max_bytes: 0}}\n" + NODES + SINKS,
    "topology: t\nsources: {s: {topic: a, schema: a.avsc, max_bytes: '1'}}\n" + NODES + SINKS,
    "topology: t\nsources: {s: {topic: a, schema: a.avsc, max_bytes: true}}\n" + NODES + SINKS,
]

FILES = [file for file in sorted((PUBLISHED.parents[1] / "topologies").glob("*.yaml")) if not file.name.endswith(".test.yaml")]


@pytest.fixture(scope="module")
def published() -> Any:
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))


def test_published_schema_is_in_step(published: Any) -> None:
    assert published == json_schema(), "write json_schema() to the file anew"


def test_published_schema_is_a_schema(published: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(published)


@pytest.mark.parametrize("text", GOOD)
def test_parser_and_schema_accept_the_same(published: Any, text: str) -> None:
    jsonschema.Draft202012Validator(published).validate(yaml.safe_load(text))
    parse_text(text)


@pytest.mark.parametrize("text", BAD)
def test_parser_and_schema_refuse_the_same(published: Any, text: str) -> None:
    assert not jsonschema.Draft202012Validator(published).is_valid(yaml.safe_load(text))
    with pytest.raises(TopologyError):
        parse_text(text)


@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
def test_editors_find_the_schema_from_a_topology_file(published: Any, file: Path) -> None:
    """Its first line leads to the published schema, and the file is what that schema allows."""
    text = file.read_text(encoding="utf-8")
    key, _, path = text.splitlines()[0].partition("$schema=")
    assert (key, (file.parent / path).resolve()) == ("# yaml-language-server: ", PUBLISHED)
    jsonschema.Draft202012Validator(published).validate(yaml.safe_load(text))


def test_every_key_says_what_it_is_for(published: Any) -> None:
    def properties(schema: Any) -> list[Any]:
        if isinstance(schema, list):
            return [found for item in schema for found in properties(item)]
        if not isinstance(schema, dict):
            return []
        here = list(schema.get("properties", {}).values())
        return here + [found for item in schema.values() for found in properties(item)]

    found = properties(published)
    assert len(found) > 20
    assert all(one["description"].endswith(".") for one in found)
