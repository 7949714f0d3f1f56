"""What an operator does on a real broker, with workers that say what they are told to."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from penstock.control.lifecycle import State
from penstock.control.log import Log, Standing
from penstock.control.trust import SigningKey
from penstock.errors import ConfigError, ControlError
from penstock.operate.operator import Deployed, Operator, Phase, Progress, operate
from penstock.registry.directory import DirectoryRegistry
from penstock.settings import Settings
from penstock.testing import Broker, wait_for
from penstock.testing import models as tiny
from penstock.topology.parse import parse
from tests.kafka.puppets import FAILS, STUCK, Puppet, Puppets, Stage, make_stage
from tests.kafka.running import make_job

pytestmark = pytest.mark.broker

CHANGE = {"score": "score@2"}


@pytest.fixture
def stage(broker: Broker, tmp_path: Path) -> Stage:
    return make_stage(broker, tmp_path)


def unwatched(_progress: Progress) -> object:
    return None


def deploy(
    stage: Stage, changes: dict[str, str] = CHANGE, *, watch: Callable[[Progress], object] = unwatched,
    min_ready: int | None = None, timeout: float | None = None, wait: bool = True,
) -> Deployed:  # fmt: skip
    async def act(operator: Operator) -> Deployed:
        return await operator.deploy(changes, reason="better", min_ready=min_ready, timeout=timeout, wait=wait, on_progress=watch)

    return operate(stage.settings, stage.topology, act)


def log_of(stage: Stage) -> Log:
    return operate(stage.settings, stage.topology, lambda it: it.state())


def standings(stage: Stage) -> list[Standing]:
    return [known.standing for known in log_of(stage).releases.values()]


def test_release_is_in_force_once_every_worker_was_ready(stage: Stage) -> None:
    told: list[Progress] = []
    with Puppets(stage, Puppet("a"), Puppet("b")):
        deployed = deploy(stage, watch=told.append)
        assert (deployed.generation, deployed.late) == (1, ())
        assert set(deployed.seconds or {}) == {"a", "b"}
        assert [str(one) for one in deployed.release.bindings.values()] == ["scale@1", "score@2"]
        assert [str(one) for one in deployed.release.baseline.values()] == ["scale@1", "score@1"]
        assert told[0].phase is Phase.ANNOUNCED
        assert told[-1].phase is Phase.ACTIVATED
        assert told[-1].generations == {"a": 1, "b": 1}
        before = next(one for one in reversed(told) if one.phase is Phase.ANNOUNCED)
        assert [one.state for one in before.stands] == ["ready", "ready"], "it was activated when both were ready"


def test_one_worker_that_fails_ends_the_release_with_its_reason(stage: Stage) -> None:
    told: list[Progress] = []
    with Puppets(stage, Puppet("a"), Puppet("b", FAILS)):
        with pytest.raises(ControlError, match=r"1 of 2 live workers cannot make it ready\n  b: failed: the digest of model.onnx differs"):
            deploy(stage, watch=told.append)
        assert told[-1].phase is Phase.ABORTED
        log = log_of(stage)
        (known,) = log.releases.values()
        assert (log.generation, known.standing) == (0, Standing.ABORTED)
        assert "b: failed: the digest of model.onnx differs" in known.why


def test_worker_that_does_not_get_ready_is_told_with_the_step_it_is_in(stage: Stage) -> None:
    with Puppets(stage, Puppet("a"), Puppet("b", STUCK)):
        with pytest.raises(ControlError, match=r"1 of 2 live workers not ready within 1 s\n  b: fetching"):
            deploy(stage, timeout=1)
        assert standings(stage) == [Standing.ABORTED]


def test_so_many_ready_workers_are_enough(stage: Stage) -> None:
    with Puppets(stage, Puppet("a"), Puppet("b", FAILS)):
        deployed = deploy(stage, min_ready=1)
    assert deployed.generation == 1
    assert set(deployed.seconds or {}) == {"a"}
    assert [str(one) for one in deployed.late] == ["b: failed: the digest of model.onnx differs"]


def test_without_a_live_worker_nothing_is_announced_unless_none_is_asked_for(stage: Stage) -> None:
    with pytest.raises(ControlError, match="no live worker of payments"):
        deploy(stage)
    assert standings(stage) == []
    assert deploy(stage, min_ready=0).generation == 1


def test_worker_that_is_starting_is_waited_for(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """It is in the group and has not reported: within the timeout it counts as soon as it does, and is named until then."""
    caplog.set_level("INFO", "penstock.operate.operator")
    begin = threading.Event()
    with ThreadPoolExecutor(1) as beside, Puppets(stage, Puppet("a"), begin=begin):
        with pytest.raises(ControlError, match="no live worker of payments"):
            deploy(stage, timeout=1)
        assert standings(stage) == []
        caplog.clear()
        deploying = beside.submit(deploy, stage)
        wait_for(lambda: "waiting for a, starting" in caplog.text, "the wait")
        assert not deploying.done()
        begin.set()
        assert deploying.result(30).generation == 1


def test_nothing_is_written_while_a_live_worker_cannot_read_it(stage: Stage) -> None:
    """Not even where fewer ready workers would be enough: the old one would go on with the models of before."""
    with Puppets(stage, Puppet("a")):
        pending = deploy(stage, {"score": "score@3"}, wait=False).release.id
        position = log_of(stage).position
        with Puppets(stage, Puppet.old("old"), Puppet.old("older")):

            async def each(operator: Operator) -> None:
                for attempt in (
                    lambda: operator.deploy(CHANGE), lambda: operator.deploy(CHANGE, min_ready=0),
                    lambda: operator.deploy(CHANGE, wait=False),
                    lambda: operator.rollback(0), lambda: operator.rollback(0, min_ready=1),
                    lambda: operator.resume(pending), lambda: operator.resume(pending, min_ready=0), lambda: operator.abort(pending),
                ):  # fmt: skip
                    with pytest.raises(ControlError) as caught:
                        await attempt()
                    assert caught.value.code == "old-workers"
                    told = str(caught.value).splitlines()
                    assert told[0].startswith("2 of 3 live workers run an older Penstock. Nothing was written;")
                    assert [line.partition(":")[0] for line in told[1:]] == ["  old", "  older"]
                await operator.propose(CHANGE)

            operate(stage.settings, stage.topology, each)
        assert log_of(stage).position == position
        assert deploy(stage).generation == 1, "the old ones have stopped"


@pytest.mark.parametrize("min_ready", [None, 2])
def test_worker_that_starts_too_old_after_the_check_ends_the_release(stage: Stage, min_ready: int | None) -> None:
    told: list[Progress] = []
    late = Puppets(stage, Puppet.old("old"))

    def watch(progress: Progress) -> None:
        if not told:
            late.__enter__()
        told.append(progress)

    with Puppets(stage, Puppet("a"), Puppet("b", STUCK)):
        try:
            with pytest.raises(ControlError, match=r"1 of 3 live workers run an older Penstock: upgrade them\n  old: failed: it reads "):
                deploy(stage, min_ready=min_ready, watch=watch)
        finally:
            late.__exit__(None, None, None)
        log = log_of(stage)
        (known,) = log.releases.values()
        assert (log.generation, known.standing) == (0, Standing.ABORTED)
        assert "old: failed: it reads control messages up to version 1" in known.why


def test_worker_that_falls_silent_while_staging_holds_up_nobody(stage: Stage) -> None:
    """As when it was killed: the last that it said is `fetching`."""

    async def act(operator: Operator) -> Deployed:
        operator.fleet.silence = 1.0
        silenced = False

        def told(progress: Progress) -> None:
            nonlocal silenced
            stuck = [one for one in progress.stands if one.worker == "b" and one.state == State.FETCHING]
            if stuck and not silenced:
                silenced = True
                doomed.fall_silent()

        return await operator.deploy(CHANGE, on_progress=told)

    doomed = Puppets(stage, Puppet("b", STUCK))
    with Puppets(stage, Puppet("a")), doomed:
        deployed = operate(stage.settings, stage.topology, act)
    assert (deployed.generation, set(deployed.seconds or {}), deployed.late) == (1, {"a"}, ())


def test_of_two_operators_one_wins_and_the_other_is_told_who(stage: Stage) -> None:
    """Both announce for generation 0 before either can activate: the puppets begin only then."""

    async def both() -> list[Deployed | BaseException]:
        async with Operator(stage.settings, stage.topology) as one, Operator(stage.settings, stage.topology) as other:
            first = await one.deploy({"score": "score@2"}, wait=False)
            second = await other.deploy({"score": "score@3"}, wait=False)
            assert first.generation is second.generation is None
            results = await asyncio.gather(one.resume(first.release.id), other.resume(second.release.id), return_exceptions=True)
            return [*results]

    with Puppets(stage, Puppet("a"), Puppet("b")):
        results = asyncio.run(both())
    (won,) = [one for one in results if isinstance(one, Deployed)]
    (lost,) = [one for one in results if isinstance(one, ControlError)]
    assert won.generation == 1
    assert f"lost: generation 1 is active: release {won.release.id} by {won.release.author}" in str(lost)
    assert sorted(standings(stage)) == [Standing.ACTIVE, Standing.REJECTED]


def test_operator_that_was_interrupted_takes_back_what_it_announced(stage: Stage) -> None:
    told: list[Progress] = []

    async def interrupted() -> None:
        async with Operator(stage.settings, stage.topology) as operator:
            announced = asyncio.Event()

            def watch(progress: Progress) -> None:
                told.append(progress)
                announced.set()

            task = asyncio.create_task(operator.deploy(CHANGE, on_progress=watch))
            await announced.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with Puppets(stage, Puppet("a", STUCK)):
        asyncio.run(interrupted())
    assert told[-1].phase is Phase.ABORTED
    (known,) = log_of(stage).releases.values()
    assert known.standing is Standing.ABORTED
    assert known.why.endswith("interrupted")


def test_release_that_was_left_is_gone_on_with_or_aborted_by_another(stage: Stage) -> None:
    with Puppets(stage, Puppet("a")):
        left = deploy(stage, wait=False)
        done = operate(stage.settings, stage.topology, lambda it: it.resume(left.release.id[:20]))
        assert (done.generation, done.release) == (1, left.release)
        again = operate(stage.settings, stage.topology, lambda it: it.resume(left.release.id))
        assert again.generation == 1, "it is active already"
        left = deploy(stage, {"score": "score@3"}, wait=False)
        assert operate(stage.settings, stage.topology, lambda it: it.abort(left.release.id, "no")) == left.release
        with pytest.raises(ControlError, match=r"was aborted: by .*: no"):
            operate(stage.settings, stage.topology, lambda it: it.resume(left.release.id))
        active = done.release.id
        with pytest.raises(ControlError, match="it is active; take it back with `penstock rollback`"):
            operate(stage.settings, stage.topology, lambda it: it.abort(active))


def test_rollback_binds_again_what_was_bound(stage: Stage) -> None:
    with Puppets(stage, Puppet("a")):
        deploy(stage)
        back = operate(stage.settings, stage.topology, lambda it: it.rollback(reason="too many alarms"))
        assert (back.generation, back.release.restores) == (2, 0)
        assert str(back.release.bindings["score"]) == "score@1"
        forth = operate(stage.settings, stage.topology, lambda it: it.rollback("1"))
        assert (forth.generation, str(forth.release.bindings["score"])) == (3, "score@2")


def test_signed_releases_need_a_key_that_is_trusted_here(stage: Stage) -> None:
    key = SigningKey.new("alice")
    key.save(stage.folder / "alice.pem")
    trust = f'[keys.ops-alice]\npublic = "{key.public}"\ntopologies = ["{{}}"]\ntrusted = 2026-01-01T00:00:00Z\n'
    signed = replace(stage, settings=replace(stage.settings, unsigned_control=False))
    with pytest.raises(ConfigError, match=r"--signing-key NAME\|FILE.*penstock keys new.*--unsigned-control"):
        deploy(signed, min_ready=0)
    signed = replace(signed, settings=replace(signed.settings, signing_key=stage.folder / "alice.pem"))
    with pytest.raises(ConfigError, match="is not in this trust file"):
        deploy(signed, min_ready=0)
    stage.settings.trust.write_text(trust.format("others"))
    with pytest.raises(ConfigError, match="ops-alice may not sign for payments, only for others"):
        deploy(signed, min_ready=0)
    assert standings(stage) == [], "nobody heard of it"
    stage.settings.trust.write_text(trust.format("payments"))
    with Puppets(signed, Puppet("a")):
        deployed = deploy(signed)
        assert (deployed.generation, deployed.release.author) == (1, "ops-alice")
        stage.settings.trust.write_text("")
        with pytest.raises(ControlError, match=r"worker a follows generation 1, but .* the newest is 0: .*refused here: 2 unknown-key"):
            deploy(stage, {"score": "score@3"})


def test_real_workers_switch_and_go_back_between_two_batches(broker: Broker, tmp_path: Path) -> None:
    """`penstock run`, twice: what was sent before, between and after is answered by the model of its time, each event once."""
    job = make_job(broker, tmp_path)
    DirectoryRegistry(tmp_path / "models").publish("double", tiny.linear([3.0]), version="2")
    (tmp_path / "keys.toml").touch()
    settings = Settings(
        brokers=broker.bootstrap, application=job.application, models=tmp_path / "models", schemas=tmp_path / "schemas",
        unsigned_control=True, trust=tmp_path / "keys.toml", broker_timeout=15.0,
    )  # fmt: skip
    topology = parse(job.file)
    with job.run(unsigned_control="true") as one, job.run(unsigned_control="true") as other:
        one.wait_until_assigned()
        other.wait_until_assigned()
        job.send(range(400))
        job.wait_for_answers(400)
        deployed = operate(settings, topology, lambda it: it.deploy({"double": "double@2"}, reason="tripled"))
        assert (deployed.generation, deployed.late, len(deployed.seconds or {})) == (1, (), 2)
        job.send(range(400, 800))
        job.wait_for_answers(800)
        back = operate(settings, topology, lambda it: it.rollback())
        assert (back.generation, back.late, len(back.seconds or {})) == (2, (), 2)
        job.send(range(800, 1200))
        job.wait_for_answers(1200)
        boundaries = operate(settings, topology, lambda it: it.boundaries())
        assert (one.stop(), other.stop()) == (0, 0), one.log + other.log
        assert operate(settings, topology, lambda it: it.workers()) == [], "they took their records away"
    answers = {int(found["id"]): found["y"] for found in (json.loads(record.value or b"") for record in job.answers())}
    assert len(job.answers()) == len(answers) == 1200
    factors = {id: 3 if 400 <= id < 800 else 2 for id in answers}
    assert answers == pytest.approx({id: factor * id / 2 for id, factor in factors.items()})
    newest = {(found.partition, found.generation): found.offset for found in boundaries}
    assert newest.items() >= {((partition, generation), 100 * generation) for partition in range(4) for generation in (1, 2)}
