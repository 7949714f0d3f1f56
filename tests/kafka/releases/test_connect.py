"""Releases from a Python program (`penstock.connect`), and on behalf of the callers of a service, on a real broker."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

import penstock
from penstock.cli.main import main
from penstock.control.log import Standing
from penstock.control.proposal import Change
from penstock.errors import ConfigError, ControlError, ModelNotFound, TransportUnavailable
from penstock.operate.connect import Releases
from penstock.operate.operator import Phase, Progress
from penstock.operate.requests import Requested, Requests
from penstock.testing import Broker
from tests.kafka.puppets import FAILS, STUCK, Puppet, Puppets, Stage, make_stage

pytestmark = pytest.mark.broker

T = TypeVar("T")
WANTED = {"score": "score@2"}


@pytest.fixture
def stage(broker: Broker, tmp_path: Path) -> Stage:
    return make_stage(broker, tmp_path)


@pytest.fixture
def releases(stage: Stage) -> Releases:
    told = stage.settings
    return penstock.connect(
        told.brokers, application=told.application, topologies=stage.folder, models=told.models, schemas=told.schemas,
        unsigned_control=True, broker_timeout=15,
    )  # fmt: skip


def asking(stage: Stage, act: Callable[[Requests], Awaitable[T]]) -> T:
    async def run() -> T:
        async with Requests(stage.settings) as requests, asyncio.timeout(60):
            return await act(requests)

    return asyncio.run(run())


async def until(requests: Requests, stage: Stage, id: str, *standings: Standing) -> Requested:
    while (found := await requests.get(stage.topology, id)).past.standing not in standings:  # noqa: ASYNC110  the topics have no event
        await asyncio.sleep(0.05)
    return found


# -- from a program ----------------------------------------------------------------------------------------------------


def test_deploy_rollback_status_and_history_return_what_the_commands_print(stage: Stage, releases: Releases) -> None:
    seen: list[Progress] = []
    with Puppets(stage, Puppet("one"), Puppet("two")):
        assert [str(one.difference) for one in releases.compare("payments", score="score@2")] == ["score: score@1 → score@2"]
        deployed = releases.deploy("payments", score="score@2", reason="better", on_progress=seen.append)
        assert (deployed.generation, deployed.release.reason, deployed.late) == (1, "better", ())
        assert {one.phase for one in seen} == {Phase.ANNOUNCED, Phase.ACTIVATED}
        change = Change(None, {"bias": 1.0})
        with pytest.raises(penstock.TopologyError, match="bias"):
            releases.deploy("payments", {"score": change})
        assert releases.rollback(stage.folder / "payments.yaml").generation == 2
        now = releases.status("payments")
        assert (now.topology, now.generation, now.pending, now.problems, now.unchecked) == ("payments", 2, (), (), "")
        assert [(one.name, one.generation, one.live) for one in now.workers] == [("one", 2, True), ("two", 2, True)]
        newest, first = releases.history("payments")
        assert (newest.generation, newest.standing, newest.release.restores) == (2, Standing.ACTIVE, 0)
        assert (first.generation, first.standing, [*map(str, first.changes)]) == (1, Standing.SUPERSEDED, ["score: score@1 → score@2"])
        assert len(releases.history("payments", limit=1)) == 1


def test_what_goes_wrong_is_raised_and_changes_nothing(stage: Stage, releases: Releases) -> None:
    with pytest.raises(ControlError, match="no live worker of payments") as caught:
        releases.deploy("payments", WANTED)
    assert caught.value.code == "no-workers"
    with Puppets(stage, Puppet("fine"), Puppet("broken", FAILS)):
        with pytest.raises(ControlError, match=r"broken: failed: the digest of model\.onnx differs") as caught:
            releases.deploy("payments", WANTED)
        assert caught.value.code == "not-ready"
        with pytest.raises(ModelNotFound):
            releases.deploy("payments", score="score@77")
        with pytest.raises(ConfigError, match="no node 'scor'"):
            releases.deploy("payments", scor="score@2")
        with pytest.raises(ConfigError, match="payment"):
            releases.status("payment")
    assert releases.status("payments").problems == ("no live worker",)
    assert releases.history("payments") == ()
    assert [one.standing for one in releases.history("payments", everything=True)] == [Standing.ABORTED]
    with pytest.raises(TransportUnavailable):
        penstock.connect("127.0.0.1:1", topologies=stage.folder, broker_timeout=0.5).status("payments")
    call: Callable[..., object] = releases.deploy
    with pytest.raises(TypeError, match="score: a model is named as text"):
        call("payments", score=2)
    for name, value in (("min_ready", -1), ("timeout", float("nan"))):
        with pytest.raises(ValueError, match=f"{name}: {value} is not 0 or more"):
            call("payments", WANTED, **{name: value})
    with pytest.raises(penstock.SettingsError, match=r"^signing_kee: there is no setting signing_kee \(did you mean signing_key\?\)$"):
        penstock.connect(signing_kee="alice.pem")


def test_an_announced_release_is_continued_or_ended(releases: Releases, stage: Stage) -> None:
    with Puppets(stage, Puppet("one")):
        first = releases.deploy("payments", WANTED, wait=False)
        assert first.generation is None
        assert releases.resume("payments", first.release.id[:13]).generation == 1
        second = releases.deploy("payments", score="score@3", wait=False)
        assert releases.abort("payments", second.release.id, reason="no").id == second.release.id


def test_calls_work_in_threads_and_where_an_event_loop_runs(stage: Stage, releases: Releases) -> None:
    async def notebook() -> int | None:
        return releases.deploy("payments", WANTED).generation

    with Puppets(stage, Puppet("one")):
        assert asyncio.run(notebook()) == 1
        found: list[int] = []
        threads = [threading.Thread(target=lambda: found.append(releases.status("payments").generation)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [1, 1, 1]


# -- for the callers of a service --------------------------------------------------------------------------------------


def test_a_requested_release_names_its_caller_and_becomes_active(
    stage: Stage, releases: Releases, capsys: pytest.CaptureFixture[str]
) -> None:
    async def act(requests: Requests) -> Requested:
        begun = await requests.deploy(stage.topology, WANTED, requested_by="alice@shop\n", reason="better")
        assert begun.past.standing in {Standing.PENDING, Standing.ACTIVE}
        return await until(requests, stage, begun.release.id, Standing.ACTIVE)

    with Puppets(stage, Puppet("one")):
        found = asking(stage, act)
        assert (found.past.generation, found.release.requested_by, found.release.reason) == (1, "alice@shop ", "better")
        assert [(one.worker, one.ready) for one in found.workers] == [("one", True)]
        assert releases.history("payments")[0].release.requested_by == "alice@shop "
        flags = ("--brokers", stage.settings.brokers, "--application", stage.settings.application, "--unsigned-control")
        assert main(["history", str(stage.topology.file), *flags, "--format", "json"]) == 0
        (shown,) = json.loads(capsys.readouterr().out)["releases"]
        assert shown["requested_by"] == "alice@shop "
        assert shown["author"] not in ("alice@shop ", "")
        assert main(["releases", "show", str(stage.topology.file), found.release.id, *flags]) == 0
        assert "for alice@shop" in " ".join(capsys.readouterr().out.split())


def test_a_requested_release_that_a_worker_cannot_serve_is_aborted_with_its_reason(stage: Stage) -> None:
    async def act(requests: Requests) -> Requested:
        begun = await requests.deploy(stage.topology, WANTED, requested_by="alice")
        return await until(requests, stage, begun.release.id, Standing.ABORTED)

    with Puppets(stage, Puppet("fine"), Puppet("broken", FAILS)):
        found = asking(stage, act)
    assert "broken: failed: the digest of model.onnx differs" in found.past.why
    assert {one.worker: one.state for one in found.workers} == {"fine": "ready", "broken": "failed"}


def test_what_cannot_be_announced_is_raised_to_the_caller(stage: Stage) -> None:
    async def act(requests: Requests) -> None:
        with pytest.raises(ControlError, match="no live worker"):
            await requests.deploy(stage.topology, WANTED, requested_by="alice")
        with pytest.raises(ConfigError, match="no node 'scor'"):
            await requests.deploy(stage.topology, {"scor": "score@2"}, requested_by="alice")
        with pytest.raises(ControlError, match="there is no release"):
            await requests.get(stage.topology, "0199")
        assert await requests.history(stage.topology) == ()

    asking(stage, act)


def test_a_service_that_ends_aborts_what_it_was_asked_for(stage: Stage, releases: Releases) -> None:
    async def act(requests: Requests) -> str:
        begun = await requests.deploy(stage.topology, WANTED, requested_by="alice")
        assert begun.past.standing is Standing.PENDING
        return begun.release.id

    with Puppets(stage, Puppet("slow", STUCK)):
        asking(stage, act)
        (found,) = releases.history("payments", everything=True)
    assert (found.standing, "interrupted" in found.why) == (Standing.ABORTED, True)


def test_a_pending_release_is_ended_and_an_active_one_rolled_back_for_a_caller(stage: Stage, releases: Releases) -> None:
    async def act(requests: Requests) -> None:
        active = await requests.deploy(stage.topology, WANTED, requested_by="alice")
        await until(requests, stage, active.release.id, Standing.ACTIVE)
        back = await requests.rollback(stage.topology, requested_by="bob", reason="alarms")
        found = await until(requests, stage, back.release.id, Standing.ACTIVE)
        assert (found.release.restores, found.release.requested_by) == (0, "bob")

    async def end(requests: Requests) -> None:
        begun = await requests.deploy(stage.topology, WANTED, requested_by="alice")
        ended = await requests.abort(stage.topology, begun.release.id, requested_by="carol", reason="no")
        assert ended.past.standing is Standing.ABORTED
        with pytest.raises(ControlError, match="is not pending"):
            await requests.abort(stage.topology, begun.release.id, requested_by="carol")

    with Puppets(stage, Puppet("one")):
        asking(stage, act)
    with Puppets(stage, Puppet("two", STUCK)):
        asking(stage, end)
