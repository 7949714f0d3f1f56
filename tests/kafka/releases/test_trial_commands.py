"""Trials from the operator's side: commands, calls, and their results. Puppets report as workers would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

import penstock
from penstock.cli.main import main
from penstock.control.log import Log, Standing
from penstock.control.strategy import Canary, Split
from penstock.control.trust.file import TrustedKey, with_key
from penstock.control.trust.keys import SigningKey
from penstock.errors import ConfigError, ControlError
from penstock.operate.operator import Operator, Phase, Progress, operate
from penstock.operate.requests import Requests
from penstock.testing import Broker
from penstock.topology.spec import Releases
from tests.kafka.puppets import FAILS, Puppet, Puppets, Stage, make_stage

pytestmark = pytest.mark.broker

T = TypeVar("T")
Captured = pytest.CaptureFixture[str]
CHANGE = {"score": "score@2"}
RAMP = Canary((0.05, 0.25, 1.0))


@pytest.fixture
def stage(broker: Broker, tmp_path: Path) -> Stage:
    return make_stage(broker, tmp_path)


def told(stage: Stage, capsys: Captured, *command: str, code: int = 0) -> Any:
    """What a command has printed as JSON."""
    name, *rest = command
    assert main([name, str(stage.folder / "payments.yaml"), *rest, *flags_of(stage, name), "--format", "json"]) == code
    return json.loads(capsys.readouterr().out)


def said(stage: Stage, capsys: Captured, *command: str, code: int = 0) -> tuple[str, str]:
    name, *rest = command
    assert main([name, str(stage.folder / "payments.yaml"), *rest, *flags_of(stage, name)]) == code
    return capsys.readouterr()


def flags_of(stage: Stage, command: str) -> tuple[str, ...]:
    """What the command is given; those that only look have no folder of models."""
    looks = command in ("status", "history")
    pairs = zip(stage.flags[:-1:2], stage.flags[1::2], strict=False)
    kept = [flag for pair in pairs if not looks or pair[0] not in ("--models", "--schemas") for flag in pair]
    return *kept, "--unsigned-control", "--trust", str(stage.settings.trust)


def act(stage: Stage, do: Callable[[Operator], Awaitable[T]]) -> T:
    return operate(stage.settings, stage.topology, do)


def log_of(stage: Stage) -> Log:
    return act(stage, lambda it: it.state())


def refused(stage: Stage, do: Callable[[Operator], Awaitable[object]]) -> ControlError:
    """Why an operator's call was refused; it has written nothing."""
    position = log_of(stage).position
    with pytest.raises(ControlError) as caught:
        act(stage, do)
    assert log_of(stage).position == position
    return caught.value


def test_canary_is_promoted_step_by_step_until_it_is_live(stage: Stage, capsys: Captured) -> None:
    with Puppets(stage, Puppet("a"), Puppet("b")):
        begun = told(stage, capsys, "deploy", "score=score@2", "--canary", "5,25,100", "--reason", "retrained")
        id = begun["release"]["id"]
        assert begun["release"]["strategy"] == {"kind": "canary", "steps": [0.05, 0.25, 1.0], "unit": ""}
        assert (begun["released"], begun["outcome"], begun["share"], begun["generation"]) == (True, "candidate", 0.05, 1)
        assert {one["worker"]: (one["state"], one["generation"]) for one in begun["workers"]} == {
            "a": ("candidate", 1),
            "b": ("candidate", 1),
        }
        shown = told(stage, capsys, "status")
        assert (shown["generation"], shown["release"], shown["trial"]["id"]) == (1, None, id)
        assert shown["trial"]["trial"] | {"begun": "", "begun_by": ""} == {
            "generation": 1, "begun": "", "begun_by": "", "last": 1, "share": 0.05, "step": 1, "steps": 2, "paused": False, "ended": None,
        }  # fmt: skip
        out, _ = said(stage, capsys, "status")
        assert "generation 1 since" in out
        assert "what the topology file binds" in out
        assert f"on trial: release {id[:13]}" in out
        assert "canary, step 1 of 2: answers 5 % of the units; retrained" in out
        out, err = said(stage, capsys, "promote")
        first = out.splitlines()[0]
        assert first == f"payments: generation 2 is active, with {id[:13]} on trial: canary, step 2 of 2: answers 25 % of the units"
        assert "go on with:  penstock promote payments" in out
        assert f"promoted {id}" in err
        done = told(stage, capsys, "promote", "--reason", "good")
        assert (done["outcome"], done["share"], done["generation"]) == ("live", None, 3)
        assert {one["state"] for one in done["workers"]} == {"live"}
        (past,) = told(stage, capsys, "history")["releases"]
        assert (past["standing"], past["generation"], past["trial"]["last"], past["trial"]["ended"]) == ("active", 3, 2, 3)
        out, _ = said(stage, capsys, "history")
        assert "1-2 trial, up to 25 %" in out
        assert main(["releases", "show", str(stage.folder / "payments.yaml"), id, *flags_of(stage, "status")]) == 0
        out = capsys.readouterr().out
        for number, what in ((1, "step 1 of 2: answers 5 %"), (2, "step 2 of 2: answers 25 %"), (3, ": live")):
            assert any(line.strip().startswith(f"generation {number}") and what in line for line in out.splitlines()), out
        assert told(stage, capsys, "promote", code=8)["code"] == "no-trial"
    assert log_of(stage).bound(3) == {**(log_of(stage).bound(0) or {}), "score": log_of(stage).releases[id].release.bindings["score"]}


