"""The operator's commands as they are typed: what they print, as text and as JSON, and their exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from penstock.cli.main import main
from penstock.control.log import Log, Standing
from penstock.control.status import Cause, DeadLetters, Place, encode
from penstock.operate.operator import operate
from penstock.record import Record
from penstock.testing import Broker, produce, wait_for
from penstock.testing import models as tiny
from penstock.testing.broker import ExternalBroker
from tests.kafka.puppets import FAILS, STUCK, Puppet, Puppets, Stage, make_stage

pytestmark = [pytest.mark.broker, pytest.mark.measured]

Captured = pytest.CaptureFixture[str]

# Ctrl-C interrupts, also where the tests themselves ignore it.
OWN_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def stage(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Settings as a shell would have them: from the environment."""
    made = make_stage(broker, tmp_path)
    for name, value in environment(made).items():
        monkeypatch.setenv(name, value)
    return made


def environment(stage: Stage) -> dict[str, str]:
    told = stage.settings
    return {
        "PENSTOCK_BROKERS": told.brokers, "PENSTOCK_APPLICATION": told.application, "PENSTOCK_MODELS": str(told.models),
        "PENSTOCK_SCHEMAS": str(told.schemas), "PENSTOCK_TOPOLOGIES": str(stage.folder), "PENSTOCK_TRUST": str(told.trust),
        "PENSTOCK_UNSIGNED_CONTROL": "true",
    }  # fmt: skip


def said(capsys: Captured, *command: str) -> tuple[int, str, str]:
    code = main(command)
    out, err = capsys.readouterr()
    return code, out, err


def answered(capsys: Captured, *command: str) -> tuple[int, Any]:
    code, out, _ = said(capsys, *command, "--format", "json")
    return code, json.loads(out)


def log_of(stage: Stage) -> Log:
    return operate(stage.settings, stage.topology, lambda it: it.state())


def test_deploy_tells_each_step_of_each_worker_and_what_came_of_it(stage: Stage, capsys: Captured) -> None:
    with Puppets(stage, Puppet("a"), Puppet("b")):
        code, out, err = said(capsys, "deploy", "payments", "score=score@2", "--reason", "retrained")
        assert code == 0
        assert out.splitlines()[:2] == ["payments: generation 1 is active", "  score: score@1 → score@2"]
        assert "2 switched, the last within" in out
        lines = err.splitlines()
        assert lines[0].startswith("UNSIGNED: ")
        assert lines[1:3] == ["  score: score@1 → score@2", "    auc 0.6 → 0.7, better"]
        assert lines[3].startswith("announced ")
        assert lines[3].endswith(": retrained")
        (activated,) = [number for number, line in enumerate(lines) if line.startswith("activated ")]
        assert {"  a: ready", "  b: ready"} <= set(lines[:activated])
        assert {"  a: live", "  b: live"} <= set(lines[activated:])


def test_deploy_as_json(stage: Stage, capsys: Captured) -> None:
    with Puppets(stage, Puppet("a")):
        code, told = answered(capsys, "deploy", str(stage.folder / "payments.yaml"), "score=score@2")
    assert (code, told["released"], told["generation"]) == (0, True, 1)
    assert [(one["node"], one["before"]["model"], one["after"]["model"]) for one in told["changes"]] == [("score", "score@1", "score@2")]
    assert told["changes"][0]["metrics"] == [{"name": "auc", "before": 0.6, "after": 0.7, "judgement": "better"}]
    (worker,) = told["workers"]
    assert (worker["worker"], worker["state"], worker["generation"]) == ("a", "live", 1)
    assert 0 <= worker["seconds"] < 10


def test_failed_deploy_ends_with_8_and_every_reason(stage: Stage, capsys: Captured) -> None:
    with Puppets(stage, Puppet("a"), Puppet("b", FAILS)):
        code, out, err = said(capsys, "deploy", "payments", "score=score@2")
        assert (code, out) == (8, "")
        assert err.splitlines()[-1] == "  b: failed: the digest of model.onnx differs"
        code, told = answered(capsys, "deploy", "payments", "score=score@2")
    assert (code, told["released"], told["code"]) == (8, False, "not-ready")
    reasons = {one["worker"]: one["detail"] for one in told["workers"]}
    assert reasons["b"] == "the digest of model.onnx differs"


