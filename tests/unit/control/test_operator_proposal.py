"""What a release is going to bind: what is bound now, with what was asked for, every name resolved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.binding import Binding
from penstock.control.fleet import Worker
from penstock.control.log import Log
from penstock.control.messages import Abort, Activate, Message, Promote, Release, encode, new_id, parse, timestamp
from penstock.control.proposal import Change, Proposal, bind, bound_now, changes_of, find, propose, restore
from penstock.control.rights import Admitted
from penstock.control.strategy import Canary
from penstock.errors import ConfigError, ControlError, ModelCorrupt, ModelNotFound, TopologyError
from penstock.operate.aliases import moves
from penstock.operate.precheck import precheck
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models as tiny
from penstock.topology.parse import parse_text
from penstock.topology.spec import ModelRef, Topology
from penstock.transports.kafka.journal import Entry
from tests.unit.control.fleets import worker

TOPOLOGY = """\
topology: payments
sources: {cards: {topic: cards, schema: card.avsc, id: id}}
nodes:
  scaled: {kind: feature, model: scale@1, inputs: {x: amount}}
  score: {kind: model, model: score@production, inputs: {a: scaled}, parameters: {b: 0.5}, require: {auc: ">= 0.5"}}
sinks: {scores: {topic: scores, fields: {id: id, score: score}}}
"""
SCHEMA = '{"type": "record", "name": "Card", "fields": [{"name": "id", "type": "string"}, {"name": "amount", "type": "double"}]}'


class World:
    """A topology, a registry with scale@1 and score@1..4 (production: 1), and a log to write to.

    score@3 takes other tensors, and score@4 has too low an AUC.
    """

    def __init__(self, folder: Path) -> None:
        self.schemas = folder / "schemas"
        self.schemas.mkdir()
        (self.schemas / "card.avsc").write_text(SCHEMA)
        self.registry = DirectoryRegistry(folder / "models")
        self.registry.publish("scale", tiny.linear([1.0]))
        self.registry.publish("score", tiny.add(), metrics={"auc": 0.7})
        self.registry.publish("score", tiny.mean(), metrics={"auc": 0.8})
        self.registry.publish("score", tiny.add(a="p", b="q"), metrics={"auc": 0.8})
        self.registry.publish("score", tiny.mean(), metrics={"auc": 0.4})
        self.registry.alias("score", "production", "1")
        self.topology: Topology = parse_text(TOPOLOGY)
        self.workers: list[Worker] = []
        self.log = Log(lambda entry: Admitted(parse(entry.value or b"")))

    def now(self) -> dict[str, Binding]:
        return bound_now(self.topology, self.log, self.workers, self.registry)

    def propose(self, **changes: str | Change) -> Proposal:
        wanted = {node: Change.to(one) if isinstance(one, str) else one for node, one in changes.items()}
        return propose(self.topology, self.log, self.now(), wanted, self.registry)

    def restore(self, to: str | int | None = None) -> Proposal:
        return restore(self.log, self.now(), to)

    def check(self, **changes: str | Change) -> None:
        precheck(self.topology, self.propose(**changes), self.registry, self.schemas)

    def say(self, message: Message) -> None:
        self.log.apply(Entry(self.log.position, 0, True, message.id.encode(), encode(message)))

    def announce(self, proposal: Proposal) -> Release:
        made = Release(
            **opening(new_id()), base=proposal.base, bindings=dict(proposal.bindings), baseline=dict(proposal.baseline),
            restores=proposal.restores, aliases=dict(proposal.aliases), strategy=proposal.strategy,
        )  # fmt: skip
        self.say(made)
        return made

    def put_in_force(self, proposal: Proposal) -> Release:
        release = self.announce(proposal)
        self.say(Activate(**opening(release.id)))
        return release

    def on_trial(self, reference: str) -> Release:
        """A canary of two steps, at its first one."""
        wanted = {"score": Change.to(reference)}
        return self.put_in_force(propose(self.topology, self.log, self.now(), wanted, self.registry, Canary((0.05, 0.25))))

    def promote(self, release: Release) -> None:
        self.say(Promote(**opening(release.id), base=self.log.generation))

    def due(self) -> list[str]:
        return list(moves(self.topology, self.log, self.now(), self.registry).words)


def opening(id: str) -> dict[str, Any]:
    return {"id": id, "topology": "payments", "cluster": "c", "control_topic": "control", "time": timestamp(), "author": "alice"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def shown(bindings: object) -> dict[str, str]:
    assert isinstance(bindings, dict)
    return {node: str(binding) for node, binding in bindings.items()}


# --- what is bound now ------------------------------------------------------------------------------------------------


def test_at_first_the_topology_file_binds(world: World) -> None:
    now = world.now()
    assert shown(now) == {"scaled": "scale@1", "score": "score@1"}
    assert now["score"].parameters == {"b": 0.5}
    artifact = world.registry.resolve("score", "1")
    assert (now["score"].digest, now["score"].manifest) == (artifact.digest, artifact.manifest_digest)


def test_alias_that_moved_since_the_workers_started_changes_nothing_by_itself(world: World) -> None:
    """They serve score@1, so a release of another node must not bring score@2 along."""
    world.workers = [worker("a", models={"score": "score@1"}), worker("b", models={"score": "score@1"})]
    world.registry.alias("score", "production", "2")
    assert shown(world.now())["score"] == "score@1"


def test_workers_that_disagree_are_not_asked(world: World) -> None:
    world.workers = [worker("a", models={"score": "score@1"}), worker("b", models={"score": "score@2"})]
    world.registry.alias("score", "production", "2")
    assert shown(world.now())["score"] == "score@2"


def test_lost_workers_and_those_of_another_generation_are_not_asked(world: World) -> None:
    world.workers = [worker("a", live=False, models={"score": "score@2"}), worker("b", generation=3, models={"score": "score@4"})]
    assert shown(world.now())["score"] == "score@1"


def test_later_the_log_binds_even_where_the_registry_has_lost_the_version(world: World) -> None:
    world.put_in_force(world.propose(score="score@2"))
    world.registry = DirectoryRegistry(world.schemas)  # an empty one
    assert shown(world.now()) == {"scaled": "scale@1", "score": "score@2"}


# --- proposals --------------------------------------------------------------------------------------------------------


def test_proposal_binds_every_node_and_says_what_differs(world: World) -> None:
    made = world.propose(score="score@2")
    assert shown(made.bindings) == {"scaled": "scale@1", "score": "score@2"}
    assert [str(one) for one in made.differences] == ["score: score@1 → score@2"]
    assert (made.base, made.baseline, made.aliases) == (0, world.now(), {})


def test_baseline_is_said_once(world: World) -> None:
    world.put_in_force(world.propose(score="score@2"))
    assert world.propose(score="score@1").baseline == {}


def test_alias_becomes_a_version_and_is_said_too(world: World) -> None:
    world.registry.alias("score", "canary", "2")
    made = world.propose(score="score@canary")
    assert shown(made.bindings)["score"] == "score@2"
    assert made.aliases == {"score": "score@canary"}


def test_parameters_stay_change_and_come_back_to_the_files(world: World) -> None:
    made = world.propose(score=Change(parameters={"b": 0.25}))
    assert [str(one) for one in made.differences] == ["score: score@1, b 0.5 → 0.25"]
    world.put_in_force(made)
    assert world.propose(score="score@2").bindings["score"].parameters == {"b": 0.25}
    assert world.propose(score=Change(parameters={"b": None})).bindings["score"].parameters == {"b": 0.5}
    both = world.propose(score=Change(ModelRef("score", "2"), {"b": 1.0}))
    assert [str(one) for one in both.differences] == ["score: score@1 → score@2, b 0.25 → 1.0"]


def test_change_that_changes_nothing_is_an_error_that_says_what_is_bound(world: World) -> None:
    with pytest.raises(
        ControlError, match=r"changes nothing: generation 0 has these bindings already \(scaled scale@1, score score@1\)"
    ) as error:
        world.propose(score="score@production")
    assert error.value.code == "no-change"


def test_unknown_nodes_are_all_told_with_what_was_meant(world: World) -> None:
    with pytest.raises(ConfigError) as error:
        world.propose(scor="score@2", nothing="scale@1")
    assert str(error.value).splitlines() == [
        "payments has no node 'scor' (did you mean 'score'?)",
        "payments has no node 'nothing' (known: scaled, score)",
    ]


def test_version_that_is_not_there_is_told(world: World) -> None:
    with pytest.raises(ModelNotFound, match="score"):
        world.propose(score="score@9")


@pytest.mark.parametrize("text", ["score", "score@", "@2", ""])
def test_reference_without_a_version_is_no_reference(text: str) -> None:
    with pytest.raises(ConfigError, match="write NAME@VERSION"):
        Change.to(text)


# --- going back -------------------------------------------------------------------------------------------------------


def test_rollback_goes_to_the_generation_before_and_a_second_one_never_forward(world: World) -> None:
    """A second rollback in a hurry must not bring back the model that the first one took back."""
    world.put_in_force(world.propose(score="score@2"))
    world.put_in_force(world.propose(score="score@4"))
    back = world.restore()
    assert (shown(back.bindings)["score"], back.restores) == ("score@2", 1)
    world.put_in_force(back)
    further = world.restore()
    assert (shown(further.bindings)["score"], further.restores) == ("score@1", 0)
    world.put_in_force(further)
    with pytest.raises(ControlError, match=r"generation 4 has taken everything back.*name a generation"):
        world.restore()
    assert shown(world.restore(2).bindings)["score"] == "score@4", "by its number it can be had again"


def test_rollback_of_what_came_after_a_rollback_goes_to_what_that_restored(world: World) -> None:
    world.put_in_force(world.propose(score="score@2"))
    world.put_in_force(world.restore())
    world.put_in_force(world.propose(score="score@4"))
    back = world.restore()
    assert (shown(back.bindings)["score"], back.restores) == ("score@1", 2)
    world.put_in_force(back)
    with pytest.raises(ControlError, match="taken everything back"):
        world.restore()


def test_rollback_goes_to_what_was_live_before_and_not_to_a_step_of_a_trial(world: World) -> None:
    world.put_in_force(world.propose(score="score@2"))
    tried = world.on_trial("score@4")
    for _ in range(2):
        world.promote(tried)
    assert (world.log.generation, shown(world.now())["score"]) == (4, "score@4")
    back = world.restore()
    assert (shown(back.bindings)["score"], back.restores) == ("score@2", 1)
    assert world.restore(3).restores == 3, "by its number"
    world.put_in_force(back)
    assert world.restore().restores == 0, "the second goes further back"


def test_rollback_after_a_trial_that_was_aborted_goes_to_what_was_before_the_live_one(world: World) -> None:
    world.put_in_force(world.propose(score="score@2"))
    tried = world.on_trial("score@4")
    assert shown(world.now())["score"] == "score@2", "what is proposed is compared with what is live"
    world.say(Abort(**opening(tried.id)))
    assert world.propose(score="score@4").base == 3
    assert (shown(world.restore().bindings)["score"], world.restore().restores) == ("score@1", 0)
    with pytest.raises(ControlError, match=f"release {tried.id} was never active"):
        world.restore(tried.id)


def test_trial_of_the_first_release_is_beside_what_the_file_binds(world: World) -> None:
    tried = world.on_trial("score@2")
    assert shown(world.now()) == {"scaled": "scale@1", "score": "score@1"}
    with pytest.raises(ControlError, match="taken everything back"):
        world.restore()
    for _ in range(2):
        world.promote(tried)
    assert [str(one) for one in changes_of(world.log, tried)] == ["score: score@1 → score@2"]
    assert world.restore().restores == 0


def test_rollback_finds_a_generation_by_number_and_by_release(world: World) -> None:
    first = world.put_in_force(world.propose(score="score@2"))
    world.put_in_force(world.propose(scaled=Change.to("scale@1"), score="score@4"))
    world.put_in_force(world.propose(score="score@1"))
    assert shown(world.restore(2).bindings)["score"] == "score@4"
    assert shown(world.restore("2").bindings)["score"] == "score@4"
    assert world.restore(first.id).restores == 1
    with pytest.raises(ControlError, match="there is no release '09'"):  # and not generation 9
        world.restore("09")


def test_rollback_that_cannot_be_says_why(world: World) -> None:
    with pytest.raises(ControlError, match="there is no release yet"):
        world.restore()
    with pytest.raises(ControlError, match="no generation 5: the newest is 0"):
        world.restore(5)
    pending = world.announce(world.propose(score="score@4"))
    with pytest.raises(ControlError, match="was never active"):
        world.restore(pending.id)
    world.put_in_force(world.propose(score="score@2"))
    with pytest.raises(ControlError, match="changes nothing"):
        world.restore(1)


def test_baseline_that_nobody_said_cannot_be_gone_back_to(world: World) -> None:
    made = world.propose(score="score@2")
    world.put_in_force(Proposal(0, made.bindings, made.differences))
    with pytest.raises(ControlError, match="generation 0: its bindings are not recorded"):
        world.restore()


def test_release_is_found_by_the_beginning_of_its_id(world: World) -> None:
    release = world.announce(world.propose(score="score@2"))
    other = world.announce(world.propose(score="score@4"))
    assert find(world.log, release.id.upper()).release == release
    with pytest.raises(ControlError, match=f"the beginning of 2 release ids; write more of it: {release.id}, {other.id}"):
        find(world.log, release.id[:4])
    for nothing in ("", "ffff"):
        with pytest.raises(ControlError, match="there is no release"):
            find(world.log, nothing)


def test_changes_of_a_release_are_those_of_the_generation_it_was_made_for(world: World) -> None:
    first = world.put_in_force(world.propose(score="score@2"))
    second = world.put_in_force(world.propose(score="score@4"))
    assert [str(one) for one in changes_of(world.log, first)] == ["score: score@1 → score@2"]
    assert [str(one) for one in changes_of(world.log, second)] == ["score: score@2 → score@4"]


# --- what can be found wrong beforehand -------------------------------------------------------------------------------


def test_proposal_that_fits_passes(world: World) -> None:
    world.check(score="score@2")


def test_everything_that_does_not_fit_is_told_at_once(world: World) -> None:
    with pytest.raises(TopologyError) as error:
        world.check(score=Change(ModelRef("score", "4"), {"b": "x", "c": 1}))
    text = str(error.value)
    assert "nodes.score.require: score@4: auc is 0.4, required is >= 0.5" in text
    assert "nodes.score.parameters.b:" in text
    assert "declares no parameter 'c'" in text


def test_tensors_that_differ_are_told(world: World) -> None:
    with pytest.raises(TopologyError, match="score@3 has no input tensor 'a'"):
        world.check(score="score@3")


def test_file_that_is_not_what_was_pushed_is_told(world: World) -> None:
    file = world.registry.resolve("score", "2").path / "model.onnx"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(ModelCorrupt, match="is not the file that was pushed"):
        world.check(score="score@2")


def test_version_that_stays_is_not_asked_for(world: World) -> None:
    """It serves already; this registry need not have it."""
    world.put_in_force(world.propose(score="score@2"))
    made = world.propose(score=Change(parameters={"b": 0.1}))
    precheck(world.topology, made, DirectoryRegistry(world.schemas), world.schemas)


# --- aliases ----------------------------------------------------------------------------------------------------------


def test_alias_that_moves_makes_a_release_due_until_one_was_made(world: World) -> None:
    world.put_in_force(world.propose(score=Change(parameters={"b": 0.1})))
    assert world.due() == []
    world.registry.alias("score", "production", "2")
    assert world.due() == ["score@production moved from 1 to 2"]
    world.put_in_force(world.propose(score="score@production"))
    assert world.due() == []


def test_person_who_rolled_back_is_not_overruled(world: World) -> None:
    world.registry.alias("score", "production", "2")
    world.workers = [worker("a", models={"scaled": "scale@1", "score": "score@1"})]
    assert world.due() == ["score@production moved from 1 to 2"]
    world.put_in_force(world.propose(score="score@production"))
    world.put_in_force(world.restore())
    assert world.due() == []
    world.registry.alias("score", "production", "4")
    assert world.due() == ["score@production moved from 2 to 4"]


def test_person_who_deployed_another_version_by_name_is_not_overruled(world: World) -> None:
    world.put_in_force(world.propose(score="score@2"))
    assert world.due() == []


def test_version_that_the_workers_refused_is_not_sent_again(world: World) -> None:
    world.workers = [worker("a", models={"scaled": "scale@1", "score": "score@1"})]
    world.registry.alias("score", "production", "2")
    refused = world.announce(world.propose(score="score@production"))
    assert world.due() == [], "it is under way"
    world.say(Abort(**opening(refused.id)))
    assert world.due() == []


def test_release_that_lost_is_made_again(world: World) -> None:
    world.workers = [worker("a", models={"scaled": "scale@1", "score": "score@1"})]
    world.registry.alias("score", "production", "2")
    world.announce(world.propose(score="score@production"))
    world.put_in_force(world.propose(score=Change(parameters={"b": 0.1})))
    assert world.due() == ["score@production moved from 1 to 2"]


def test_version_that_is_bound_already_is_not_due(world: World) -> None:
    world.put_in_force(world.propose(score="score@2"))
    world.registry.alias("score", "production", "2")
    assert world.due() == []


def test_alias_that_leads_nowhere_is_told_and_the_others_are_followed(world: World) -> None:
    now = {"scaled": bind(world.registry, ModelRef("scale", "1")), "score": bind(world.registry, ModelRef("score", "1"))}
    topology = parse_text(TOPOLOGY.replace("scale@1", "scale@nowhere"))
    world.registry.alias("score", "production", "2")
    found = moves(topology, world.log, now, world.registry)
    assert list(found.changes) == ["score"]
    assert found.reason == "score@production moved from 1 to 2"
    assert len(found.problems) == 1
    assert "alias 'nowhere' of scale" in found.problems[0]