def test_full_promotion_makes_it_live_at_once(stage: Stage) -> None:
    with Puppets(stage, Puppet("a")):
        act(stage, lambda it: it.deploy(CHANGE, strategy=RAMP))
        done = act(stage, lambda it: it.promote(full=True))
    assert (done.generation, done.outcome, set(done.seconds or {}), done.late) == (2, "live", {"a"}, ())


def test_pause_keeps_it_from_programs_and_a_person_goes_on(stage: Stage, capsys: Captured) -> None:
    with Puppets(stage, Puppet("a")):
        id = told(stage, capsys, "deploy", "score=score@2", "--canary", "5,25")["release"]["id"]
        assert told(stage, capsys, "pause", "--reason", "odd")["paused"]["id"] == id
        assert told(stage, capsys, "status")["trial"]["trial"]["paused"] is True
        out, _ = said(stage, capsys, "status")
        assert "answers 5 % of the units; paused by" in out
        assert "5 %, step 1 of 2, paused" in said(stage, capsys, "history")[0]
        why = refused(stage, lambda it: it.promote())
        assert why.code == "paused"
        assert "odd; a promotion has to say that it resumes it" in str(why)
        assert refused(stage, lambda it: it.pause()).code == "paused"
        _, err = said(stage, capsys, "pause", code=8)
        assert err.rstrip().endswith("odd already")
        assert told(stage, capsys, "promote")["share"] == 0.25
        assert told(stage, capsys, "status")["trial"]["trial"]["paused"] is False


def test_abort_ends_the_trial_and_the_one_that_is_meant_may_be_left_out(stage: Stage, capsys: Captured) -> None:
    with Puppets(stage, Puppet("a")):
        act(stage, lambda it: it.deploy({"score": "score@3"}, reason="the base"))
        id = told(stage, capsys, "deploy", "score=score@2", "--split", "50")["release"]["id"]
        assert told(stage, capsys, "abort", "--reason", "worse")["aborted"]["id"] == id
        log = log_of(stage)
        assert (log.generation, log.candidate, log.releases[id].standing) == (3, None, Standing.ABORTED)
        assert said(stage, capsys, "abort", code=8)[1].strip().endswith("no release is on trial")
        out, _ = said(stage, capsys, "history")
        assert "2 trial, up to 50 %" in out
        assert "3 without it" in out
        shown = told(stage, capsys, "status")
        assert (shown["generation"], shown["release"]["reason"], shown["trial"]) == (3, "the base", None)
        id = told(stage, capsys, "deploy", "score=score@2", "--split", "12.5")["release"]["id"]
        assert told(stage, capsys, "abort", id[:20])["aborted"]["id"] == id
        back = act(stage, lambda it: it.rollback())
        assert (back.generation, back.release.restores) == (6, 0), "steps of trials are no generations to go back to"


