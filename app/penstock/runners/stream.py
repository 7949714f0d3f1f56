"""The stream runner: a Faust app with one agent a source, each leading its deliveries through a pipeline.

A delivery's journey: 1. is its assignment still ours? 2. chunks through the pipeline, 3. outputs and dead letters to
the producer, in order, 4. the next delivery, while 5. this one waits for the broker's acknowledgements and only then
finishes its spans, which is what lets their offsets be committed.

The event loop belongs to everybody: the models run on it in slices of one chunk, and heartbeats, fetches and sends
have their turn in between. A model that needs longer than a slice may last runs in a thread instead.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from itertools import chain
from typing import Any, cast

from penstock import runtime
from penstock.control.status import Place
from penstock.control.topics import Topics
from penstock.engine import Live, Serving
from penstock.engine.observe import Observers
from penstock.errors import DeliveryFailed, EncodeError, InferenceError, PenstockError, RecordError, SettingsError, TransportUnavailable
from penstock.model.session import Session
from penstock.parcel import Parcel
from penstock.record import RecordLike
from penstock.runners.health import Phase
from penstock.runners.pipeline import Chunk, Pipeline, Slice
from penstock.runners.releases import Releases
from penstock.runners.vitals import Vitals
from penstock.runtime import Loaded
from penstock.settings import Settings
from penstock.telemetry import Metrics
from penstock.telemetry.health import Pages
from penstock.transports.kafka.connection import Admin, TopicInfo, aiokafka_arguments
from penstock.transports.kafka.consumer import Consumer, Delivery
from penstock.transports.kafka.options import TransportOptions
from penstock.transports.kafka.producer import Producer, RecordTooLarge, when_delivered
from penstock.transports.kafka.tracker import Span
from penstock.transports.kafka.transport import App

__all__ = ["StreamRunner"]

logger = logging.getLogger(__name__)

Serve = Callable[[Pages], AbstractAsyncContextManager[None]]

BATCH_SECONDS = 1.0  # a delivery should take no longer: rebalances and shutdowns wait for it
COLLECT_EVERY = 10.0  # seconds between two runs of the cyclic garbage collector
GRACE = 5.0  # seconds that a stop may take on top of its bound, before the process ends the hard way


class StreamRunner:
    """Runs a topology on Kafka until it is told to stop. One per process; `run` blocks."""

    def __init__(self, loaded: Loaded, settings: Settings, *, serve: Serve | None = None) -> None:
        """`serve` shows the monitoring pages for as long as the worker lives."""
        self.loaded = loaded
        self.name = loaded.topology.name
        self.settings = settings
        self.metrics = Metrics()
        self.live: Live[Any]
        self.releases: Releases | None = None
        self.topics: Mapping[str, TopicInfo] = {}
        self.app: App | None = None
        self._failure: BaseException | None = None
        self._over: asyncio.Event
        self.observers = Observers(metrics=self.metrics)
        self._serve = serve
        self.vitals = Vitals(
            settings,
            self.metrics,
            {stage.source.name: stage.source.topic for stage in loaded.wiring.stages},
            consumer=lambda: None if self.app is None else self.consumer.standing(),
            sessions=self._sessions,
            control=lambda: "" if self.releases is None else self.releases.out_of_touch(),
            models=lambda: "" if hasattr(self, "live") else "being made ready",
        )
        self.models = asyncio.Lock()  # a session runs once at a time, also when another source's chunk is in a thread

    def run(self) -> None:
        """Returns after a clean stop (SIGTERM, Ctrl-C).

        Raises TransportError when the brokers or a topic are to blame, ModelError or ControlError when the generation in force
        cannot be served.
        """
        admin = Admin(self.settings)
        self.topics = self._look_at_topics(admin)
        try:
            asyncio.run(self._main(admin.cluster_id() if self.settings.releases else ""))
        finally:
            faulthandler.cancel_dump_traceback_later()

    # -- before anything is read ---------------------------------------------------------------------------------

    def _look_at_topics(self, admin: Admin) -> Mapping[str, TopicInfo]:
        stages = self.loaded.wiring.stages
        declared = self.loaded.topology.releases
        journals = Topics.of(self.settings.application, self.name, control=declared.control, status=declared.status)
        topics = admin.describe(
            self._written() | {stage.source.topic for stage in stages} | ({*journals} if self.settings.releases else set())
        )
        for stage in stages:
            for emit in stage.emits:
                have, need = topics[emit.sink.topic].partitions, topics[stage.source.topic].partitions
                if emit.sink.key is None and have < need:
                    raise SettingsError(
                        f"topic {emit.sink.topic} has {have} partitions, but {stage.source.topic} has {need}: outputs keep their "
                        f"input's partition, so it needs as many; or give sink {emit.sink.name!r} a `key:` of its own"
                    )
        return topics

    def _written(self) -> set[str]:
        stages = self.loaded.wiring.stages
        return {emit.sink.topic for stage in stages for emit in stage.emits} | {stage.source.dead_letter for stage in stages}

    def _options(self) -> TransportOptions:
        settings = self.settings
        return TransportOptions(
            connection=aiokafka_arguments(settings),
            writes=tuple(sorted(self._written())),
            limits={name: topic.max_message_bytes for name, topic in self.topics.items() if topic.max_message_bytes is not None},
            start_from=settings.start_from,
            group_instance_id=settings.group_instance_id,
            max_batch_rows=settings.max_batch_rows,
            max_in_flight_batches=settings.max_in_flight_batches,
            max_in_flight_bytes=settings.max_in_flight_bytes,
            fetch_bytes=settings.fetch_bytes,
            fetch_wait_ms=settings.fetch_wait_ms,
            fetch_linger_ms=settings.fetch_linger_ms,
            compression=settings.compression,
            commit_interval=settings.commit_interval,
            drain_timeout=settings.drain_timeout,
            session_timeout=settings.session_timeout,
            rebalance_timeout=max(settings.drain_timeout * 2, settings.session_timeout),
            broker_timeout=settings.broker_timeout,
            metrics=self.metrics,
            before_reading=self._assigned,
        )

    # -- the app's life --------------------------------------------------------------------------------------------

    async def _main(self, cluster: str) -> None:
        self._over = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._over.set)
        async with AsyncExitStack() as stack:
            if self._serve is not None:
                await stack.enter_async_context(self._serve(self.vitals))
            # Told to stop while the generation in force is brought up, a worker must not finish that first.
            up, over = asyncio.create_task(self._bring_up(stack, cluster)), asyncio.create_task(self._over.wait())
            await asyncio.wait({up, over}, return_when=asyncio.FIRST_COMPLETED)
            over.cancel()
            if up.done():
                up.result()
                await self._stream()
            else:
                up.cancel()
                await asyncio.wait({up})

    async def _bring_up(self, stack: AsyncExitStack, cluster: str) -> None:
        """`live` is what the control log has in force, and is followed from now on; without releases, what the file binds."""
        if self.settings.releases:
            releases = Releases(self.loaded, self.settings, cluster, self.metrics, self.models)
            releases.places, releases.ready = self._places, lambda: self.vitals.health().ready
            self.releases = await stack.enter_async_context(releases.following(self.fail))
            self.live = self.releases.live
        else:
            self.live = Live(
                Serving(0, runtime.prepare(self.loaded, warm_rows=self.settings.chunk_rows, model_trust=self.settings.model_trust))
            )

    def _places(self) -> dict[str, Place]:
        """The next offset of each partition that is assigned now, and how many records lie behind it."""
        partitions = self.consumer.standing().partitions if self.app is not None else ()
        return {"/".join(map(str, one.partition)): Place(position=one.position, lag=one.backlog) for one in partitions}

    def _sessions(self) -> Iterator[Session]:
        """The models that may run now."""
        for serving in self.live.loaded if hasattr(self, "live") else ():
            yield from runtime.sessions(serving.plan).values()

    async def _assigned(self) -> None:
        """Before the first event of an assignment: no partition falls back to an earlier generation."""
        if self.releases is not None:
            await self.releases.caught_up()

    async def _stream(self) -> None:
        group = f"{self.settings.application}.{self.name}"
        self.app = app = App(group, self.settings.brokers, self._options())
        for stage in self.loaded.wiring.stages:
            source = app.topic(stage.source.topic, key_serializer="raw", value_serializer="raw")
            app.agent(source, name=f"{self.name}.{stage.source.name}")(self._agent(stage.source.name))
        collector = asyncio.create_task(self._collect_garbage())
        watchdog = asyncio.create_task(self.vitals.watch())
        watchdog.add_done_callback(lambda task: None if task.cancelled() else self.fail(task.exception()))
        start = asyncio.create_task(app.start())
        ends = {asyncio.create_task(self._over.wait()), asyncio.create_task(app._crashed.wait())}
        try:
            # Told to stop while it starts, which includes waiting for the group, a worker must not wait for its partitions first.
            await asyncio.wait({start, *ends}, return_when=asyncio.FIRST_COMPLETED)
            if start.done():
                start.result()
                self.vitals.phase = Phase.RUNNING
                if self.releases is not None:
                    self.releases.reporter.changed()
                logger.info("running %s as group %s", self.name, group, extra=dict(self.live.current.plan.versions))
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            self._failure = self._failure or app.crash_reason
            logger.info("stopping: finishing what is in flight")
        except Exception as error:  # noqa: BLE001  the client libraries raise what they like; told apart below
            self._failure = error
        finally:
            self.vitals.phase = Phase.STOPPING
            watchdog.cancel()
            collector.cancel()
            start.cancel()
            await asyncio.wait({start}, timeout=GRACE)
            await self._stop(app)
            logger.info("stopped", extra={name: value for name, value in self.metrics.snapshot().items() if isinstance(value, int | float)})
        if self._failure is not None:
            raise _as_ours(self._failure) from self._failure

    async def _stop(self, app: App) -> None:
        bound = self.settings.drain_timeout + self.settings.session_timeout
        # A model that does not return holds its thread, and so the end of the process; client libraries swallow cancellation.
        faulthandler.dump_traceback_later(bound + GRACE, exit=True, file=2)
        try:
            await asyncio.wait_for(app.stop(), bound)
        except TimeoutError:
            logger.error("stopping took longer than allowed; what was not committed will be processed again")

    def fail(self, error: BaseException | None) -> None:
        """Ends the run with this error. Nothing past what was acknowledged is committed."""
        if self._failure is None:
            self._failure = error
            logger.error("stopping because of: %s", error)
        if self.app is not None:
            self.consumer.give_up()
        self._over.set()

    async def _collect_garbage(self) -> None:
        """Python's cyclic collector runs by time instead of by allocations: in the loop it cost 30 % of the throughput."""
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            while True:
                await asyncio.sleep(COLLECT_EVERY)
                gc.collect()  # what was there at the start is frozen, so this is cheap
        finally:
            gc.enable()
            gc.unfreeze()

    # -- one source ------------------------------------------------------------------------------------------------

    def _agent(self, source: str) -> Callable[[Any], Any]:
        async def agent(stream: Any) -> None:
            try:
                deliveries = Deliveries(self, source)
                async for event in stream.noack().events():
                    await deliveries.handle(event.message.value)
            except Exception as error:  # noqa: BLE001  whatever it is, nothing after it may be committed, nor Faust restart the agent
                self.fail(error)

        return agent

    @property
    def consumer(self) -> Consumer:
        assert self.app is not None, "there is a consumer once the app is made"
        return cast(Consumer, self.app.consumer)

    @property
    def producer(self) -> Producer:
        assert self.app is not None, "there is a producer once the app is made"
        return cast(Producer, self.app.producer)


