"""`validate`, `plan` and `draw`: what they say, where, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from penstock.cli.main import cli, main
from penstock.cli.topology import draw, plan, validate
from penstock.errors import TopologyError
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models as tiny

TEXT = """\
topology: payments
sources: {cards: {topic: cards, schema: card.avsc, id: id}}
nodes:
  scaled: {kind: feature, model: scale@1, inputs: {x: {field: amount, missing: nan}}}
  score: {kind: model, model: score@live, inputs: {x: scaled}}
sinks: {scores: {topic: scores, key: id, fields: {id: id, score: score, amount: amount}}}
"""
CARD = {
    "type": "record",
    "name": "Card",
    "fields": [{"name": "id", "type": "string"}, {"name": "amount", "type": ["null", "double"], "default": None}],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "good.yaml").write_text(TEXT)
    (tmp_path / "bad.yaml").write_text(TEXT.replace("x: scaled", "x: scald").replace("score: score", "score: scor"))
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas/card.avsc").write_text(json.dumps(CARD))
    registry = DirectoryRegistry(tmp_path / "models")
    registry.publish("scale", tiny.identity())
    registry.publish("score", tiny.identity())
    registry.alias("score", "live", "1")
    return tmp_path


def run(command: click.Command, root: Path, file: str, *options: str) -> Result:
    """As the program does: through the group, which hands its settings of help and width down to the command."""
    arguments = [str(command.name), str(root / file), "--models", str(root / "models"), "--schemas", str(root / "schemas"), *options]
    return CliRunner().invoke(cli, arguments)


def test_validate_sums_up_what_is_right(root: Path) -> None:
    result = run(validate, root, "good.yaml")
    assert result.exit_code == 0
    assert result.stdout == f"{root}/good.yaml: payments is valid: 1 source, 2 nodes, 1 sink\n"


def test_validate_lists_every_problem_and_exits_2(root: Path) -> None:
    result = run(validate, root, "bad.yaml")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"{root}/bad.yaml:5:55: nodes.score.inputs.x: 'scald' is neither a field nor a node (did you mean 'scaled'?)",
        f"{root}/bad.yaml:6:66: sinks.scores.fields.score: 'scor' is neither a field nor a node (did you mean 'score'?)",
        f"{root}/bad.yaml: 2 problems",
    ]


def test_validate_as_json(root: Path) -> None:
    good, bad = run(validate, root, "good.yaml", "--format", "json"), run(validate, root, "bad.yaml", "--format", "json")
    assert json.loads(good.stdout) == {"valid": True, "problems": [], "topology": "payments", "sources": 1, "nodes": 2, "sinks": 1}
    assert bad.exit_code == 2
    assert json.loads(bad.stdout)["problems"][0] == {
        "file": f"{root}/bad.yaml",
        "line": 5,
        "column": 55,
        "message": "nodes.score.inputs.x: 'scald' is neither a field nor a node",
        "fix": "did you mean 'scaled'?",
    }


def test_validate_of_a_file_that_is_not_there(root: Path) -> None:
    result = run(validate, root, "absent.yaml")
    assert result.exit_code == 2
    assert "absent.yaml: cannot be read: No such file or directory" in result.stderr


def test_plan_names_columns_steps_and_topics(root: Path) -> None:
    shown = run(plan, root, "good.yaml").stdout
    for expected in (
        "source cards: cards (json, card.avsc)",
        "records that cannot be scored are written to cards.dead-letter",
        "float32[N]",
        "score@1 (live)",
        "x: float32[N, 1] <- scaled.y",
        "score <- score.y[0]",
    ):
        assert expected in shown, shown


@pytest.mark.parametrize(
    ("envelope", "said"),
    [
        ("cloudevents, types: [card.used, card.lost]", "CloudEvents of the types card.used, card.lost: others are skipped"),
        ("cloudevents", "CloudEvents of all types"),
    ],
)
def test_plan_says_what_an_envelope_skips(root: Path, envelope: str, said: str) -> None:
    text = (root / "good.yaml").read_text()
    (root / "enveloped.yaml").write_text(text.replace("schema: card.avsc", f"schema: card.avsc, envelope: {envelope}"))
    assert said in run(plan, root, "enveloped.yaml").stdout
    (stage,) = json.loads(run(plan, root, "enveloped.yaml", "--format", "json").stdout)["stages"]
    assert stage["inputs"][0]["envelope"] == "cloudevents"


def test_plan_as_json(root: Path) -> None:
    shown = json.loads(run(plan, root, "good.yaml", "--format", "json").stdout)
    (stage,) = shown["stages"]
    (read,) = stage["inputs"]
    assert (stage["stage"], read["source"], read["dead_letter"], read["written_by"]) == ("cards", "cards", "cards.dead-letter", [])
    assert [(one["name"], one["dtype"], one["missing"]) for one in read["columns"]] == [
        ("amount", "float32", "nan"),
        ("id", "string", "rejected"),
        ("amount:float64", "float64", "null"),
    ]
    assert [(step["node"], step["version"], step["inputs"], step["outputs"]) for step in stage["steps"]] == [
        ("scaled", "1", {"x": ["amount"]}, ["y"]),
        ("score", "1", {"x": ["scaled.y"]}, ["y"]),
    ]
    assert stage["sinks"][0]["key"] == "id"
    assert stage["sinks"][0]["fields"]["score"] == {"from": "score.y[0]", "type": "float32[N]"}


def test_plan_of_a_topology_that_is_cut_has_its_stages_groups_and_what_each_topic_costs(root: Path) -> None:
    text = TEXT.replace("{x: {field: amount, missing: nan}}}", "{x: {field: amount, missing: nan}}, materialize: {retention: 90m}}")
    (root / "cut.yaml").write_text(text)
    shown = run(plan, root, "cut.yaml").stdout
    for expected in ("stage scaled: consumer group penstock.payments.scaled", "outputs of the node scaled", "1.5 h", "lz4"):
        assert expected in shown, shown
    found = json.loads(run(plan, root, "cut.yaml", "--format", "json", "--application", "shop").stdout)
    assert [(one["stage"], one["group"]) for one in found["stages"]] == [
        ("scaled", "shop.payments.scaled"), ("scores", "shop.payments.scores"),
    ]  # fmt: skip
    (between,) = found["between"]
    assert (between["node"], between["topic"], between["retention_ms"]) == ("scaled", "shop.payments.scaled", 5_400_000)
    assert between["bytes"] == 24, (
        "an array of one float with two counts, a text of 8 with its length, and a double or null with its branch"
    )
    assert min(between["write_us"], between["read_us"]) > 0


@pytest.fixture
def chained(root: Path) -> Path:
    """A second stage, first in the file, that reads the scores of the first."""
    text = TEXT.replace("sources: {cards", "sources: {scored: {topic: scores, schema: scored.avsc}, cards")
    text = text.replace("nodes:", "nodes:\n  again: {kind: model, model: score@live, inputs: {x: scored.score}}")
    text = text.replace("{id: id, score: score, amount: amount}}}", "{score: score.y}}, last: {topic: last, fields: [again]}}")
    (root / "chain.yaml").write_text(text.replace("key: id", "key: cards.id"))
    scored = {"type": "record", "name": "Scored", "fields": [{"name": "score", "type": "float"}]}
    (root / "schemas/scored.avsc").write_text(json.dumps(scored))
    return root


def test_plan_shows_stages_in_the_order_of_the_chain(chained: Path) -> None:
    shown = run(plan, chained, "chain.yaml").stdout
    heads = [line for line in shown.splitlines() if line.startswith("source ")]
    assert heads == ["source cards: cards (json, card.avsc)", "source scored: scores (json, scored.avsc), written by the sink scores"]
    first, second = json.loads(run(plan, chained, "chain.yaml", "--format", "json").stdout)["stages"]
    assert [(one["source"], one["written_by"]) for one in first["inputs"] + second["inputs"]] == [("cards", []), ("scored", ["scores"])]
    assert [step["node"] for step in second["steps"]] == ["again"]


def test_validate_and_draw_know_a_chain(chained: Path) -> None:
    assert run(validate, chained, "chain.yaml").stdout.endswith("payments is valid: 2 sources, 3 nodes, 2 sinks\n")
    drawn = [line.split()[1:3] for line in run(draw, chained, "chain.yaml").stdout.replace("│", "").splitlines()[1:]]
    assert [name for name in drawn if name[0] in ("source", "sink")] == [
        ["source", "cards"],
        ["sink", "scores"],
        ["source", "scored"],
        ["sink", "last"],
    ]


def test_validate_names_both_lines_of_a_chain_that_does_not_fit(chained: Path) -> None:
    text = (chained / "chain.yaml").read_text()
    (chained / "chain.yaml").write_text(text.replace("{score: score.y}", "{result: score.y}"))
    result = run(validate, chained, "chain.yaml")
    assert result.exit_code == 2
    unknown, lacking, _ = result.stderr.splitlines()
    where = "the schema of the source 'scored' on line 2"
    assert f"sinks.scores: {where} requires 'score', which the sink does not write" in unknown
    assert f"sinks.scores.fields.result: {where} has no field 'result'" in lacking


@pytest.fixture
def weighted(root: Path) -> Path:
    """A topology with a stacked input and parameters beside it."""
    text = TEXT.replace("score@live, inputs: {x: scaled}", "add@1, inputs: {a: [scaled]}, parameters: {b: 0.25}")
    (root / "weighted.yaml").write_text(text.replace("x: {field: amount, missing: nan}", "x: {stack: [amount], missing: nan}"))
    DirectoryRegistry(root / "models").publish("add", tiny.add())
    return root


def test_plan_shows_stacked_inputs_and_parameters(weighted: Path) -> None:
    shown = run(plan, weighted, "weighted.yaml").stdout
    for expected in ("x: float32[N, 1] <- [amount]", "a: float32[N, 1] <- [scaled.y]", "b: float32[N, 1] = 0.25"):
        assert expected in shown, shown


def test_plan_as_json_tells_parameters_from_inputs(weighted: Path) -> None:
    (stage,) = json.loads(run(plan, weighted, "weighted.yaml", "--format", "json").stdout)["stages"]
    assert [(step["inputs"], step["parameters"]) for step in stage["steps"]] == [
        ({"x": ["amount"]}, {}),
        ({"a": ["scaled.y"]}, {"b": 0.25}),
    ]


@pytest.mark.parametrize("style", ["text", "mermaid"])
def test_drawing_shows_parameters(weighted: Path, style: str) -> None:
    assert "add@1; b: 0.25" in run(draw, weighted, "weighted.yaml", "--as", style).stdout


def test_plan_of_what_is_not_valid_raises(root: Path) -> None:
    """The command line turns it into a list and exit code 2."""
    assert isinstance(run(plan, root, "bad.yaml").exception, TopologyError)


@pytest.mark.parametrize(("style", "expected"), [("text", "╰───┴─●  sink"), ("mermaid", "flowchart LR")])
def test_draw(root: Path, style: str, expected: str) -> None:
    result = run(draw, root, "good.yaml", "--as", style)
    assert expected in result.stdout, result.stdout
    assert result.stderr == ""


def test_draw_shows_what_is_not_valid_yet_and_says_so(root: Path) -> None:
    result = run(draw, root, "bad.yaml")
    assert result.exit_code == 0
    assert "payments" in result.stdout
    assert "penstock validate" in result.stderr


@pytest.mark.parametrize("command", ["validate", "plan", "draw", "test"])
def test_topology_is_found_by_its_name(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The same function serves every command: a name, a path, and a name that is nearly right."""
    monkeypatch.chdir(Path(__file__).parents[3])
    assert main([command, "flights"]) == 0
    assert main([command, "topologies/flights.yaml"]) == 0
    capsys.readouterr()
    assert main([command, "flihgts"]) == 2
    assert capsys.readouterr().err == "error: 'flihgts' is neither a file nor a topology in topologies (did you mean 'flights'?)\n"