def test_rollback_ends_a_trial_instead_and_says_so(stage: Stage, capsys: Captured) -> None:
    with Puppets(stage, Puppet("a")):
        id = told(stage, capsys, "deploy", "score=score@2", "--canary", "5,25")["release"]["id"]
        assert told(stage, capsys, "rollback", "--dry-run")["aborts"]["id"] == id
        assert f"the trial of release {id} would be ended" in said(stage, capsys, "rollback", "--dry-run")[0]
        assert told(stage, capsys, "rollback", "--to", "0", code=8)["code"] == "on-trial"
        out, err = said(stage, capsys, "rollback", "--reason", "alarms")
        assert out.splitlines()[0] == (
            f"payments: generation 2 is active: the trial of {id[:13]} was ended, and what was live before answers all events"
        )
        assert f"ended the trial of {id}" in err
        assert log_of(stage).releases[id].why.endswith(": alarms")
        told(stage, capsys, "deploy", "score=score@2", "--split", "50")
        done = told(stage, capsys, "rollback")
        assert (done["released"], done["outcome"], done["generation"]) == (False, "aborted", 4)
        assert {one["state"] for one in done["workers"]} == {"aborted"}


def test_nothing_else_is_released_while_a_release_is_on_trial(stage: Stage) -> None:
    with Puppets(stage, Puppet("a")):
        trial = act(stage, lambda it: it.deploy(CHANGE, strategy=Split(0.5))).release
        for attempt in (
            lambda it: it.deploy({"score": "score@3"}),
            lambda it: it.deploy({"score": "score@3"}, strategy=Split(0.5)),
            lambda it: it.propose({"score": "score@3"}),
            lambda it: it.rollback(0),
        ):
            why = refused(stage, attempt)
            assert why.code == "on-trial"
            assert f"release {trial.id} by {trial.author} is on trial, and nothing else can be released before" in str(why)
            assert str(why).endswith("make it live with `penstock promote payments --full`, or end it with `penstock abort payments`")
        act(stage, lambda it: it.promote(full=True))
        assert act(stage, lambda it: it.deploy({"score": "score@3"})).generation == 3, "the advice leads on"


def test_calls_name_the_release_that_they_mean(stage: Stage) -> None:
    with Puppets(stage, Puppet("a")):
        first = act(stage, lambda it: it.deploy(CHANGE)).release.id
        trial = act(stage, lambda it: it.deploy({"score": "score@3"}, strategy=RAMP)).release.id
        for attempt in (lambda it: it.promote(first), lambda it: it.pause(first)):
            why = refused(stage, attempt)
            assert (why.code, str(why).startswith(f"release {first} is not on trial, it is active")) == ("no-trial", True)
        assert "it is active; take it back with `penstock rollback`" in str(refused(stage, lambda it: it.abort(first)))
        assert act(stage, lambda it: it.promote(trial[:20])).share == 0.25
        assert act(stage, lambda it: it.pause(trial[:20])).id == trial


def test_promotions_at_the_same_time_each_count_or_come_to_what_the_other_made(stage: Stage) -> None:
    """The second one may have read the first; then it was decided on the step that this led to."""

    async def both() -> list[Any]:
        async with Operator(stage.settings, stage.topology) as one, Operator(stage.settings, stage.topology) as other:
            return [*await asyncio.gather(one.promote(), other.promote())]

    with Puppets(stage, Puppet("a")):
        act(stage, lambda it: it.deploy(CHANGE, strategy=Canary((0.05, 0.25, 0.5))))
        made = sorted(one.generation for one in asyncio.run(both()))
        log = log_of(stage)
    assert made in ([2, 2], [2, 3])
    assert (log.generation, log.ignored["moot"]) == (made[-1], made.count(2) - 1)


def test_trial_that_a_worker_cannot_make_ready_never_begins(stage: Stage) -> None:
    with Puppets(stage, Puppet("a"), Puppet("b", FAILS)):
        with pytest.raises(ControlError, match="1 of 2 live workers cannot make it ready"):
            act(stage, lambda it: it.deploy(CHANGE, strategy=RAMP))
        assert (log_of(stage).generation, log_of(stage).candidate) == (0, None)
        told: list[Progress] = []
        done = act(stage, lambda it: it.deploy(CHANGE, strategy=RAMP, min_ready=1, on_progress=told.append))
        assert (done.outcome, [one.worker for one in done.late], told[-1].phase) == ("candidate", ["b"], Phase.ACTIVATED)


def test_unit_of_a_trial_is_that_of_the_topology(stage: Stage) -> None:
    by_id = msgspec.structs.replace(RAMP, unit="id")
    with pytest.raises(ConfigError, match="its file names none, so it is the record's key, and the strategy says 'id'"):
        act(stage, lambda it: it.propose(CHANGE, by_id))
    named = replace(stage.topology, releases=Releases(unit="id"))
    assert operate(stage.settings, named, lambda it: it.propose(CHANGE, RAMP)).strategy == by_id
    assert operate(stage.settings, named, lambda it: it.propose(CHANGE, by_id)).strategy == by_id
    with pytest.raises(ConfigError, match="its file names 'id', and the strategy says 'amount'"):
        operate(stage.settings, named, lambda it: it.propose(CHANGE, Split(0.5, "amount")))