class Deliveries:
    """One source's deliveries, in order."""

    def __init__(self, runner: StreamRunner, source: str) -> None:
        self.runner = runner
        self.source = source
        self._serving: Serving | None = None
        self._pipeline: Pipeline
        self._offload_after = runner.settings.offload_after_ms / 1000
        self._row_seconds = 0.0  # measured, smoothed

    async def handle(self, delivery: Delivery) -> None:
        """Steps 1 to 5 of the module's docstring. Raises TransportError when outputs cannot be handed over."""
        consumer, began = self.runner.consumer, time.monotonic()
        taken = [(span, records) for span, records in delivery.batches if consumer.tracker.start(span)]  # 1
        if not taken:
            return
        slices = [Slice(*span.partition, records) for span, records in taken]
        pipeline = self._in_force(taken)
        parcels: dict[tuple[str, int], list[Parcel]] = {}
        async for made in self._process(pipeline, slices):  # 2
            for parcel in made:
                parcels.setdefault((parcel.topic, parcel.partition), []).append(parcel)
            if not consumer.tracker.current(taken[0][0]):  # a delivery is of one assignment, and this one's drain has run out of time
                return
        futures = []
        for (topic, partition), addressed in parcels.items():  # 3
            futures += await self._send(topic, partition, addressed, slices)
        self.runner.producer.push()

        def settle(refused: DeliveryFailed | None) -> None:  # 5
            try:
                if refused is not None:
                    raise refused
                for span, _ in taken:
                    consumer.finish(span)
                self._count(slices, parcels.values(), time.monotonic() - began)
            except Exception as error:  # noqa: BLE001  nobody else sees what a callback raises
                self.runner.fail(error)

        when_delivered(futures, settle)

    def _in_force(self, taken: list[tuple[Span, list[RecordLike]]]) -> Pipeline:
        """The pipeline of the generation in force, for the whole delivery; a swap shows from the next one on."""
        runner = self.runner
        serving = runner.live.current
        if serving is not self._serving:
            self._serving = serving
            self._pipeline = Pipeline(
                serving.plan,
                self.source,
                generation=serving.generation,
                chunk_rows=runner.settings.chunk_rows,
                partition_for=runner.producer.partition_for,
                metrics=runner.metrics,
                observers=runner.observers,
            )
        if runner.releases is not None:
            for span, _ in taken:
                runner.releases.reporter.scores(span.partition, span.start, serving.generation)
        return self._pipeline

    async def _process(self, pipeline: Pipeline, slices: list[Slice]) -> AsyncIterator[list[Parcel]]:
        """The chunks in order, each in one slice of the loop's time, or in a thread when it is expected to take long."""
        first = True
        for chunk in pipeline.chunks(slices):
            if not first:
                await asyncio.sleep(0)
            first = False
            async with self.runner.models:
                began = time.perf_counter()
                if self._row_seconds * chunk.rows > self._offload_after:
                    parcels = await self._beside(pipeline, chunk)
                else:
                    try:
                        parcels = pipeline.process(chunk, isolate=False)
                    except InferenceError:
                        self.runner.metrics.splits.inc()
                        parcels = await self._beside(pipeline, chunk)
                self._measure((time.perf_counter() - began) / chunk.rows)
            yield parcels

    async def _beside(self, pipeline: Pipeline, chunk: Chunk) -> list[Parcel]:
        self.runner.metrics.offloaded.inc()
        return await asyncio.to_thread(pipeline.process, chunk)

    def _measure(self, row_seconds: float) -> None:
        """Adapts how many rows the consumer puts into a delivery, so that one takes about BATCH_SECONDS at the most."""
        self._row_seconds += (row_seconds - self._row_seconds) * 0.2
        fitting = int(BATCH_SECONDS / max(self._row_seconds, 1e-9))
        self.runner.consumer.batch_rows = max(1, min(self.runner.settings.max_batch_rows, fitting))

    async def _send(self, topic: str, partition: int, parcels: list[Parcel], slices: list[Slice]) -> list[Any]:
        """Hands the parcels over; outputs that their topic cannot take become dead letters of their inputs."""
        if parcels[0].dead:  # a dead-letter topic may have fewer partitions than its source
            partition %= self.runner.topics[topic].partitions
        try:
            return await self.runner.producer.send_parcels(topic, partition, parcels)
        except RecordTooLarge as error:
            if parcels[0].dead:
                raise
            futures: list[Any] = []
            large = {id(record) for record in error.inputs}
            for place in slices:
                failed: list[tuple[RecordLike, RecordError]] = [(one, EncodeError(str(error))) for one in place.records if id(one) in large]
                if failed:
                    letter = self._pipeline.dead_letters(place, failed)
                    futures += await self._send(letter.topic, letter.partition, [letter], slices)
                    self.runner.metrics.dead_letters.inc(len(letter))
            parcels[:] = [parcel for parcel in (parcel.without(error.inputs) for parcel in parcels) if len(parcel)]  # what counts as sent
            return futures + (await self.runner.producer.send_parcels(topic, partition, parcels) if parcels else [])

    def _count(self, slices: list[Slice], parcels: Iterable[list[Parcel]], seconds: float) -> None:
        metrics = self.runner.metrics
        rows = sum(len(one.records) for one in slices)
        metrics.batches.inc()
        metrics.records_in.inc(rows)
        metrics.batch_rows.observe(rows)
        metrics.batch_seconds.observe(seconds)
        for parcel in chain.from_iterable(parcels):
            if parcel.dead:
                metrics.dead_letters.inc(len(parcel))
            else:
                metrics.records_out.inc(len(parcel))


def _as_ours(error: BaseException) -> BaseException:
    """Client errors in our words: who catches needs to know whether it is the brokers' fault."""
    from aiokafka.errors import KafkaError

    if isinstance(error, PenstockError) or not isinstance(error, (KafkaError, OSError)):
        return error
    return TransportUnavailable(f"the brokers are not usable: {error!r}")
