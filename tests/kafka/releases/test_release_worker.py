"""One worker's side of the control log on a real Kafka, in this process: what it makes of one that is odd, flooded, cut or made anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from penstock import runtime
from penstock.binding import Binding
from penstock.control.lifecycle import State
from penstock.control.messages import Activate, Message, Release, new_id, timestamp
from penstock.control.topics import CONTROL_CONFIG
from penstock.control.trust import seal
from penstock.errors import TransportError, TransportUnavailable
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.settings import Settings
from penstock.telemetry import Metrics
from penstock.testing import Broker, committed, create_topics, end_offsets, produce, wait_for
from penstock.testing import models as onnx_models
from penstock.transports.kafka.connection import Admin, aiokafka_arguments
from penstock.transports.kafka.journal import Reader
from penstock.worker.follower import Follower
from tests.kafka.running import Job, delete_topic, make_job

pytestmark = [pytest.mark.broker, pytest.mark.measured]

T = TypeVar("T")
PATIENCE_S = 3.0
NOWHERE = Binding(uri="models:/double/77", digest=f"sha256:{0:064}", manifest=f"sha256:{0:064}")


@pytest.fixture
def job(broker: Broker, tmp_path: Path) -> Job:
    return make_job(broker, tmp_path)


class Following:
    """A worker that follows the log, scoring nothing, and an operator who says what he likes."""

    def __init__(self, job: Job, releases: Follower, cluster: str) -> None:
        self.job, self.releases, self.cluster = job, releases, cluster

    def release(self, base: int, binding: Binding) -> Release:
        return Release(**self._opening(new_id()), base=base, bindings={"double": binding})

    def activation(self, release: Release) -> Activate:
        return Activate(**self._opening(release.id))

    def _opening(self, id: str) -> dict[str, Any]:
        return {
            "id": id, "topology": "doubles", "cluster": self.cluster, "control_topic": self.job.releases.control, "time": timestamp(),
            "author": "somebody",
        }  # fmt: skip

    async def say(self, *messages: Message | bytes) -> None:
        """Writes messages, or whatever bytes."""
        written = [(b"?", one) if isinstance(one, bytes) else (one.id.encode(), seal(one, None)) for one in messages]
        await asyncio.to_thread(
            produce, self.job.broker, [Record(self.job.releases.control, value, key, partition=0) for key, value in written]
        )

    def state(self, release: Release) -> State | None:
        case = self.releases.cases.known.get(release.id)
        return case.state if case else None

    async def until(self, what: str, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():  # noqa: ASYNC110  many conditions, and none of them has an event
                await asyncio.sleep(0.01)

    async def in_force(self, factor: float) -> None:
        """Registers a version, and sees it in force here."""
        generation = self.releases.deployment.generation
        release = self.release(generation, push(self.job, factor))
        await self.say(release)
        await self.say(self.activation(release))
        await self.until("the next generation", lambda: self.releases.deployment.generation == generation + 1)


def push(job: Job, factor: float) -> Binding:
    found = DirectoryRegistry(job.folder / "models").publish("double", onnx_models.linear([factor]))
    return Binding(uri=f"models:/double/{found.version}", digest=found.digest, manifest=found.manifest_digest)


def settings_of(job: Job) -> Settings:
    return Settings(
        brokers=job.broker.bootstrap, application=job.application, models=job.folder / "models", schemas=job.folder / "schemas",
        cache=job.folder / "cache", unsigned_control=True, broker_timeout=PATIENCE_S, status_interval=0.5,
    )  # fmt: skip


@asynccontextmanager
async def following(job: Job) -> AsyncIterator[Following]:
    settings = settings_of(job)
    cluster = await asyncio.to_thread(Admin(settings).cluster_id)
    loaded = runtime.load(job.file, models=settings.models, schemas=settings.schemas)
    failures: list[BaseException | None] = []
    async with Follower(loaded, settings, cluster, Metrics()).following(failures.append) as releases:
        yield Following(job, releases, cluster)
    assert failures == []


def run(act: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return asyncio.run(asyncio.wait_for(act(), 120))


def test_who_has_caught_up_scores_with_what_is_in_force_however_much_else_was_said(job: Job) -> None:
    """A slice of the log is folded in pieces: what was read of it is not what was folded."""

    async def act() -> None:
        async with following(job) as it:
            releases, release = it.releases, it.release(0, push(job, 3.0))
            await it.say(release)
            await it.until("a release that is ready", lambda: it.state(release) is State.READY)
            end = releases.folding.reader.position + 221

            async def told_at_once() -> int:
                return end

            releases.folding.reader.end = told_at_once  # type: ignore[method-assign]  # a broker that is quicker than this host
            saying = asyncio.create_task(it.say(*[b"?"] * 220, it.activation(release)))
            while releases.folding.reader.position < end:  # noqa: ASYNC110  the moment between two pieces is what this is about
                await asyncio.sleep(0)
            await releases.caught_up()
            assert releases.deployment.generation == 1
            await saying

    run(act)


def test_what_takes_an_offset_of_the_log_and_is_no_record_is_waited_for_by_nobody(job: Job) -> None:
    """The end of a transaction takes an offset, and whoever may write to the topic may write it."""

    def transact() -> None:
        producer = Producer({"bootstrap.servers": job.broker.bootstrap, "transactional.id": job.application})
        producer.init_transactions()
        producer.begin_transaction()
        producer.produce(job.releases.control, b"?", b"?", partition=0)
        producer.commit_transaction()

    async def act() -> None:
        async with following(job) as it:
            await asyncio.to_thread(transact)
            await it.releases.caught_up()
            await it.in_force(3.0)
            await it.releases.caught_up()

    run(act)


def test_a_journal_that_brings_nothing_any_more_is_not_waited_for_for_ever(job: Job) -> None:
    async def act() -> None:
        async with Reader(aiokafka_arguments(settings_of(job)), job.releases.control, patience=1.0) as reader:
            async for _ in reader.until(1):
                pass

    with pytest.raises(TransportUnavailable, match="offset 0 did not come within 1 s"):
        run(act)


def test_many_pending_releases_that_failed_are_each_tried_once(job: Job) -> None:
    async def act() -> None:
        async with following(job) as it:
            await it.say(*(it.release(0, NOWHERE) for _ in range(30)))
            await it.until("failures", lambda: it.releases._metrics.releases_failed.value >= 30)
            await it.say(last := it.release(0, push(job, 3.0)))
            await it.until("the last one", lambda: it.state(last) is State.READY)
            assert it.releases._metrics.releases_failed.value == 30

    run(act)


def test_a_log_that_has_lost_its_beginning_says_nothing_to_anybody(job: Job) -> None:
    """Folded from its middle it would say that nothing was released, and a worker would serve what the topology file binds."""

    async def act() -> None:
        async with following(job) as it:
            await it.in_force(3.0)

    run(act)
    admin = AdminClient({"bootstrap.servers": job.broker.bootstrap})
    for deleted in admin.delete_records([TopicPartition(job.releases.control, 0, 1)]).values():
        deleted.result(15)
    with pytest.raises(TransportError, match="has lost its first 1 records"):
        run(act)


def test_a_log_that_was_made_anew_is_not_believed_and_partitions_move_all_the_same(job: Job) -> None:
    def anew() -> None:
        control = job.releases.control
        delete_topic(job.broker, control)
        create_topics(job.broker, {control: 1}, CONTROL_CONFIG)

    async def act() -> None:
        async with following(job) as it:
            await it.in_force(3.0)
            await asyncio.to_thread(anew)
            await it.until("the problem", lambda: "it was created again" in it.releases.problems.about("control"))
            await it.say(*[b"?"] * 10)
            await it.releases.caught_up()
            assert it.releases.deployment.generation == 1
            assert "ignores later ones" in it.releases.problems.about("control")

    run(act)


@pytest.mark.broker("pause")
def test_a_worker_that_is_stopped_while_the_brokers_are_silent_ends_in_time_and_in_order(broker: Broker, job: Job) -> None:
    with job.run("--unsigned-control", drain_timeout="2", session_timeout="3") as worker:
        worker.wait_until_assigned()
        job.send(range(1, 9))
        ends = end_offsets(broker, job.source)
        wait_for(lambda: committed(broker, job.group, job.source) == ends, "the commit")  # so nothing is left to be done
        broker.pause()
        try:
            assert worker.stop() == 0, worker.log
        finally:
            broker.resume()
        assert "could not report on the status topic that this worker stops" in worker.log


def test_versions_that_are_unloaded_and_causes_of_refusal_bound_the_series(job: Job) -> None:
    """The generation that scores and the one before have series by node; a refused message is counted under its cause."""

    async def act() -> None:
        async with following(job) as it:
            metrics = it.releases._metrics
            for factor in (3.0, 4.0, 5.0):
                for node, version in it.releases.deployment.primary.plan.versions.items():
                    metrics.node(node, version).rows.inc(10)
                await it.in_force(factor)
            loaded = {one.plan.versions["double"].partition("@")[2] for one in it.releases.deployment.loaded}
            assert len(loaded) == 2
            assert {version for (_, _, version), _ in metrics.node_rows} <= loaded
            assert metrics.generation.value == 3
            await it.say(b"?")
            await it.until("the refusal", lambda: metrics.snapshot()["control_refused"] == {"malformed": 1})

    run(act)