def test_trial_that_was_left_pending_begins_with_resume(stage: Stage) -> None:
    with Puppets(stage, Puppet("a")):
        left = act(stage, lambda it: it.deploy(CHANGE, strategy=RAMP, wait=False))
        assert (left.generation, left.outcome) == (None, "")
        assert str(refused(stage, lambda it: it.promote())) == f"no release is on trial; pending: {left.release.id}"
        done = act(stage, lambda it: it.resume(left.release.id))
        assert (done.outcome, done.share) == ("candidate", 0.05)


def test_programs_promote_and_pause_as_people_do(stage: Stage) -> None:
    one = stage.settings
    releases = penstock.connect(
        one.brokers, application=one.application, models=str(one.models), schemas=str(one.schemas), topologies=str(stage.folder),
        trust=str(one.trust), unsigned_control=True,
    )  # fmt: skip
    with Puppets(stage, Puppet("a")):
        trial = releases.deploy("payments", score="score@2", strategy=Split(0.5))
        assert (trial.outcome, trial.share) == ("candidate", 0.5)
        status = releases.status("payments")
        assert status.release is None
        assert status.trial is not None
        assert (status.trial.standing, status.trial.generation) == (Standing.CANDIDATE, None)
        releases.pause("payments", reason="look")
        with pytest.raises(ControlError, match="look; a promotion has to say that it resumes it"):
            releases.promote("payments")
        assert releases.promote("payments", resume=True).outcome == "live"
        (past,) = releases.history("payments")
        assert past.trial is not None
        assert (past.generation, past.trial.generation, past.trial.ended) == (2, 1, 2)
        releases.deploy("payments", score="score@3", strategy=Split(0.5))
        releases.abort("payments", reason="worse")
        assert releases.rollback("payments").release.restores == 0


def test_requests_lead_a_trial_for_a_caller(stage: Stage) -> None:
    async def serve() -> list[Standing]:
        async with Requests(stage.settings) as requests:
            begun = await requests.deploy(stage.topology, CHANGE, requested_by="carol", strategy=RAMP)
            while (found := await requests.get(stage.topology, begun.release.id)).past.standing is Standing.PENDING:  # noqa: ASYNC110  the topics have no event
                await asyncio.sleep(0.05)
            seen: list[Standing] = [found.past.standing]
            paused = await requests.pause(stage.topology, begun.release.id, requested_by="carol")
            assert paused.past.trial is not None
            assert paused.past.trial.paused
            seen.append((await requests.promote(stage.topology, begun.release.id, requested_by="carol", resume=True)).past.standing)
            seen.append((await requests.rollback(stage.topology, requested_by="carol")).past.standing)
            return seen

    with Puppets(stage, Puppet("a")):
        assert asyncio.run(serve()) == [Standing.CANDIDATE, Standing.CANDIDATE, Standing.ABORTED]
        assert log_of(stage).generation == 3


def test_limited_key_begins_trials_and_leads_no_further_than_its_share(stage: Stage) -> None:
    key, file = SigningKey.new("steward"), stage.folder / "limited.toml"
    key.save(stage.folder / "steward.pem")
    limited = TrustedKey("steward", key.public, frozenset({"*"}), 0, max_share=0.25)
    file.write_text(with_key("", limited, file=str(file)))
    settings = replace(stage.settings, trust=file, signing_key=stage.folder / "steward.pem", unsigned_control=False)
    stage = replace(stage, settings=settings)
    with Puppets(stage, Puppet("a")):
        begun = act(stage, lambda it: it.deploy(CHANGE, strategy=Canary((0.05, 0.25, 0.6))))
        assert begun.share == 0.05
        assert act(stage, lambda it: it.promote()).share == 0.25
        why = refused(stage, lambda it: it.promote())
        assert (why.code, str(why)) == ("not-allowed", "steward may let a release answer 25 % of the units, and this leads to 60 %")
        assert "leads to 100 %" in str(refused(stage, lambda it: it.promote(full=True)))
        act(stage, lambda it: it.abort())
        assert "leads to 100 %" in str(refused(stage, lambda it: it.deploy(CHANGE)))
        assert "leads to 50 %" in str(refused(stage, lambda it: it.deploy(CHANGE, strategy=Split(0.5))))
