"""The stream runner: a Faust app with one agent per source, which passes the records of its topic to the one delivery loop.

Models run on the event loop, one chunk at a time, so that heartbeats, fetches and sends run between chunks. A model that
takes too long for the loop runs in a thread instead.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from penstock import runtime
from penstock.control.status import Place
from penstock.control.topics import group_of
from penstock.engine import Deployment, Serving
from penstock.engine.observe import Observers
from penstock.errors import IdentityTaken, TopicMissing, TransportUnavailable
from penstock.host import on_signals
from penstock.model.session import Session
from penstock.nodes import WindowNode
from penstock.pipeline import AtLeastOnce, Delivery, Pace, Program
from penstock.pipeline.matching import sides
from penstock.pipeline.remember import Remember
from penstock.runners import topics
from penstock.runners.health import Phase
from penstock.runners.letters import Letters
from penstock.runners.vitals import Vitals
from penstock.runtime import Loaded
from penstock.settings import Settings
from penstock.state import States
from penstock.telemetry import Metrics
from penstock.telemetry.health import Pages
from penstock.topology.wiring import Joined, Matched
from penstock.transports.kafka.changelog import Changelog, Changelogs
from penstock.transports.kafka.connection import Admin, TopicInfo
from penstock.transports.kafka.faust import App, Hosted
from penstock.transports.kafka.lookout import Lookout
from penstock.transports.kafka.sink import KafkaSink
from penstock.transports.kafka.source import KafkaSource
from penstock.transports.kafka.state import SourceState
from penstock.transports.kafka.tables import Tables
from penstock.transports.kafka.unavailable import as_ours
from penstock.transports.throttle import Throttle
from penstock.windows import open_partition
from penstock.worker.follower import Follower

__all__ = ["StreamRunner"]

logger = logging.getLogger(__name__)

Serve = Callable[[Pages], AbstractAsyncContextManager[None]]

COLLECT_EVERY = 10.0  # seconds between two runs of the cyclic garbage collector
GRACE = 5.0  # seconds that a stop may exceed its bound, before the process exits without cleanup
SHORTEST_FETCH = 10  # ms: a join that waits less does not make more requests
SAVE = 60.0  # seconds for the snapshots of what nodes remember; without them the next start reads their changelogs
FAREWELL = 1.0  # seconds for stopping without usable brokers: nothing can be finished, and client libraries would wait for them

_left: list[object] = []  # what a stop without brokers left behind; were it collected, asyncio would warn of each task


@dataclass(frozen=True, slots=True, kw_only=True)
class _FromFile(Serving):
    """The bindings of the topology file, used without releases."""

    program: Program
    candidate: None = None


class StreamRunner:
    """Runs a topology on Kafka until it is stopped. One per process; `run` blocks."""

    def __init__(self, loaded: Loaded, settings: Settings, *, serve: Serve | None = None) -> None:
        """`serve` serves the monitoring pages while the worker lives."""
        self.loaded = loaded
        self.name = loaded.topology.name
        self.settings = settings
        self.metrics = Metrics()
        self._own: Deployment[Any] | None = None
        self.releases: Follower | None = None
        self.topics: Mapping[str, TopicInfo] = {}
        self.source: KafkaSource | None = None
        self.delivery: Delivery | None = None
        self.changelogs: Changelogs | None = None
        self.tables: Tables | None = None
        self._failure: BaseException | None = None
        self._asked = False  # a person or a scheduler wants the worker to stop
        self._over: asyncio.Event
        self._lost: asyncio.Event  # the brokers are not usable
        self._abandoned = False
        self.letters = Letters(self.metrics)
        self._serve = serve
        self.vitals = Vitals(
            settings,
            self.metrics,
            {one.source.name: one.source.topic for stage in loaded.wiring.stages for one in stage.inputs},
            consumer=self._standing,
            sessions=self._sessions,
            control=lambda: "" if self.releases is None else self.releases.out_of_touch(),
            models=lambda: "being made ready" if self.deployment is None else "",
            schemas=self._schemas_wanted,
            state=self._restoring,
        )
        self.models = asyncio.Lock()  # a session has one run at a time, also while another source's chunk is in a thread

    def run(self) -> None:
        """Returns after a clean stop (SIGTERM, Ctrl-C).

        Raises TransportError for a problem with the brokers or a topic, ModelError or ControlError when the active generation
        cannot be served. When it raises TransportUnavailable, threads and sockets may be left: the process should end.
        """
        admin = Admin(self.settings)
        self.topics = topics.described(admin, self.loaded, self.settings)
        self._logs = topics.changelogs(self.loaded, self.settings)
        cluster = admin.cluster_id() if self.settings.releases or self._logs else ""
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(self._main(cluster))
        except TransportUnavailable:
            self._abandoned = True
            raise
        finally:
            self._close(loop)
            faulthandler.cancel_dump_traceback_later()

    def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ends what still runs in the loop, as `asyncio.run` does. After a stop that was cut short, it does not wait for that."""
        if tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.wait(tasks, timeout=FAREWELL / 2 if self._abandoned else None))
        if self._abandoned:
            _left.extend((loop, tasks))
            return
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    # -- before anything is read ---------------------------------------------------------------------------------

    def _topic_lost(self, topic: str, why: str) -> None:
        """A topic of releases was deleted or created again: what is live goes on without it, and the worker is not ready."""
        if self.releases is not None:
            self.releases.topic_lost(topic, why)

    # -- the app's life --------------------------------------------------------------------------------------------

    async def _main(self, cluster: str) -> None:
        self._over, self._lost = asyncio.Event(), asyncio.Event()
        with on_signals(self._stop_soon):
            work, lost = asyncio.create_task(self._work(cluster)), asyncio.create_task(self._lost.wait())
            await asyncio.wait({work, lost}, return_when=asyncio.FIRST_COMPLETED)
            lost.cancel()
            if not work.done():
                await asyncio.wait({work}, timeout=FAREWELL)
            if work.done():
                work.result()
                return
            self._abandoned = True
            if self._failure is not None:
                raise as_ours(self._failure) from self._failure

    def _stop_soon(self) -> None:
        self._asked = True
        self._over.set()

    async def _work(self, cluster: str) -> None:
        async with AsyncExitStack() as stack:
            if self._serve is not None:
                await stack.enter_async_context(self._serve(self.vitals))
            # A worker that is stopped while it loads the active generation must not finish loading first.
            up, over = asyncio.create_task(self._bring_up(stack, cluster)), asyncio.create_task(self._over.wait())
            await asyncio.wait({up, over}, return_when=asyncio.FIRST_COMPLETED)
            over.cancel()
            if up.done():
                up.result()
                await self._stream(cluster)
            else:
                up.cancel()
                await asyncio.wait({up})

    async def _bring_up(self, stack: AsyncExitStack, cluster: str) -> None:
        """Sets `deployment`: the active generation of the control log, which it then follows. Without releases, the file's bindings."""
        if self.settings.releases:
            releases = Follower(self.loaded, self.settings, cluster, self.metrics)
            releases.places, releases.ready = self._places, lambda: self.vitals.health().ready
            releases.letters = self.letters.recent
            self.releases = await stack.enter_async_context(releases.following(self.fail))
        else:
            program = runtime.prepare(self.loaded, self.settings)
            self._own = Deployment(_FromFile(0, program.plan, program=program))

    @property
    def deployment(self) -> Deployment[Any] | None:
        """The plan that scores now; None before the first one is loaded."""
        return self.releases.deployment if self.releases is not None else self._own

    def _places(self) -> dict[str, Place]:
        """The next offset of each assigned partition, and the number of records after it."""
        state = self._standing()
        partitions = () if state is None else state.partitions
        return {"/".join(map(str, one.partition)): Place(position=one.position, lag=one.backlog, slowed=one.slowed) for one in partitions}

    def _standing(self) -> SourceState | None:
        """The state of the source; None before there is one."""
        if self.source is None or self.delivery is None or not self.source.started:
            return None
        return self.source.standing(room=self.delivery.has_room(), withheld=self.delivery.uncommitted())

    def _sessions(self) -> Iterator[Session]:
        """The models that may run now."""
        for serving in () if self.deployment is None else self.deployment.loaded:
            yield from runtime.sessions(serving.program).values()

    async def _assigned(self, current: Callable[[], bool]) -> None:
        """Runs before the first event of an assignment: no partition falls back to an earlier generation, and no table lacks a row."""
        if self.releases is not None:
            await self.releases.caught_up()
        if self.tables is not None:
            await self.tables.caught_up(current)

    def _schemas_wanted(self) -> dict[str, str]:
        found = {} if self.delivery is None else dict(self.delivery.waiting)
        return found if self.tables is None else found | self.tables.waiting

    def _restoring(self) -> str:
        if self.tables is None and any(node.name in self.loaded.nodes for node in self.loaded.topology.lookups):
            return "the tables are to be read"
        under_way = [one.restoring for one in (self.changelogs, self.tables) if one is not None]
        return ", ".join(filter(None, under_way))

    async def _stream(self, cluster: str) -> None:
        app = self._host(cluster)
        collector = asyncio.create_task(self._collect_garbage())
        watchdog = asyncio.create_task(self.vitals.watch())
        lookout = asyncio.create_task(app.penstock.source.watch())  # until the end: brokers may go while the worker stops
        tasks = [watchdog, lookout, *([] if self.tables is None else [asyncio.create_task(self.tables.follow())])]
        for task in tasks:
            task.add_done_callback(self._fail_with)
        start = asyncio.create_task(app.start())
        ends = {asyncio.create_task(self._over.wait()), asyncio.create_task(app._crashed.wait())}
        try:
            # A worker that is stopped while it starts, also while it waits for the group, must not wait for its partitions first.
            await asyncio.wait({start, *ends}, return_when=asyncio.FIRST_COMPLETED)
            if start.done():
                start.result()
                self.vitals.phase = Phase.RUNNING
                if self.releases is not None:
                    self.releases.reporter.changed()
                versions = {} if self.deployment is None else dict(self.deployment.primary.plan.versions)
                logger.info("running %s as group %s", self.name, app.conf.id, extra=versions)
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not self._over.is_set() and app.crash_reason is not None:
                self.fail(app.crash_reason)
            logger.info("stopping: finishing what is in flight")
        except Exception as error:  # noqa: BLE001  the client libraries raise any class; sorted below
            self.fail(error)
        finally:
            self.vitals.phase = Phase.STOPPING
            watchdog.cancel()
            collector.cancel()
            if self._failure is not None:
                _silence_libraries()
            start.cancel()
            await asyncio.wait({start}, timeout=GRACE)
            await self._stop(app)
            for task in tasks:
                task.cancel()
            counts = {**self.metrics.snapshot(), "dead_letters": self.metrics.dead_letters.value}
            logger.info("stopped", extra={name: value for name, value in counts.items() if isinstance(value, int | float)})
        if self._failure is not None:
            raise as_ours(self._failure) from self._failure

    def _host(self, cluster: str) -> App:
        """Builds the app, with the source, the sink and the loop between them."""
        settings = self.settings
        group = group_of(settings.application, self.name, self.loaded.share.process if self.loaded.share else "")
        written, readers = topics.written(self.loaded, settings), runtime.readers(self.loaded)
        tables = {name: one.table.topic for name, one in readers.items()}
        rows = {name: one.rows for name, one in readers.items()}
        lookout = Lookout(
            settings,
            written | {topic for stage in self.loaded.wiring.stages for topic in stage.topics} | {*tables.values()},
            topics.of_releases(self.loaded, settings),
            lost=self._topic_lost,
        )
        throttle = Throttle(settings.dead_letter_rate)
        sink = KafkaSink(settings, {name: self.topics[name] for name in sorted(written)})
        remember = Remember(sink, self._logs)
        if self._logs:
            folder = settings.cache.expanduser() / "state" / cluster / f"{settings.application}.{self.name}"
            self.changelogs = Changelogs(settings, self._changelogs(), folder, id_of=lookout.id_of, write=remember.write, tables=rows)
        if tables:
            self.tables = Tables(
                settings, readers, tables, lock=self.models, partitions=partial(self._partitions_of, lookout), metrics=self.metrics
            )
        alone = States(tables=rows)
        self.source = KafkaSource(
            self._fetching(),
            group,
            metrics=self.metrics,
            written=written | {one.source.topic for stage in self.loaded.wiring.stages for one in stage.inputs if one.behind},
            lookout=lookout,
            before_reading=self._assigned,
            throttle=throttle,
            changelogs=self.changelogs,
        )
        if self.releases is not None:
            self.releases.sink = sink
            self.releases.answering = lambda: lookout.fresh
        self.delivery = Delivery(
            self.source,
            sink,
            AtLeastOnce(self.source),
            stages={topic: stage.name for stage in self.loaded.wiring.stages for topic in stage.topics},
            serving=self._serving,
            fail=self.fail,
            pace=Pace.of(settings),
            metrics=self.metrics,
            begins=None if self.releases is None else self.releases.reporter.scores,
            models=self.models,
            observers=None if self.releases is None else Observers([self.releases.recent], self.metrics),
            buried=self.letters,
            throttle=throttle,
            states=(lambda: alone) if self.changelogs is None else self.changelogs.current,
            remember=remember,
        )
        shown = self.releases.identity.shown if self.releases else ""
        app = App(settings, Hosted(self.source, sink, self.delivery, self.fail), shown=shown)
        for stage in self.loaded.wiring.stages:
            for one in stage.inputs:
                topic = app.topic(one.source.topic, key_serializer="raw", value_serializer="raw")
                name = stage.name if len(stage.inputs) == 1 else f"{stage.name}.{one.behind or one.source.name}"
                app.agent(topic, name=f"{self.name}.{name}")(self._agent(self.delivery))
        return app

    def _partitions_of(self, lookout: Lookout, topic: str) -> int:
        """Returns how many partitions a topic has, as it was last seen."""
        found = None if lookout.seen is None else lookout.seen.get(topic)
        return max(self.topics[topic].partitions, 0 if found is None else len(found.leaders))

    def _fetching(self) -> Settings:
        """Returns the settings with fetches that wait no longer than a join: an answer without records says that a topic is at its end."""
        times = [stage.gather.quorum.within for stage in self.loaded.wiring.stages if isinstance(stage.gather, Joined)]
        if not times:
            return self.settings
        return replace(self.settings, fetch_wait_ms=min(self.settings.fetch_wait_ms, max(min(times), SHORTEST_FETCH)))

    def _changelogs(self) -> dict[str, Changelog]:
        """Returns the changelogs of what remembers something: nodes, and the sides of matches. It does not depend on the release."""
        found = {}
        for stage in self._serving().program.plan.stages.values():
            for node in stage.nodes:
                if isinstance(node, WindowNode):
                    make = partial(open_partition, node.definition)
                    found[node.name] = Changelog(self._logs[node.name], stage.wired.source.topic, make)
            if isinstance(gather := stage.wired.gather, Matched):
                for name, topic, make_side in zip(gather.remembers, stage.wired.topics, sides(gather), strict=True):
                    found[name] = Changelog(self._logs[name], topic, make_side)
        return found

    async def _stop(self, app: App) -> None:
        settings = self.settings
        # After an error nothing is drained: what was acknowledged is committed, and the group is left.
        bound = settings.session_timeout if self._failure is not None else settings.drain_timeout + settings.session_timeout
        bound = FAREWELL if self._lost.is_set() else bound
        # A model that does not return blocks its thread, and thereby the exit of the process; client libraries suppress cancellation.
        faulthandler.dump_traceback_later(bound + GRACE, exit=True, file=2)
        stopping = asyncio.ensure_future(app.stop())
        await asyncio.wait({stopping}, timeout=bound)  # not `wait_for`, which goes on waiting when a task ignores its cancellation
        if stopping.done():
            stopping.result()
            if self.changelogs is not None and self._failure is None:
                faulthandler.dump_traceback_later(SAVE, exit=True, file=2)
                await asyncio.to_thread(self.changelogs.save)
        else:
            stopping.cancel()
            self._abandoned = True
            if self._lost.is_set():
                logger.warning("nothing more is committed: uncommitted records will be processed again")
            else:
                logger.error("stopping took longer than the allowed %g s; uncommitted records will be processed again", bound)
            _silence_libraries()

    def _fail_with(self, task: asyncio.Task[None]) -> None:
        """Ends the run with the error of a task that has ended; one that ended without an error had no more to do."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Ends the run with this error. Only acknowledged work is committed."""
        lost = isinstance(as_ours(error), TransportUnavailable | TopicMissing)  # a commit for a topic that is gone has no end, either
        if self._asked and (lost or isinstance(error, IdentityTaken)):  # it stops anyway; its successor may be there already
            logger.warning("stopping all the same: %s", error)
        elif self._failure is None:
            self._failure = error
            logger.error("stopping because of an error: %s", type(as_ours(error)).__name__)  # the command prints it as its last line
        if lost:
            self._lost.set()
        if self.delivery is not None:
            self.delivery.terminate()
        self._over.set()

    async def _collect_garbage(self) -> None:
        """Python's cyclic collector runs by time instead of by allocations: in the loop it cost 30 % of the throughput."""
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            while True:
                await asyncio.sleep(COLLECT_EVERY)
                gc.collect()  # objects from the start are frozen, so this is cheap
        finally:
            gc.enable()
            gc.unfreeze()

    def _serving(self) -> Any:
        assert self.deployment is not None, "nothing is read before a deployment is up"
        return self.deployment.primary

    def _agent(self, delivery: Delivery) -> Callable[[Any], Any]:
        async def agent(stream: Any) -> None:
            try:
                async for event in stream.noack().events():
                    await delivery.submit(event.message.value)
            except Exception as error:  # noqa: BLE001  after any error, nothing may be committed and Faust must not restart the agent
                self.fail(error)

        return agent


def _silence_libraries() -> None:
    """Ends the log of the client libraries: they report each task that is cut short as a crash, after the error that explains it."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: not record.name.startswith(("faust", "mode", "aiokafka")))
