"""A worker's side of releases: it follows the control log, makes what is announced ready, and swaps when it is activated.

1. The log is folded to its end before the first event, and again at every assignment of partitions: who gave a partition up
   may have scored it with a generation that this worker has not heard of, and a partition never falls back.
2. After each slice of the log, `_reconcile` compares what the log says with what this worker has, and nothing else decides: so
   it does not matter in which pieces the log came, or whether it was folded anew because the trusted keys have changed.
3. Staging runs beside the loop, one release at a time: first what is in force already, then what is pending.
4. While live, every model is held against its golden records again, by a timer; with `on_invalid: rollback` one that fails
   brings the previous generation back, by a release like any other.
5. Whatever fails, the live plan goes on. A release that was put in force and failed here is tried again, with growing pauses.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self

from penstock import runtime
from penstock.control.lifecycle import ENDS, State, move
from penstock.control.log import Kind, Log, Outcome, Standing
from penstock.control.messages import Binding, Release, new_id, same, timestamp
from penstock.control.status import Place, Progress, WorkerStatus
from penstock.control.topics import Topics
from penstock.control.trust import Judge, Trust
from penstock.control.updater import Staged
from penstock.engine import Live, Serving
from penstock.errors import PenstockError, SettingsError, TransportError, TransportUnavailable
from penstock.model.artifact import Artifact
from penstock.pipeline import Program
from penstock.runners.report import Reporter
from penstock.runners.validity import Validity, take_back
from penstock.runtime import Loaded
from penstock.settings import Settings
from penstock.telemetry import Metrics
from penstock.transports.kafka.connection import aiokafka_arguments
from penstock.transports.kafka.journal import Reader, Writer

__all__ = ["Releases"]

logger = logging.getLogger(__name__)

WAIT_MS: Final = 200  # a question for the end of the log, at each assignment, waits behind a fetch that is held open
READY_AT_ONCE: Final = 4  # releases that may wait, loaded, to be activated; more are only announced
TOLD: Final = 20  # ended releases that the status still tells
AGAIN: Final = (5.0, 60.0)  # seconds before a failed release that is in force is tried again: first, and at the most
PROSE: Final = 2000  # characters of a reason that are told: a record has a limit, and a worker that is not heard looks lost
LOOK: Final = 2.0  # seconds between two looks at the file of trusted keys


@dataclass(slots=True)
class _Case:
    """One release on this worker."""

    release: Release
    state: State = State.ANNOUNCED
    detail: str = ""
    since: str = field(default_factory=timestamp)
    staged: Staged[Program] | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    pause: float = AGAIN[0]
    again: float = 0.0  # monotonic time before which it is not tried again

    def move(self, there: State, detail: str = "") -> None:
        self.state, self.detail, self.since = move(self.state, there), detail, timestamp()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Served(Serving):
    """A plan in force, what it binds, and the versions that it was made of."""

    program: Program
    bindings: Mapping[str, Binding]
    artifacts: Mapping[str, Artifact]


class Releases:
    """Follows the releases of one topology for one worker. `live` is what the worker scores with.

    Use `following`: it reads the log, brings up the generation in force, and stops everything at the end.
    """

    live: Live[_Served]
    reporter: Reporter

    def __init__(self, loaded: Loaded, settings: Settings, cluster: str, metrics: Metrics, models: asyncio.Lock) -> None:
        self._loaded, self._settings, self._cluster, self._metrics, self._models = loaded, settings, cluster, metrics, models
        topology = loaded.topology
        if topology.releases.on_invalid == "rollback" and settings.signing_key is None and not settings.unsigned_control:
            raise SettingsError("`on_invalid: rollback` makes releases, so the worker needs a key to sign them with: --signing-key FILE")
        self.topics = Topics.of(settings.application, topology.name, control=topology.releases.control, status=topology.releases.status)
        self.worker = settings.group_instance_id or f"{socket.gethostname()}.{os.getpid()}.{new_id()[-4:]}"
        self.places: Callable[[], dict[str, Place]] = dict  # where it stands in its partitions; whoever reads them says so
        self._stopping = False
        self.problems: dict[str, str] = {}
        if settings.unsigned_control:
            logger.warning("UNSIGNED: whoever can write to %s can swap the models. For development only", self.topics.control)
        self._started = timestamp()
        self._trust = Trust.load(settings.trust)
        self._log = self._empty()
        self._folded = 0  # the log is folded up to here, and what follows from it is done
        self._fold_until = 0  # while the log is being folded anew, nothing is decided before this offset
        self._lost = False  # the log is not the one it was: what is live stays live
        self._cases: dict[str, _Case] = {}
        self._in_force = 0  # the generation that the log says, as of when it was folded last
        self._updater = runtime.updater(loaded, settings)
        self._pruned = 0  # the generation after which the cache was tidied last
        self._executor = ThreadPoolExecutor(1, "staging")
        self._wake = asyncio.Event()
        self._moved = asyncio.Condition()

    @asynccontextmanager
    async def following(self, fail: Callable[[BaseException | None], None]) -> AsyncIterator[Self]:
        """The generation in force is `live` inside; what comes later is followed in the background. `fail` is told of a bug there.

        Raises TransportUnavailable when the log cannot be read, ModelError or ControlError when the generation in force
        cannot be served here.
        """
        settings = self._settings
        connection, patience = aiokafka_arguments(settings), max(settings.broker_timeout, 1.0)
        async with (
            Reader(
                connection, self.topics.control, patience=patience, wait_ms=min(settings.fetch_wait_ms, WAIT_MS), whole=True
            ) as self._reader,
            Writer(connection, patience=patience) as writer,
        ):
            self.reporter = Reporter(writer, self.topics.status, self.worker, self._describe, interval=settings.status_interval)
            try:
                await self._bring_up()
                tasks = [asyncio.create_task(one) for one in self._duties()]
                for task in tasks:
                    task.add_done_callback(lambda task: None if task.cancelled() or task.exception() is None else fail(task.exception()))
                try:
                    yield self
                finally:
                    self._stopping = True
                    for task in tasks:
                        task.cancel()
                    await asyncio.wait(tasks)
                    await self.reporter.close()
            finally:
                for case in self._cases.values():
                    case.stop.set()
                self._executor.shutdown(wait=False, cancel_futures=True)

    def _duties(self) -> Iterator[Coroutine[Any, Any, None]]:
        yield self._follow()
        yield self._stage_forever()
        yield self._watch_trust()
        yield self.reporter.run()
        if self._loaded.topology.releases.check_every:
            yield self._check_forever(self._loaded.topology.releases.check_every)

    async def caught_up(self) -> None:
        """Returns when this worker scores with the generation that the log has in force now, or cannot.

        Raises TransportUnavailable when the brokers do not tell where the log ends.
        """
        patience = max(self._settings.broker_timeout, 1.0)
        if not self._lost:
            await self._follow_to_the_end(patience)
        try:
            async with asyncio.timeout(min(patience, self._settings.stage_timeout)), self._moved:
                await self._moved.wait_for(lambda: not self._behind())
        except TimeoutError:
            logger.warning("generation %d is not ready here yet: scoring goes on with the one before", self._log.generation)
        self.reporter.assigned()

    async def _follow_to_the_end(self, patience: float) -> None:
        end = await self._reader.end()
        try:
            async with asyncio.timeout(patience), self._moved:
                await self._moved.wait_for(lambda: self._folded >= end or self._lost)
        except TimeoutError as error:
            raise TransportUnavailable(f"{self.topics.control} was not read to its end within {patience:g} s") from error

    # -- the log -----------------------------------------------------------------------------------------------------

    def _empty(self) -> Log:
        self._folded_with = self._trust
        return Log(Judge(self._loaded.topology.name, self._cluster, self._trust, unsigned=self._settings.unsigned_control))

    async def _bring_up(self) -> None:
        """Folds what is there, and makes the generation in force the live one."""
        async for entries in self._reader.until(await self._reader.end()):
            for entry in entries:
                self._log.apply(entry)
        if not self._log.generation:
            made = runtime.prepare(self._loaded, warm_rows=self._settings.chunk_rows, model_trust=self._settings.model_trust)
            bound = runtime.bindings(self._loaded)
            self.live = Live(_Served(0, made.plan, program=made, bindings=bound, artifacts=self._loaded.artifacts))
            self._updater.adopt(self._loaded.artifacts, runtime.sessions(made.plan))
        else:
            release = self._log.generations[-1].release
            case = self._cases[release.id] = _Case(release)
            staged = await self._beside(case)
            case.state = State.LIVE
            self.live = Live(self._served(release, staged))
            self._compare_with_the_file(release.bindings)
        self._metrics.generation = self.live.current.generation
        logger.info("generation %d is in force", self.live.current.generation, extra=dict(self.live.current.plan.versions))
        self._folded = self._reader.position
        self._reconcile()

    def _compare_with_the_file(self, bound: Mapping[str, Binding]) -> None:
        declared = {node.name: str(node.model) for node in self._loaded.topology.nodes}
        differs = [
            f"{name}: {bound[name]}, the file says {said}" for name, said in declared.items() if name in bound and str(bound[name]) != said
        ]
        if differs:
            logger.info("the control log binds, not the topology file: %s", "; ".join(differs))

    async def _follow(self) -> None:
        while True:
            try:
                if self._trust != self._folded_with:
                    await self._fold_anew()
                entries = await self._reader.take()
            except TransportUnavailable as error:
                self._problem("control", f"the control topic cannot be read: {error}")
                await asyncio.sleep(AGAIN[0])
                continue
            except TransportError as error:
                self._problem(
                    "control", f"{error}; this worker goes on with generation {self.live.current.generation}, and hears of no other"
                )
                self._lost = True
                async with self._moved:
                    self._moved.notify_all()
                return  # a log that was made anew is nobody's to believe
            self._problem("control")
            for at in range(0, len(entries), 32):  # a signature is some 0.1 ms, and the loop belongs to everybody
                for entry in entries[at : at + 32]:
                    self._heard(self._log.apply(entry), entry.offset)
                await asyncio.sleep(0)
            if self._folded != self._reader.position:  # also past what is no record
                self._folded = self._reader.position
                self._metrics.control_refused = self._log.refused.total() + self._log.ignored.total()
                self._reconcile()
            async with self._moved:
                self._moved.notify_all()

    async def _watch_trust(self) -> None:
        """Keys that were trusted or revoked since: what the log says is judged anew, from its beginning."""
        while True:
            await asyncio.sleep(LOOK)
            try:
                trust = await asyncio.to_thread(Trust.load, self._settings.trust)
            except PenstockError as error:
                self._problem("trust", f"{error}; the keys that were trusted before are trusted still")
                continue
            self._problem("trust")
            if trust != self._trust:
                self._trust = trust  # `_follow` folds the log anew, between two slices of it

    async def _fold_anew(self) -> None:
        logger.info("the trusted keys have changed: the control log is folded anew")
        self._fold_until = await self._reader.end()
        await self._reader.rewind()
        self._folded, self._log = self._reader.position, self._empty()

    def _heard(self, outcome: Outcome, offset: int) -> None:
        # What changes nothing may be said a hundred thousand times by whoever wants to fill a disk; the status counts it.
        level = logging.DEBUG if outcome.kind in (Kind.REFUSED, Kind.IGNORED) or offset < self._fold_until else logging.INFO
        logger.log(level, "control: %s %s", outcome.kind, outcome.id or "", extra={"offset": offset, "why": outcome.why})

    # -- what follows from it ----------------------------------------------------------------------------------------

    def _reconcile(self) -> None:
        """Makes this worker's cases what the log says they are, and puts in force what is to be."""
        log = self._log
        if self._folding():
            return
        self._in_force = log.generation
        for release in log.pending:
            before = self._cases.get(release.id)
            if before is None or before.state in (State.ABORTED, State.STALE):  # the latter only where the log was folded anew
                self._cases[release.id] = _Case(release)
        wanted = self._wanted()
        for case in self._cases.values():
            known = log.releases.get(case.release.id)
            if case is wanted or case.state in ENDS or case.state in (State.LIVE, State.PREVIOUS):
                continue
            if known is None:
                self._end(case, State.STALE, "by the keys trusted now nobody has announced it")
            elif known.standing is Standing.ABORTED:
                self._end(case, State.ABORTED, known.why)
            elif known.standing is not Standing.PENDING:
                self._end(case, State.STALE, known.why)
        if wanted is not None and wanted.staged is not None:
            self._switch(wanted)
        elif wanted is not None and wanted.state is State.FAILED:
            self._cannot_serve(wanted)
        current = self.live.current.generation
        newest = f"generation {log.generation} is the newest" if log.generation else "nothing was released"
        self._problem("trust-lost", f"by the keys trusted now {newest}; generation {current} goes on" if current > log.generation else "")
        pending = {release.id for release in log.pending}  # one of these that has failed would be made ready again, if it were forgotten
        over = [id for id, one in self._cases.items() if one.state in ENDS and one is not wanted and id not in pending]
        for id in over[:-TOLD]:
            del self._cases[id]
        self._wake.set()
        self.reporter.changed()

    def _wanted(self) -> _Case | None:
        """The release in force, while this worker does not score with it."""
        log, current = self._log, self.live.current
        if self._folding() or not log.generation or log.generations[-1].release.id == current.release:
            return None
        release = log.generations[-1].release
        case = self._cases.setdefault(release.id, _Case(release))
        if case.state in (State.PREVIOUS, State.RETIRED, State.ABORTED, State.STALE):  # only where the log was folded anew
            case = self._cases[release.id] = _Case(release)
        return case

    def _folding(self) -> bool:
        """Whether the log is being folded anew, and does not say yet what is in force."""
        return self._folded < self._fold_until

    def _behind(self) -> bool:
        """Whether a newer generation is in force, and this worker may still come to serve it."""
        wanted = self._wanted()
        return self._folding() or (wanted is not None and wanted.state is not State.FAILED)

    def _served(self, release: Release, staged: Staged[Program]) -> _Served:
        made = staged.plan
        return _Served(self._log.generation, made.plan, release.id, program=made, bindings=release.bindings, artifacts=staged.artifacts)

    def _switch(self, case: _Case) -> None:
        assert case.staged is not None
        generation = self._log.generation
        self.live.swap(self._served(case.release, case.staged))
        for one in self._cases.values():
            if one.state is State.PREVIOUS:
                one.move(State.RETIRED)
            elif one.state is State.LIVE:
                one.move(State.PREVIOUS)
        case.move(State.LIVE)
        case.staged = None
        self._metrics.swaps += 1
        self._metrics.generation = generation
        self._problem("behind")
        logger.info(
            "generation %d is in force: %s",
            generation,
            case.release.reason or "no reason given",
            extra=dict(self.live.current.plan.versions),
        )

    def _cannot_serve(self, case: _Case) -> None:
        self._problem("behind", f"generation {self._log.generation} is in force, and this worker cannot serve it: {case.detail}")

    def _end(self, case: _Case, state: State, why: str) -> None:
        case.stop.set()
        case.staged = None
        case.move(state, why)
        logger.info("release %s is %s: %s", case.release.id, state, why)

    # -- staging -----------------------------------------------------------------------------------------------------

    async def _stage_forever(self) -> None:
        while True:
            case = self._next()
            if case is None:
                self._wake.clear()
                await self._prune()
                await self._wake.wait()
                continue
            await self._stage(case)
            self._reconcile()
            async with self._moved:
                self._moved.notify_all()

    async def _prune(self) -> None:
        """Gives back what the host's cache has not used for long; once a generation, when there is nothing else to do."""
        if self._pruned != (generation := self.live.current.generation):
            self._pruned = generation
            kept = [binding for one in self.live.loaded for binding in one.bindings.values()]
            try:
                await asyncio.get_running_loop().run_in_executor(self._executor, self._updater.prune, kept)
            except (PenstockError, OSError) as error:
                logger.warning("the cache of models was not tidied: %s", error)

    def _next(self) -> _Case | None:
        """What is in force comes first, then what was announced first."""
        wanted = self._wanted()
        if wanted is not None and wanted.state is State.FAILED and time.monotonic() >= wanted.again:
            wanted.move(State.ANNOUNCED, "tried again")
            wanted.stop.clear()
        if wanted is not None and wanted.state is State.ANNOUNCED:
            return wanted
        announced = [case for case in self._cases.values() if case.state is State.ANNOUNCED]
        if sum(case.state is State.READY for case in self._cases.values()) < READY_AT_ONCE:
            return next(iter(announced), None)
        for case in announced:
            case.detail = f"waits until one of the {READY_AT_ONCE} releases that are ready is activated or aborted"
        return None

    async def _stage(self, case: _Case) -> None:
        try:
            staged = self._loaded_already(case.release.bindings) or await self._beside(case)
        except Exception as error:  # whatever a model's file brings about, the live plan goes on
            if case.state in ENDS:
                return
            known = isinstance(error, PenstockError)
            logger.warning("release %s failed here: %s", case.release.id, error, exc_info=None if known else error)
            case.move(State.FAILED, str(error) if known else repr(error))
            self._metrics.releases_failed += 1
            case.again = time.monotonic() + case.pause
            asyncio.get_running_loop().call_later(case.pause, self._wake.set)
            case.pause = min(case.pause * 2, AGAIN[1])
        else:
            if case.state not in ENDS:
                case.staged = staged
                case.move(State.READY)
                logger.info("release %s is ready", case.release.id)

    def _loaded_already(self, bindings: Mapping[str, Binding]) -> Staged[Program] | None:
        return next((Staged(one.program, one.artifacts) for one in self.live.loaded if same(one.bindings, bindings)), None)

    async def _beside(self, case: _Case) -> Staged[Program]:
        loop = asyncio.get_running_loop()

        def tell(state: State, detail: str = "") -> None:
            loop.call_soon_threadsafe(self._tell, case, state, detail)

        return await loop.run_in_executor(self._executor, self._updater.stage, case.release, tell, case.stop.is_set)

    def _tell(self, case: _Case, state: State, detail: str) -> None:
        if case.state not in ENDS and not case.stop.is_set():
            if case.state is not state:
                case.move(state, detail)
            case.detail = detail
            self.reporter.changed()

    # -- while live ------------------------------------------------------------------------------------------------

    async def _check_forever(self, every: float) -> None:
        """Every live model against its golden records; one that fails is told, and taken back where the topology says so."""
        topology, validity = self._loaded.topology, Validity(self._models)
        while True:
            await asyncio.sleep(every)
            serving = self.live.current
            failures = await validity.failures(serving.plan, serving.artifacts)
            self._metrics.validity_failures += len(failures)
            self._problem("validity", "; ".join(failures))
            if failures and serving is self.live.current and topology.releases.on_invalid == "rollback":
                await take_back(self._settings, topology, serving.generation, f"{self.worker}: {failures[0]}")

    # -- what is told ------------------------------------------------------------------------------------------------

    def _problem(self, about: str, what: str = "") -> None:
        """Something that a person should look at; nothing, when it is over."""
        if what and self.problems.get(about) != what:
            logger.warning("%s", what)
            self.problems[about] = what
        elif not what:
            self.problems.pop(about, None)

    def _describe(self) -> WorkerStatus:
        current = self.live.current
        return WorkerStatus(
            worker=self.worker,
            topology=self._loaded.topology.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=self._started,
            time=timestamp(),
            generation=current.generation,
            wanted=self._in_force,
            ready=self._metrics.rebalances > 0 and not self._stopping,
            models=dict(current.plan.versions),
            partitions=self.places(),
            releases=[
                Progress(id=one.release.id, state=one.state, detail=one.detail[:PROSE], since=one.since) for one in self._cases.values()
            ],
            refused=dict(self._log.refused + self._log.ignored),
            problems=[what[:PROSE] for what in self.problems.values()],
            unsigned=self._settings.unsigned_control,
        )
