"""Programs that follow releases on a real Kafka (`penstock.open(..., follow=...)`): swapped between two calls, and never waited for."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

import penstock as library
from penstock.errors import ConfigError, ModelError, TopicMissing, TopologyError, TransportUnavailable
from penstock.scorer import Scorer
from penstock.testing import models as onnx_models
from penstock.testing import wait_for
from penstock.worker.following import Followed
from tests.kafka.operating import CONFIG, configure, in_force, penstock, push, push_bad, status, wait_until_ready
from tests.kafka.running import Job, delete_topic

pytestmark = pytest.mark.broker

ROWS = [{"id": str(number), "x": float(number)} for number in range(1, 301)]  # more than one chunk


def follow(job: Job, **given: Any) -> Scorer:
    return library.open(job.file, follow=job.broker.bootstrap, config=job.folder / CONFIG, **given)


def followed(plan: Scorer) -> Followed:
    found = plan.followed
    assert found is not None
    return found


def factors(plan: Scorer) -> set[float]:
    """By how much the rows of one call were multiplied."""
    return {one["y"] / row["x"] for one, row in zip(plan.score(ROWS), ROWS, strict=True) if isinstance(one, dict)}


def until(plan: Scorer, generation: int) -> None:
    wait_for(lambda: plan.generation == generation, lambda: f"generation {generation}: {plan.followed}", 60.0)


def deploy(job: Job, factor: float) -> None:
    """No worker has to be there, and no program is waited for."""
    in_force(job, push(job, factor), "--min-ready", "0")


def test_answers_of_a_store_end_with_the_release_that_they_are_of(job: Job) -> None:
    """A program that looks answers up first, and follows: after a swap it scores, since the store holds nothing of these models."""
    with job.file.open("a") as file:
        file.write("precomputed: {inputs: [x], decimals: {x: 0}}\n")
    rows, store = job.folder / "rows.ndjson", f"sqlite:///{job.folder}/answers.db"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:10]))
    done = penstock(job, "precompute", str(job.file), "--in", str(rows), "--store", store)
    assert done.code == 0, done.err
    with follow(job, store=store, store_timeout=20.0) as plan:

        def answered() -> set[tuple[str, float]]:
            found = [one for one in plan.score(ROWS[:10]) if isinstance(one, dict)]
            return {(one["precomputed"], one["y"] / float(one["id"])) for one in found}

        assert answered() == {("hit", 2.0)}
        deploy(job, 3.0)
        until(plan, 1)
        assert answered() == {("fallback", 3.0)}


@contextmanager
def away(job: Job) -> Iterator[None]:
    """Inside, brokers and registry are away."""
    models = job.folder / "models"
    models.rename(job.folder / "gone")
    job.broker.kill()
    try:
        yield
    finally:
        (job.folder / "gone").rename(models)
        job.broker.restart()


def test_models_are_swapped_between_two_calls_while_the_program_scores(job: Job) -> None:
    """Several threads score all the time, and two scorers follow the same topology. Each call is of one generation."""
    seen: list[set[float]] = []
    over = threading.Event()
    with job.run() as worker, follow(job) as plan, follow(job) as second:
        wait_until_ready(job, worker)

        def score() -> None:
            while not over.is_set():
                seen.append(factors(plan))

        threads = [threading.Thread(target=score) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for generation, factor in ((1, 3.0), (2, 4.0)):
                in_force(job, push(job, factor))
                until(plan, generation)
                until(second, generation)
            assert [one["pid"] for one in status(job)["workers"]] == [worker.process.pid]
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert factors(plan) == factors(second) == {4.0}
        assert plan.score_columns({"id": ["1"], "x": [2.0]}).columns["y"].tolist() == [8.0]
        now = followed(plan)
        assert (now.generation, now.active, now.reason, now.problems) == (2, 2, "", ())
        assert now.release
        wait_for(lambda: followed(plan).seconds < 3.0, "a log that is confirmed")
    assert [one for one in seen if len(one) != 1] == []
    assert {factor for one in seen for factor in one} >= {2.0, 4.0}


def test_a_release_that_cannot_be_served_leaves_the_live_one_and_is_reported(job: Job) -> None:
    told: list[Followed] = []
    with follow(job, on_change=told.append) as plan:
        bad = push_bad(job, onnx_models.crashing())
        in_force(job, bad, "--min-ready", "0")
        wait_for(lambda: bool(followed(plan).problems), "the problem", 60.0)
        now = followed(plan)
        assert (now.generation, now.active) == (0, 1)
        assert f"nodes.double: {bad}: the model killed its process" in now.problems[0]
        assert factors(plan) == {2.0}
        assert told[-1].problems == now.problems
        deploy(job, 3.0)
        until(plan, 2)
        wait_for(lambda: told[-1].generation == 2 and not told[-1].problems, lambda: str(told[-1]))
        assert factors(plan) == {3.0}
    what = [(one.generation, one.reason, one.problems) for one in told]
    assert all(before != after for before, after in pairwise(what)), "not called for `active` alone"
    assert what[0] != (0, "", ())


def test_what_a_callback_raises_ends_nothing(job: Job) -> None:
    def complain(_: Followed) -> None:
        raise RuntimeError("no")

    with follow(job, on_change=complain) as plan:
        for generation in (1, 2):
            deploy(job, 2.0 + generation)
            until(plan, generation)
        assert factors(plan) == {4.0}


def test_a_program_without_the_keys_is_told_what_it_can_give(job: Job) -> None:
    """The setting as Python gives it, not the flag of a command."""
    deploy(job, 3.0)
    other = job.folder / "other.toml"
    other.write_text("")
    with pytest.raises(ConfigError, match=r"signed with keys that this file does not have.*start with from_file=True"):
        follow(job, trust=other, cache=job.folder / "other")
    with follow(job, trust=other, cache=job.folder / "other", from_file=True) as plan:
        assert factors(plan) == {2.0}


def test_unsigned_messages_change_nothing_without_the_setting(job: Job) -> None:
    configure(job, unsigned_control=True)
    with follow(job, unsigned_control=False, cache=job.folder / "other") as plan, follow(job) as trusting:
        deploy(job, 3.0)
        until(trusting, 1)
        wait_for(lambda: plan._following is not None and plan._following.folding.position >= 2, "the messages")
        assert (plan.generation, factors(plan)) == (0, {2.0})
        assert factors(trusting) == {3.0}


@pytest.mark.broker("restart")
def test_scoring_goes_on_and_tells_how_old_it_is_while_brokers_and_registry_are_away(job: Job) -> None:
    told: list[Followed] = []
    with follow(job, on_change=told.append) as plan:
        deploy(job, 3.0)
        until(plan, 1)
        with away(job):
            wait_for(lambda: bool(followed(plan).reason), "a reason", 60.0)
            before = followed(plan).seconds
            assert factors(plan) == {3.0}
            assert "the control log is not confirmed" in followed(plan).reason
            wait_for(lambda: followed(plan).seconds > before, "time that passes")
        wait_for(lambda: not followed(plan).reason, "brokers that answer again", 60.0)
        deploy(job, 4.0)
        until(plan, 2)
        wait_for(lambda: followed(plan).seconds < 5.0, "a log that is confirmed", 60.0)
    assert any(one.reason for one in told)


@pytest.mark.broker("pause")
def test_brokers_that_hang_are_noticed_and_followed_again(job: Job) -> None:
    with follow(job) as plan:
        job.broker.pause()
        try:
            wait_for(lambda: bool(followed(plan).reason), "a reason", 60.0)
            assert factors(plan) == {2.0}
            began = time.monotonic()
            with pytest.raises(TransportUnavailable):
                follow(job, cache=job.folder / "nothing-kept", broker_timeout=1.0)
            assert time.monotonic() - began < 10.0
        finally:
            job.broker.resume()
        deploy(job, 3.0)
        until(plan, 1)


@pytest.mark.broker("restart")
def test_a_program_starts_from_what_it_kept_while_brokers_and_registry_are_away(job: Job) -> None:
    """Its last known release scores; what was released since then follows once the brokers answer. Another program has kept nothing."""
    with follow(job) as plan:
        deploy(job, 3.0)
        until(plan, 1)
        wait_for(lambda: followed(plan).seconds < 3.0, "a log that is confirmed")
    deploy(job, 4.0)  # never read by the program
    with away(job), pytest.raises(TransportUnavailable):
        follow(job, cache=job.folder / "nothing-kept", broker_timeout=1.0)
    job.broker.kill()
    try:
        plan = follow(job, broker_timeout=2.0)
        assert (plan.generation, factors(plan)) == (1, {3.0})
        now = followed(plan)
        assert "the control log is not confirmed" in now.reason
        assert now.seconds > 1.0
    finally:
        job.broker.restart()
    with plan:
        until(plan, 2)
        assert factors(plan) == {4.0}
        wait_for(lambda: (followed(plan).reason, followed(plan).seconds < 5.0) == ("", True), "a log that is confirmed", 60.0)


@pytest.mark.broker("restart")
def test_generation_0_starts_without_brokers_and_registry_too(job: Job) -> None:
    """From the cache, as long as the topology file names what it named."""
    with follow(job) as plan:
        wait_for(lambda: plan._following is not None and bool(plan._following._file), "generation 0 in the cache")
    with away(job):
        with follow(job, broker_timeout=2.0) as plan:
            assert (plan.generation, followed(plan).release, factors(plan)) == (0, "", {2.0})
        text = job.file.read_text()
        job.file.write_text(text.replace("double@1", "double@2"))
        with pytest.raises(TopologyError, match="there is no model 'double'"):
            follow(job, broker_timeout=2.0)
        job.file.write_text(text)


@pytest.mark.broker("restart")
def test_what_was_kept_is_checked_when_it_is_read(job: Job) -> None:
    """Its checksum, the keys that are trusted by then, and the digests of the models."""
    with follow(job) as plan:
        deploy(job, 3.0)
        deploy(job, 4.0)
        until(plan, 2)
        first, second = (one.release for one in plan._following.folding.log.generations)  # type: ignore[union-attr]
    (kept,) = (job.folder / "cache" / "control").iterdir()
    whole = kept.read_bytes()
    trust = (job.folder / "trust.toml").read_text()
    with away(job):
        kept.write_bytes(whole.replace(b'"position":', b'"position":1'))
        with pytest.raises(TransportUnavailable):
            follow(job, broker_timeout=1.0)
        kept.write_bytes(whole)

        (job.folder / "trust.toml").write_text("")
        with pytest.raises(ConfigError, match="signed with keys that this file does not have"):
            follow(job, broker_timeout=2.0)
        (job.folder / "trust.toml").write_text(trust)

        done = penstock(job, "keys", "revoke", "alice", "--at", first.time)
        assert done.code == 0, done.err
        with follow(job, broker_timeout=2.0) as plan:
            assert (plan.generation, factors(plan)) == (0, {2.0})
        (job.folder / "trust.toml").write_text(trust)

        damaged = job.folder / "cache" / "models" / second.bindings["double"].manifest.replace(":", "-") / "model.onnx"
        damaged.chmod(0o600)
        damaged.write_bytes(onnx_models.linear([5.0]))
        with pytest.raises(ModelError, match="double@3"):
            follow(job, broker_timeout=2.0)
    with follow(job) as plan:
        assert factors(plan) == {4.0}


@pytest.mark.broker("restart")
def test_close_does_not_wait_for_brokers_that_are_away_or_for_a_preparation(job: Job) -> None:
    plan = follow(job)
    announced = penstock(job, "deploy", "doubles", f"double={push_bad(job, onnx_models.endless())}", "--min-ready", "0")
    assert announced.code == 0, announced.err
    following = plan._following
    assert following is not None
    wait_for(lambda: following.cases.preparing != "", "a preparation", 60.0)
    with away(job):
        began = time.monotonic()
        plan.close()
        assert time.monotonic() - began < 4.0
    assert not following._thread.is_alive()
    with pytest.raises(RuntimeError, match="is closed"):
        plan.score(ROWS)
    assert "has ended" in followed(plan).reason


def test_programs_with_an_event_loop_follow_too(job: Job) -> None:
    async def serve() -> set[float]:
        plan = follow(job)
        assert (await asyncio.to_thread(plan.score, ROWS[0])) == {"id": "1", "y": 2.0}
        releases = library.connect(job.broker.bootstrap, config=job.folder / CONFIG)
        await asyncio.to_thread(releases.deploy, "doubles", double=push(job, 3.0), min_ready=0)
        await asyncio.to_thread(until, plan, 1)
        found = factors(plan)
        plan.close()
        return found

    assert asyncio.run(serve()) == {3.0}


def test_a_program_that_does_not_close_leaves_no_thread(job: Job) -> None:
    plan = follow(job)
    following = plan._following
    assert following is not None
    assert factors(plan) == {2.0}
    del plan
    gc.collect()
    wait_for(lambda: not following._thread.is_alive(), "the end of the thread")


PROGRAM = """
import atexit, sys, threading, penstock
file, brokers, config, cache = sys.argv[1:]
plan = penstock.open(file, follow=brokers, config=config, cache=cache)
following = [one for one in threading.enumerate() if one.name.startswith("penstock-follow")]
print(plan.score([{"id": "1", "x": 2.0}]), flush=True)
"""


def program(job: Job, more: str) -> subprocess.Popen[str]:
    """A program that follows, with what it does at last."""
    command = [sys.executable, "-c", PROGRAM + more, str(job.file), job.broker.bootstrap, str(job.folder / CONFIG), str(job.folder / "own")]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_program_that_ends_without_a_close_says_nothing(job: Job) -> None:
    """What it follows with meets an interpreter that takes no more work."""
    ended = program(job, "atexit.register(lambda: [one.join(30) for one in following])")
    out, err = ended.communicate(timeout=120)
    assert (ended.returncode, out, err) == (0, "[{'id': '1', 'y': 4.0}]\n", "")


def test_brokers_that_are_away_are_named_once_a_minute(job: Job) -> None:
    """The client library warns many times a second, and the program has set up no logging. What it logs itself is not touched."""
    running = program(job, "import logging\nfor line in sys.stdin: logging.getLogger('aiokafka').warning('own')")
    assert running.stdin is not None
    assert running.stdout is not None
    assert running.stderr is not None
    assert running.stdout.readline()
    lines: list[str] = []
    reading = threading.Thread(target=lambda: lines.extend(running.stderr or ()))
    reading.start()
    with running:
        with away(job):
            wait_for(lambda: any("control log is not confirmed" in one for one in lines), lambda: "".join(lines), 60.0)
        running.stdin.write("\n\n")
        running.stdin.close()
        reading.join(60)
    told = Counter(re.sub(r"\d+|: .*", "", one) for one in lines)
    assert told.pop("own\n") == 2
    assert max(told.values()) == 1, told


def test_a_log_that_was_made_anew_is_not_believed(job: Job) -> None:
    with follow(job) as plan:
        deploy(job, 3.0)
        until(plan, 1)
        delete_topic(job.broker, job.releases.control)
        wait_for(lambda: job.releases.control in followed(plan).reason, lambda: str(followed(plan)), 60.0)
        assert "scoring continues with generation 1" in followed(plan).reason
        assert factors(plan) == {3.0}
    shutil.rmtree(job.folder / "cache" / "control")
    with pytest.raises(TopicMissing):
        follow(job)
