"""Workers that score nothing: they fold the control topic, and say on the status topic what they are told to.

So what an operator does can be tried against workers that fail, fall silent or never get ready, without bringing that about in real ones.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata

from penstock.control.lifecycle import State
from penstock.control.log import Kind, Log
from penstock.control.messages import NEWEST, timestamp
from penstock.control.status import Boundary, DeadLetters, Place, Progress, Status, WorkerStatus, encode, key_of
from penstock.control.topics import Topics
from penstock.control.trust import Judge, Trust
from penstock.control.trust.member import Identity
from penstock.registry.directory import DirectoryRegistry
from penstock.settings import Settings
from penstock.testing import Broker, create_release_topics, unique
from penstock.testing import models as tiny
from penstock.topology.parse import parse
from penstock.topology.spec import Topology
from penstock.transports.kafka.connection import Admin, aiokafka_arguments
from penstock.transports.kafka.journal import Reader, Writer

SCHEMA = '{"type": "record", "name": "Card", "fields": [{"name": "id", "type": "string"}, {"name": "amount", "type": "double"}]}'
TOPOLOGY = """\
topology: payments
sources: {cards: {topic: cards, schema: card.avsc, id: id}}
nodes:
  scaled: {kind: feature, model: scale@1, inputs: {x: amount}}
  score: {kind: model, model: score@production, inputs: {x: scaled}}
