"""One check says whether versions fit a topology: of what is bound, of all that is wrong at once, and only of what is asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from penstock.codecs import load_schema
from penstock.errors import Problem
from penstock.fit import as_bound, fit, strays
from penstock.model.artifact import Artifact
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from penstock.topology.parse import parse_text
from penstock.topology.spec import ModelRef, Topology

TEXT = """\
topology: payments
sources: {cards: {topic: cards, schema: card.avsc}}
nodes:
  scaled: {kind: feature, model: scale@1, inputs: {x: amount}}
  score: {kind: model, model: score@1, inputs: {a: scaled}, parameters: {b: 0.5}, require: {auc: ">= 0.5"}}
sinks: {scores: {topic: scores, fields: {score: score}}}
"""
SCHEMA = '{"type": "record", "name": "Card", "fields": [{"name": "amount", "type": "double"}]}'


Parameters = Mapping[str, Mapping[str, object]]


class World:
    """score@2 has too low an AUC, score@3 takes other tensors."""

    def __init__(self, folder: Path) -> None:
        (folder / "card.avsc").write_text(SCHEMA)
        self.topology: Topology = parse_text(TEXT)
        self.schemas = {"cards": load_schema(folder / "card.avsc")}
        self.registry = DirectoryRegistry(folder / "models")
        self.registry.publish("scale", models.linear([1.0]))
        self.registry.publish("score", models.add(), metrics={"auc": 0.7})
        self.registry.publish("score", models.add(), metrics={"auc": 0.4})
        self.registry.publish("score", models.add(a="p", b="q"), metrics={"auc": 0.4})

    def versions(self, score: str) -> dict[str, Artifact]:
        return {"scaled": self.registry.resolve("scale", "1"), "score": self.registry.resolve("score", score)}

    def problems(
        self, score: str, parameters: Mapping[str, Mapping[str, object]] | None = None, judged: set[str] | None = None
    ) -> list[str]:
        topology = as_bound(self.topology, {"score": ModelRef("score", score)})
        return [one.message for one in fit(topology, self.schemas, {}, self.versions(score), parameters, judged=judged)[1]]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_versions_that_fit_give_the_wiring_whole(world: World) -> None:
    wiring, problems = fit(world.topology, world.schemas, {}, world.versions("1"), {"score": {"b": 2.0}})
    assert problems == []
    (stage,) = wiring.stages
    assert [step.node.name for step in stage.steps] == ["scaled", "score"]


def test_everything_that_is_wrong_comes_at_once_and_names_the_version(world: World) -> None:
    found = world.problems("3", {"score": {"b": "x", "c": 1}})
    for part in (
        "score@3 has no input tensor 'a'",
        "nodes.score.require: score@3: auc is 0.4, required is >= 0.5",
        "nodes.score.parameters: the topology declares no parameter 'c'",
    ):
        assert any(part in one for one in found), (part, found)
    assert len(set(found)) == len(found)


def test_what_serves_already_is_not_asked_again(world: World) -> None:
    """A requirement that was made stricter is no reason to refuse a release that changes another node."""
    assert world.problems("2", {"score": {"c": 1}}, judged={"scaled"}) == []
    assert len(world.problems("2", {"score": {"c": 1}}, judged={"score"})) == 2


def test_the_files_own_parameters_are_not_held_to_be_anothers(world: World) -> None:
    assert world.problems("1") == []
    assert world.problems("1", {}) == []


def test_a_version_that_could_not_be_had_is_passed_over(world: World) -> None:
    assert fit(world.topology, world.schemas, {}, {"scaled": world.registry.resolve("scale", "1")})[1] == []


def test_what_is_bound_are_the_nodes_and_nothing_else(world: World) -> None:
    assert strays(world.topology, ["score", "scaled"]) == []
    found = strays(world.topology, ["scaled", "more"], by="generation 3", fix="look")
    assert [(one.message, one.line, one.fix) for one in found] == [
        ("the topology payments has no node 'more', which generation 3 binds", 0, "look"),
        ("nodes.score: generation 3 does not bind it, and it has to bind every node", 5, "look"),
    ]
    assert isinstance(found[0], Problem)
