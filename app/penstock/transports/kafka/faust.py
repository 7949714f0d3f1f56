"""Faust as the host of the loop: `faust.App(..., broker="penstock://host:port")` with our source and sink in place of Faust's.

Faust still subscribes, assigns the partitions, calls the rebalance hooks, runs the commit timer and hosts the agents. Faust
tracks offsets record by record, in ways that lose events. Here the tracker or the client answers those calls, or they do
nothing. The faults that this prevents are listed, case by case, in `docs/decisions/0001-record-batches-through-faust.md`.

One Faust event is what one `take` yielded of one topic: its value is the spans, which the topic's agent hands to the loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, TypeVar, cast

import faust
from aiokafka import ConsumerRebalanceListener
from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.structs import TopicPartition
from faust.assignor.client_assignment import ClientMetadata
from faust.assignor.partition_assignor import PartitionAssignor
from faust.tables.manager import TableManager
from faust.transport import base
from faust.transport import consumer as base_consumer
from faust.transport import producer as base_producer
from faust.types import TP, ConsumerMessage
from mode.types import ServiceT
from yarl import URL

from penstock.errors import TransportError
from penstock.settings import Settings
from penstock.transports.base import by_topic
from penstock.transports.kafka.sink import KafkaSink
from penstock.transports.kafka.source import KafkaSource
from penstock.transports.tracker import Span

__all__ = ["App", "Hosted", "Loop", "Transport"]

T = TypeVar("T")

# Faust logs each step of our services. Like its other logs, this is written from WARNING on.
FAUST_LOGGER: Final = logging.getLogger("faust.penstock")
LOOK_UP = 0.5  # seconds after which the fetch loop checks whether it should still run


class Loop(Protocol):
    """The part of `pipeline.Delivery` that Faust's hooks call."""

    rows: int

    async def room(self) -> bool: ...
    async def poll(self) -> bool: ...
    async def close(self, patience: float, bound: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Hosted:
    """What an app hosts. `fail` is called with the error that ends the worker: Faust would log its traceback, and go on waiting."""

    source: KafkaSource
    sink: KafkaSink
    loop: Loop
    fail: Callable[[BaseException], None]


class Consumer(base_consumer.Consumer):
    """Faust's consumer around our source."""

    logger = FAUST_LOGGER
    consumer_stopped_errors = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        hosted = cast(App, self.app).penstock
        self.source, self.penstock_loop, self._fail = hosted.source, hosted.loop, hosted.fail
        self.source.stopping = lambda: bool(self.app.should_stop)
        self._listener = Listener(self)
        self._owned = 0  # counts assignments; 0 while no partition is assigned
        self._assignments = 0

    # -- life cycle ----------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        await self.source.start(self.app.assignor)

    async def on_stop(self) -> None:
        await self.wait_empty()
        await self.source.stop()

    def close(self) -> None:
        """Faust calls this when a rebalance meets a stopping app; `on_stop` closes the client."""

    async def _or_fail(self, work: Awaitable[T], otherwise: T) -> T:
        """Returns the work's result; a TransportError that it raises ends the worker."""
        try:
            return await work
        except (TransportError, KafkaError) as error:
            self._fail(error)
            return otherwise

    # -- fetching ------------------------------------------------------------------------------------------------

    async def _drain_messages(self, fetcher: Any) -> None:
        """Runs Faust's fetcher task: waits for room, takes and delivers, for as long as the app runs."""
        try:
            await self._or_fail(self._take_and_deliver(fetcher), None)
        except asyncio.CancelledError:
            if not (self.should_stop or fetcher.should_stop):  # else Faust would report it as a crash of a rebalance
                raise

    async def _take_and_deliver(self, fetcher: Any) -> None:
        source, loop = self.source, self.penstock_loop
        while not (self.should_stop or fetcher.should_stop):
            if not self.flow_active:
                await self.wait(cast(Any, self.can_resume_flow))
                continue
            if not await self._or_fail(loop.room(), False):
                return
            for spans in by_topic(await source.look(loop.rows, LOOK_UP)):
                await self.callback(self._message(spans))

    def _message(self, spans: Sequence[Span]) -> ConsumerMessage:
        span = spans[-1]
        tp = TP(*span.partition)
        return ConsumerMessage(
            tp.topic, tp.partition, span.end - 1, span.records[-1].timestamp / 1000, 0, None, None, cast(Any, spans),
            None, None, None, tp, generation_id=self.app.consumer_generation_id,
        )  # fmt: skip

    # -- committing and rebalancing ------------------------------------------------------------------------------

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commits: Faust's commit timer calls this."""
        return await self._or_fail(self.penstock_loop.poll(), False)

    async def wait_empty(self) -> None:
        """Ends the loop's work of this assignment: called when partitions are revoked and when the worker stops.

        Within three quarters of the rebalance timeout, or the group would remove this worker while it drains. What is not finished by
        then is sent no more, and the next owner does it.
        """
        source = self.source
        patience = source.settings.drain_timeout
        bound = min(source.rebalance_timeout * 0.75, patience + source.settings.session_timeout * 0.75)
        try:
            await self._or_fail(self.penstock_loop.close(patience, bound), None)
        finally:
            source.revoke()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self._owned = 0
        self.source.settled = False
        # Faust does so only for a member that has partitions. One without would hand on what it takes as soon as its new partitions have
        # their place, and `resume`, which comes after that, empties the agents' queues.
        self.app.flow_control.suspend()
        try:
            await super().on_partitions_revoked(revoked)
            if self.app.should_stop:  # Faust drains, but not when it is stopping: workers that stop together disturb each other's drain
                await self.wait_empty()
        finally:
            self.source.revoke()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self._assignments += 1
        self._owned = self._assignments
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Faust calls this once the assignment is complete. On an IllegalStateError, Faust waits and calls it again."""
        owned = self._owned
        try:
            await self.source.place(lambda: bool(owned) and owned == self._owned)
        except IllegalStateError:
            raise
        except (TransportError, KafkaError) as error:
            self._fail(error)
            raise IllegalStateError(str(error)) from error

    async def subscribe(self, topics: Iterable[str]) -> None:
        self.source.subscribe(topics, self._listener)

    def assignment(self) -> set[TP]:
        return {TP(tp.topic, tp.partition) for tp in self.source.client.assignment()} if self.source.started else set()

    # -- other calls of Faust, which the tracker or the client answers ---------------------------------------------

    def highwater(self, tp: TP) -> int:
        return self.source.end_of((tp.topic, tp.partition)) or 0

    def topic_partitions(self, topic: str) -> int | None:
        return self.source.partitions_of(topic)

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        return partition

    async def position(self, tp: TP) -> int | None:
        return self.source.positions.expected((tp.topic, tp.partition))

    async def seek_to_committed(self) -> Mapping[TP, int]:
        await self.perform_seek()
        positions = self.source.positions
        return {TP(*partition): positions.expected(partition) or 0 for partition in positions.partitions}

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        return cast(Mapping[TP, int], await self.source.client.beginning_offsets(partitions))

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        return cast(Mapping[TP, int], await self.source.client.end_offsets(partitions))

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    # -- other calls of Faust, which do nothing here -------------------------------------------------------

    def track_message(self, message: Any) -> None:
        """Does nothing: spans track positions."""

    def ack(self, message: Any) -> bool:
        """Does nothing: a span is finished when its outputs have been acknowledged."""
        return False

    async def verify_all_partitions_active(self) -> None:
        """Does nothing: the source's `watch` does."""

    def on_buffer_full(self, tp: TP) -> None:
        """Does nothing: the loop limits the batches and bytes in flight."""

    on_buffer_drop = on_buffer_full

    async def create_topic(self, topic: str, *args: Any, **kwargs: Any) -> None:
        raise TransportError(f"topic {topic!r} is not created by a worker: run `penstock topics create`")

    # This transport does not support Faust's tables, transactions and per-record fetching.

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        raise TransportError("offsets are committed by spans")

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        raise TransportError("records are fetched by batches")

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        raise TransportError("records are fetched by batches")

    async def _seek(self, partition: TP, offset: int) -> None:
        raise TransportError("positions are kept by the tracker")

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        raise TransportError("positions are kept by the tracker")


class Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """Passes aiokafka's rebalance callbacks on to Faust, in the same loop."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._consumer.app.on_rebalance_start()
        await self._consumer.on_partitions_revoked({TP(tp.topic, tp.partition) for tp in revoked})

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        consumer = self._consumer
        generation = consumer.source.client._coordinator.generation
        consumer.app.consumer_generation_id = generation
        await consumer.on_partitions_assigned({TP(tp.topic, tp.partition) for tp in assigned}, generation)


class Producer(base_producer.Producer):
    """Faust's producer around our sink."""

    logger = FAUST_LOGGER

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sink = cast(App, self.app).penstock.sink

    async def on_start(self) -> None:
        await self.sink.start()

    async def on_stop(self) -> None:
        await self.sink.stop()

    async def flush(self) -> None:
        """Does nothing: `wait_empty` has waited for the acknowledgements, for as long as it may."""


class Transport(base.Transport):
    """Faust's transport interface over both."""

    Consumer: ClassVar[type[Consumer]] = Consumer
    Producer: ClassVar[type[Producer]] = Producer
    default_port: ClassVar[int] = 9092
    driver_version = "penstock"


class NoTables(TableManager):
    """Faust's table manager without tables. It completes a rebalance, but does not wait a second for tables to be declared."""

    logger = FAUST_LOGGER

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()


class Assignor(PartitionAssignor):
    """Faust's assignor, for members that show a text of their own (`App`)."""

    _shown: URL | None = None

    @property
    def _url(self) -> URL:
        return self._shown or super()._url

    def on_assignment(self, assignment: Any) -> None:
        """Takes an assignment. A static member that was started again gets its predecessor's, with what that one has shown."""
        self._shown = URL(ClientMetadata.loads(self._decompress(assignment.user_data)).url)
        try:
            super().on_assignment(assignment)
        finally:
            self._shown = None


class App(faust.App):
    """A Faust app that holds what it hosts, with the unused parts of Faust switched off."""

    logger = FAUST_LOGGER

    def _create_directories(self) -> None:
        """Returns None: nothing is kept on disk."""

    def on_init_dependencies(self) -> Iterable[ServiceT]:
        """Returns a sensor that does nothing, in place of Faust's monitor, which keeps unused figures of every event."""
        dependencies = super().on_init_dependencies()
        self.sensors.remove(self.monitor)
        self.sensors.add(faust.Sensor())
        return dependencies

    def __init__(self, settings: Settings, hosted: Hosted, *, shown: str = "") -> None:
        """`shown` is a text that the group's metadata holds for this member, where Faust writes the address of a member's pages."""
        self.penstock = hosted
        super().__init__(
            hosted.source.group,
            broker=[URL(f"penstock://{address.strip()}") for address in settings.brokers.split(",")],
            store="memory://",
            topic_disable_leader=True,
            topic_allow_declare=False,
            web_enabled=False,
            autodiscover=False,
            broker_commit_interval=settings.commit_interval,
            broker_session_timeout=settings.session_timeout,
            # Longer than our timeout, which can pass four times in `perform_seek`: when this one expires, Faust's recovery service ends
            # without an error.
            broker_request_timeout=max(settings.broker_timeout, settings.session_timeout) * 5,
            stream_wait_empty=True,
            stream_buffer_maxsize=settings.max_in_flight_batches + 1,
            processing_guarantee="at_least_once",
            TableManager=NoTables,
            canonical_url=shown or None,
            PartitionAssignor=Assignor,
        )