sinks: {scores: {topic: scores, fields: {id: id, score: score}}}
"""

READY = (State.ANNOUNCED, State.FETCHING, State.QUARANTINED, State.READY)
STUCK = (State.ANNOUNCED, State.FETCHING)
FAILS = (State.ANNOUNCED, State.FETCHING, State.FAILED)


@dataclass(frozen=True)
class Stage:
    """A topology with models scale@1 and score@1..3 (production: 1), and topics of its own for its releases."""

    folder: Path
    settings: Settings
    topology: Topology
    topics: Topics

    @property
    def registry(self) -> DirectoryRegistry:
        return DirectoryRegistry(self.settings.models)

    @property
    def flags(self) -> tuple[str, ...]:
        """What every command is given."""
        told = self.settings
        return (
            "--brokers", told.brokers, "--application", told.application, "--models", str(told.models), "--schemas", str(told.schemas),
            "--unsigned-control",
        )  # fmt: skip


def make_stage(broker: Broker, folder: Path) -> Stage:
    (folder / "payments.yaml").write_text(TOPOLOGY)
    (folder / "schemas").mkdir()
    (folder / "schemas" / "card.avsc").write_text(SCHEMA)
    registry = DirectoryRegistry(folder / "models")
    registry.publish("scale", tiny.linear([1.0]))
    for weight in (1.0, 2.0, 3.0):
        registry.publish("score", tiny.linear([weight]), metrics={"auc": 0.5 + weight / 10})
    registry.alias("score", "production", "1")
    (folder / "trust.toml").touch()
    settings = Settings(
        brokers=broker.bootstrap, application=unique("app"), models=folder / "models", schemas=folder / "schemas", broker_timeout=15.0,
        unsigned_control=True, trust=folder / "trust.toml",
    )  # fmt: skip
    return Stage(folder, settings, parse(folder / "payments.yaml"), create_release_topics(broker, settings.application, "payments"))


@dataclass
class Puppet:
    """One of them. `script` is what it says of every release; FAILED with `reason`.

    One that reads an older version than is written refuses every entry as newer, and has nothing to say of a release.
    """

    name: str
    script: Sequence[State] = READY
    reason: str = "the digest of model.onnx differs"
    models: Mapping[str, str] = field(default_factory=lambda: {"scaled": "scale@1", "score": "score@1"})
    generation: int = 0
    reads: int = NEWEST
    said: list[Progress] = field(default_factory=list)
    newer: int = 0
    dead_letters: DeadLetters | None = None
    slowed: bool = False
    number: int = 0

    @property
    def identity(self) -> Identity | None:
        """What it shows in the group; an old one shows nothing."""
        return self._identity if self.reads >= NEWEST else None

    def __post_init__(self) -> None:
        self._identity = Identity.new(self.name)

    @classmethod
    def old(cls, name: str) -> Self:
        return cls(name, script=(), reads=NEWEST - 1)

    def status(self, wanted: int, topology: str) -> WorkerStatus:
        return WorkerStatus(
            worker=self.name, topology=topology, host="here", pid=1, started=timestamp(), time=timestamp(), generation=self.generation,
            wanted=self.generation if self.reads < NEWEST else wanted, ready=True, models=dict(self.models), releases=list(self.said),
            reads=self.reads, refused={"newer": self.newer} if self.newer else {},
            partitions={"cards-0": Place(position=10 * self.generation, lag=3, slowed=self.slowed)}, dead_letters=self.dead_letters,
            number=self.number if self.identity else 0,
        )  # fmt: skip

    def say(self, id: str, state: State) -> None:
        detail = self.reason if state is State.FAILED else ""
        self.said = [one for one in self.said if one.id != id] + [Progress(id=id, state=state, detail=detail, since=timestamp())]


class Puppets:
    """Several of them in a thread. On leaving they take their status away, as workers do that stop."""

    def __init__(self, stage: Stage, *puppets: Puppet, begin: threading.Event | None = None) -> None:
        """With `begin`, they are members of the group at first, and report from then on."""
        self._stage, self._puppets, self._begin = stage, puppets, begin
        self._done = threading.Event()
        self._killed = False
        self._heard = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="puppets")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._heard.wait(20), "the puppets have not said a word"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        self._thread.join(20)

    def fall_silent(self) -> None:
        """Never another word, and no farewell: as when they are killed."""
        self._killed = True
        self._done.set()

    async def _serve(self) -> None:
        stage = self._stage
        cluster = Admin(stage.settings).cluster_id()
        connection = aiokafka_arguments(stage.settings)
        self._log = Log(
            Judge(stage.topology.name, cluster, stage.topics.control, Trust.load(stage.settings.trust), stage.settings.unsigned_control)
        )
        async with (
            Reader(connection, stage.topics.control, patience=15) as control,
            Writer(connection, patience=15) as self._writer,
            joined(stage, self._puppets),
        ):
            if self._begin is not None:
                self._heard.set()
                await asyncio.to_thread(self._begin.wait, 30)
            await self._tell()
            self._heard.set()
            last = time.monotonic()
            while not self._done.is_set():
                for entry in await control.take(0.05):
                    for one in self._puppets:
                        one.newer += one.reads < NEWEST
                    before = self._log.generation
                    outcome = self._log.apply(entry)
                    if outcome.kind is Kind.RELEASED:
                        await self._stage_all(outcome.id or "")
                    elif self._log.generation > before:
                        await self._switch_all(outcome.id or "")
                if time.monotonic() - last > 0.3:
                    last = time.monotonic()
                    await self._tell()
            for one in () if self._killed else self._puppets:
                await self._writer.write(stage.topics.status, f"worker/{one.name}".encode(), None)

    async def _stage_all(self, id: str) -> None:
        for step in range(max(len(one.script) for one in self._puppets)):
            for one in self._puppets:
                if step < len(one.script):
                    one.say(id, one.script[step])
            await self._tell()

    async def _switch_all(self, id: str) -> None:
        newest = self._log.generations[-1]
        state = State.LIVE if newest.live.id == id else State.CANDIDATE if newest.candidate else State.ABORTED
        for one in self._puppets:
            if State.READY in one.script:
                one.generation = self._log.generation
                one.say(id, state)
                boundary = Boundary(
                    topic="cards", partition=0, offset=10 * one.generation, generation=one.generation, worker=one.name, time=timestamp()
                )
                await self._say(one, boundary)
        await self._tell()

    async def _tell(self) -> None:
        for one in self._puppets:
            one.number += 1
            await self._say(one, one.status(self._log.generation, self._stage.topology.name))

    async def _say(self, one: Puppet, said: Status) -> None:
        value = encode(said)
        await self._writer.write(self._stage.topics.status, key_of(said), value, one.identity.sign(value) if one.identity else b"")


@asynccontextmanager
async def joined(stage: Stage, puppets: Sequence[Puppet]) -> AsyncIterator[None]:
    """Inside, each puppet is a member of the consumer group: what is said by others is no worker's word."""
    clients = []
    for one in puppets:
        assignor = RoundRobinPartitionAssignor()
        shown = json.dumps({"url": one.identity.shown if one.identity else "http://here:6066"}).encode()
        assignor.metadata = lambda topics, shown=shown: ConsumerProtocolMemberMetadata(0, list(topics), shown)
        clients.append(
            AIOKafkaConsumer(
                stage.topics.status, **aiokafka_arguments(stage.settings), group_id=f"{stage.settings.application}.{stage.topology.name}",
                partition_assignment_strategy=[assignor], heartbeat_interval_ms=100, enable_auto_commit=False,
            )
        )  # fmt: skip
    try:
        await asyncio.gather(*(client.start() for client in clients))
        yield
    finally:
        await asyncio.gather(*(client.stop() for client in clients))