def test_dry_run_shows_and_checks_and_says_nothing(stage: Stage, capsys: Captured) -> None:
    code, out, err = said(capsys, "deploy", "payments", "score=score@2", "--dry-run")
    assert (code, err) == (0, "")
    assert out.splitlines()[:3] == ["payments: generation 0 → 1 would change", "  score: score@1 → score@2", "    auc 0.6 → 0.7, better"]
    code, told = answered(capsys, "deploy", "payments", "score=score@2", "--dry-run")
    assert (code, told["base"], told["valid"]) == (0, 0, True)
    assert said(capsys, "deploy", "payments", "score=score@1", "--dry-run")[0] == 8
    assert log_of(stage).position == 0


@pytest.fixture
def worse(stage: Stage) -> Stage:
    """Beside score@1, with an AUC of 0.6 as the live version, there is score@4: it has one of 0.2, a log loss, and no more."""
    stage.registry.publish("score", tiny.linear([4.0]), metrics={"auc": 0.2, "log_loss": 0.9})
    return stage


def test_script_that_deploys_a_worse_model_is_warned_and_goes_on(worse: Stage, capsys: Captured) -> None:
    with Puppets(worse, Puppet("a")):
        code, told = answered(capsys, "deploy", "payments", "score=score@4", "--dry-run")
        assert (code, [(one["name"], one["judgement"]) for one in told["changes"][0]["metrics"]]) == (
            0,
            [("auc", "worse"), ("log_loss", "unknown")],
        )
        code, _, err = said(capsys, "deploy", "payments", "score=score@4")
        assert code == 0
        assert err.splitlines()[1:5] == [
            "  score: score@1 → score@4",
            "    auc 0.6 → 0.2, worse",
            "    log_loss 0.9 (not stated before)",
            "warning: score@4 is worse than score@1, the live version of score: auc",
        ]
        code, out, _ = said(capsys, "rollback", "payments", "--dry-run")
        assert (code, "    auc 0.2 → 0.6, better" in out.splitlines()) == (0, True)
        (worse.settings.models / "score" / "4" / "model.toml").unlink()
        _, told = answered(capsys, "rollback", "payments", "--dry-run")
        assert told["changes"][0]["note"] == "the metrics of score@4 are not known: this registry lacks these files"


@pytest.mark.parametrize(("answer", "code", "generation"), [("n", 8, 0), ("y", 0, 1), (None, 0, 1), ("\x03", 130, 0)])
def test_terminal_is_asked_before_a_worse_model_is_deployed(worse: Stage, answer: str | None, code: int, generation: int) -> None:
    """`--yes` (here: no answer) skips the question; Ctrl-C at the question writes nothing."""
    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "penstock", "deploy", "payments", "score=score@4", *(["--yes"] if answer is None else [])]
    with Puppets(worse, Puppet("a")):
        process = subprocess.Popen(
            [sys.executable, "-c", OWN_TERMINAL, *line], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        seen, typed = "", answer is None
        with contextlib.suppress(OSError):  # the terminal is gone when the process is
            while True:
                if more := bool(select.select([ours], [], [], 1.0)[0]):
                    seen += os.read(ours, 4096).decode(errors="replace")
                # Python does not see a Ctrl-C that comes right before it reads, so it is pressed again.
                if "Deploy it all the same? [y/N]: " in seen and (not typed or (not more and answer == "\x03")):
                    os.write(ours, answer.encode() if answer == "\x03" else f"{answer}\n".encode())
                    typed = True
        assert process.wait(30) == code, seen
    assert "auc 0.6 → 0.2, worse" in seen
    assert log_of(worse).generation == generation
    assert bool(log_of(worse).position) is bool(generation)


def test_rollback_history_and_releases_tell_the_same_story(stage: Stage, capsys: Captured) -> None:
    with Puppets(stage, Puppet("a")):
        assert said(capsys, "history", "payments")[1].startswith("generation 0 is active")
        assert said(capsys, "deploy", "payments", "score=score@2", "--reason", "one")[0] == 0
        code, out, _ = said(capsys, "rollback", "payments", "--reason", "alarms", "--dry-run")
        assert (code, out.splitlines()[1]) == (0, "  score: score@2 → score@1")
        assert said(capsys, "rollback", "payments", "--reason", "alarms")[0] == 0
        left = answered(capsys, "deploy", "payments", "score=score@3", "--no-wait")
        _, told = answered(capsys, "history", "payments", "--boundaries")
        assert told["generation"] == 2
        assert [(one["generation"], one["reason"], one["restores"]) for one in told["releases"]] == [(2, "alarms", 0), (1, "one", None)]
        assert [(one["version"], one["strategy"], one["control_topic"]) for one in told["releases"]] == [
            (2, {"kind": "single"}, stage.topics.control)
        ] * 2
        assert [(one["offset"], one["generation"]) for one in told["boundaries"]] == [(10, 1), (20, 2)]
        _, told = answered(capsys, "history", "payments", "--all", "--limit", "2")
        assert [one["standing"] for one in told["releases"]] == ["pending", "active"]
        out = said(capsys, "history", "payments", "--all", "--boundaries")[1]
        for part in ("pending", "active", "superseded", "(back to 0) alarms", "score: score@1 → score@2", "from offset", "single"):
            assert part in out
        id = told["releases"][0]["id"]
        code, told = answered(capsys, "releases", "show", "payments", id[:30])
        assert (code, told["id"], told["standing"], told["bindings"]["score"]["model"]) == (0, id, "pending", "score@3")
        out = said(capsys, "releases", "show", "payments", id)[1]
        assert told["bindings"]["score"]["digest"] in out
        assert "on the workers" in out
        assert "single" in out
        code, out, _ = said(capsys, "abort", "payments", id, "--reason", "not today")
        assert code == 0
        assert out.startswith(f"aborted {id}")
        assert said(capsys, "abort", "payments", id)[0] == 8
        _, listed = answered(capsys, "releases", "ls", "payments")
        assert [one["standing"] for one in listed] == ["aborted", "active", "superseded"]
        assert "not today" in said(capsys, "releases", "ls", "payments")[1]
    assert left[0] == 0


def test_status_tells_when_a_person_should_look(stage: Stage, capsys: Captured) -> None:
    code, out, _ = said(capsys, "status", "payments")
    assert (code, "! no live worker" in out) == (1, True)
    good, behind = Puppet("a"), Puppet("b", FAILS)
    with Puppets(stage, good, behind):
        code, out, _ = said(capsys, "status", "payments")
        assert code == 0
        assert "generation 0, what the topology file binds" in out
        assert main(["deploy", "payments", "score=score@2", "--min-ready", "1", "--reason", "hurry"]) == 1, "b has not switched"
        assert "not switched: b: failed" in capsys.readouterr().out
        code, out, _ = said(capsys, "status", "payments")
        assert code == 1
        assert "! b scores with generation 0, active is 1: the digest of model.onnx differs" in out
        code, told = answered(capsys, "status", "payments")
        assert (code, told["generation"], told["release"]["reason"]) == (1, 1, "hurry")
        assert [(one["worker"], one["live"], one["generation"]) for one in told["workers"]] == [("a", True, 1), ("b", True, 0)]
        assert told["wrong"] == ["b scores with generation 0, active is 1: the digest of model.onnx differs"]


def times_of(stage: Stage, kind: str) -> None:
    """Whose times the status topic keeps: CreateTime, the writers', or LogAppendTime, the broker's."""
    entry = ConfigEntry("message.timestamp.type", kind, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, stage.topics.status, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": stage.settings.brokers})
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(15)


def ghost(stage: Stage, ahead_s: float) -> None:
    """A report of a worker that does not exist, with a partition that does not, as if written then."""
    said = Puppet("ghost").status(0, "payments")
    value = encode(msgspec.structs.replace(said, partitions={"cards-9": Place(position=0)}))
    at = int((time.time() + ahead_s) * 1000)
    produce(ExternalBroker(stage.settings.brokers), [Record(stage.topics.status, value, b"worker/ghost", timestamp=at)])


def test_writers_times_on_the_status_topic_are_a_problem_and_set_no_clock(stage: Stage, capsys: Captured) -> None:
    """With one record from half an hour ahead, live workers stay live, and the operator's own messages are not too old."""
    times_of(stage, "CreateTime")
    ghost(stage, ahead_s=1800)
    with Puppets(stage, Puppet("a")):
        code, told = answered(capsys, "status", "payments")
        assert (code, [(one["worker"], one["live"]) for one in told["workers"]]) == (1, [("a", True), ("ghost", False)])
        problem = next(one for one in told["wrong"] if "keeps the writers' times" in one)
        assert problem.endswith(
            f"kafka-configs --bootstrap-server {stage.settings.brokers} --alter --entity-type topics "
            f"--entity-name {stage.topics.status} --add-config message.timestamp.type=LogAppendTime"
        )
        assert said(capsys, "deploy", "payments", "score=score@2")[0] == 0
        times_of(stage, "LogAppendTime")
        wait_for(lambda: not any("writers' times" in one for one in answered(capsys, "status", "payments")[1]["wrong"]), "a stamp")


def test_report_of_no_member_is_not_a_lost_worker_when_it_gets_old(stage: Stage, capsys: Captured) -> None:
    """It names a partition that nobody has, so it would never be replaced."""
    times_of(stage, "CreateTime")
    ghost(stage, ahead_s=-300)
    times_of(stage, "LogAppendTime")
    with Puppets(stage, Puppet("a")):
        code, told = answered(capsys, "status", "payments")
        assert (code, told["wrong"]) == (0, [])
        assert {one["worker"]: (one["live"], one["member"]) for one in told["workers"]} == {"a": (True, True), "ghost": (False, False)}


def letters(records: int, *causes: tuple[str, str, int, int]) -> DeadLetters:
    counted = [Cause(step=step, reason=reason, total=total, recent=recent) for step, reason, total, recent in causes]
    return DeadLetters(seconds=60.0, records=records, causes=counted)


def test_status_shows_dead_letters_per_second_and_ends_with_1_above_a_hundredth_of_the_records(stage: Stage, capsys: Captured) -> None:
    """Summed over the workers, and beside a worker that is too old to count them."""
    some = Puppet("a", dead_letters=letters(1000, ("decode", "DecodeError", 70, 6)))
    few = Puppet("b", dead_letters=letters(6000, ("decode", "DecodeError", 5, 0), ("score", "InferenceError", 1200, 54)))
    with Puppets(stage, some, few, Puppet("older")):
        code, out, _ = said(capsys, "status", "payments")
        assert code == 0, out
        assert ["score", "InferenceError", "0.9", "1,200"] in [line.split() for line in out.splitlines()]
        assert ["decode", "DecodeError", "0.1", "75"] in [line.split() for line in out.splitlines()]
        _, told = answered(capsys, "status", "payments")
        assert [(one["step"], one["per_second"], one["total"]) for one in told["dead_letters"]] == [
            ("score", 0.9, 1200),
            ("decode", 0.1, 75),
        ]
        assert {one["worker"]: one["dead_letters"] for one in told["workers"]}["older"] is None
    many = Puppet("a", dead_letters=letters(100, ("decode", "DecodeError", 1, 1), ("score", "InferenceError", 1, 1)), slowed=True)
    with Puppets(stage, many):
        code, out, _ = said(capsys, "status", "payments")
        assert code == 1
        assert "! a: 2.0% of the records of the last 60 s became dead letters, most of them in decode (DecodeError)" in out
        assert "! a: cards-0 slowed to dead_letter_rate" in out


def test_commands_that_write_end_with_8_and_name_the_workers_to_upgrade(stage: Stage, capsys: Captured) -> None:
    with Puppets(stage, Puppet("a"), Puppet.old("old")):
        for command in (["deploy", "payments", "score=score@2"], ["rollback", "payments", "--to", "0"]):
            code, out, err = said(capsys, *command, "--min-ready", "1")
            assert (code, out) == (8, "")
            *_, headline, line = err.splitlines()
            assert headline == (
                "error: 1 of 2 live workers run an older Penstock. Nothing was written; upgrade and restart these workers first:"
            )
            assert line == "  old: it reads control messages up to version 1; this Penstock writes version 2"
        code, told = answered(capsys, "deploy", "payments", "score=score@2")
        assert (code, told["released"], told["code"], told["release"]) == (8, False, "old-workers", None)
        stage.registry.alias("score", "production", "2")
        assert said(capsys, "watch", "payments", "--once")[0] == 8
        assert said(capsys, "deploy", "payments", "score=score@2", "--dry-run")[0] == 0
        code, out, _ = said(capsys, "status", "payments")
        assert code == 1
        assert "! old runs an older Penstock: it reads control messages up to version 1" in out
        code, told = answered(capsys, "status", "payments")
        assert (code, [(one["worker"], one["reads"]) for one in told["workers"]]) == (1, [("a", 2), ("old", 1)])
    assert log_of(stage).position == 0
    with Puppets(stage, Puppet("a")):
        assert said(capsys, "status", "payments")[0] == 0, "the old one was stopped"
        assert said(capsys, "deploy", "payments", "score=score@2")[0] == 0


@pytest.mark.parametrize(
    ("number", "ctrl_c"),
    [(signal.SIGINT, signal.SIG_DFL), (signal.SIGTERM, signal.SIG_DFL), (signal.SIGTERM, signal.SIG_IGN)],
    ids=["ctrl-c", "term", "term in the background of a script"],
)
def test_interrupted_deploy_is_taken_back_and_ends_with_130(stage: Stage, number: signal.Signals, ctrl_c: signal.Handlers) -> None:
    with Puppets(stage, Puppet("a", STUCK)):
        with started(stage, "deploy", "payments", "score=score@2", ctrl_c=ctrl_c) as process:
            wait_for(lambda: [known.standing for known in log_of(stage).releases.values()] == [Standing.PENDING], "the release", 30)
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (130, "")
        assert "aborted " in err
        assert err.splitlines()[-1] == "interrupted"
        assert [known.standing for known in log_of(stage).releases.values()] == [Standing.ABORTED]


def test_operator_that_was_killed_leaves_a_release_that_another_goes_on_with(stage: Stage, capsys: Captured) -> None:
    with Puppets(stage, Puppet("a", STUCK)):
        with started(stage, "deploy", "payments", "score=score@2") as process:
            wait_for(lambda: bool(log_of(stage).pending), "the release", 30)
            process.kill()
        (pending,) = log_of(stage).pending
        assert log_of(stage).generation == 0
        assert pending.id in said(capsys, "status", "payments")[1]
    with Puppets(stage, Puppet("a")):
        code, out, _ = said(capsys, "deploy", "payments", "--resume", pending.id[:18])
    assert code == 0
    assert out.startswith("payments: generation 1 is active")


def test_watch_releases_what_an_alias_was_moved_to_and_that_once(stage: Stage, capsys: Captured) -> None:
    with Puppets(stage, Puppet("a")):
        assert said(capsys, "watch", "payments", "--once")[:2] == (0, "")
        stage.registry.alias("score", "production", "2")
        code, out, _ = said(capsys, "watch", "payments", "--once")
        assert (code, out.splitlines()) == (0, ["score@production moved from 1 to 2", "generation 1 is active"])
        assert said(capsys, "watch", "payments", "--once")[:2] == (0, "")
        assert main(["rollback", "payments"]) == 0
        capsys.readouterr()
        assert said(capsys, "watch", "payments", "--once")[:2] == (0, ""), "who rolled it back is not overruled"
        (release, _) = log_of(stage).generations
        assert (release.release.reason, release.release.aliases) == ("score@production moved from 1 to 2", {"score": "score@production"})


def test_watch_goes_on_after_an_error_and_stops_cleanly(stage: Stage) -> None:
    with Puppets(stage, Puppet("a")):
        assert main(["deploy", "payments", "score=score@3"]) == 0
    with started(stage, "watch", "payments", "--interval", "0.2") as process:
        stage.registry.alias("score", "production", "2")
        assert process.stderr is not None
        heard = iter(process.stderr.readline, "")
        assert next((line for line in heard if "no live worker" in line), "")
        with Puppets(stage, Puppet("a", generation=1)):
            wait_for(lambda: log_of(stage).generation == 2, "the release", 30)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
    assert (process.returncode, err.splitlines()[-1]) == (0, "stopped")
    assert "score@production moved from 1 to 2" in out


def started(stage: Stage, *command: str, ctrl_c: signal.Handlers = signal.SIG_DFL) -> subprocess.Popen[str]:
    """Starts a command that takes a SIGINT as `ctrl_c` says, whatever who runs these tests has told them to do."""
    before = signal.signal(signal.SIGINT, ctrl_c)  # inherited
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "penstock", *command],
            env={**os.environ, **environment(stage)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
