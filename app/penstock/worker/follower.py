"""Follows the releases of one topology for one worker: folds the control log, calls `control.cases`, and carries out the effects.

1. The log is folded to its end before the first event, and again at every assignment of partitions: the worker that had a partition before
   may have scored it with a generation that this one has not read yet, and a partition must not fall back.
2. After each slice of the log, and whenever a preparation ends, `reconcile` decides what to do; nothing else does.
3. Preparations run beside the event loop (`beside`), one at a time.
4. While live, every model is checked against its golden records by a timer (`checks`); with `on_invalid: rollback` a failure
   brings the previous generation back, by an ordinary release.
5. No failure stops the live plan.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

from penstock import runtime
from penstock.binding import Binding, same
from penstock.control.cases import Cases, Effect, End, Now, Prepare, Retry, Scoring, Switch, Warn, behind, reconcile
from penstock.control.lifecycle import State
from penstock.control.messages import NEWEST, Release, new_id, timestamp
from penstock.control.status import Place, Progress, WorkerStatus
from penstock.control.topics import Topics
from penstock.control.trust import Judge, Trust
from penstock.engine import Deployment, Serving
from penstock.errors import ConfigError, PenstockError, Problem, SettingsError, Stopped, TransportError, TransportUnavailable
from penstock.model.artifact import Artifact
from penstock.pipeline import Program
from penstock.runtime import Loaded
from penstock.settings import Settings
from penstock.telemetry import Metrics
from penstock.telemetry.families import Labels
from penstock.transports.kafka.connection import aiokafka_arguments, patience_of
from penstock.transports.kafka.journal import Reader, Writer
from penstock.worker.beside import Beside
from penstock.worker.checks import Validity, take_back
from penstock.worker.folding import Folding
from penstock.worker.preparation import Preparation, Prepared
from penstock.worker.report import Problems, Reporter

__all__ = ["Follower", "Served"]

logger = logging.getLogger(__name__)

WAIT_MS: Final = 200  # a request for the end of the log, at each assignment, waits behind an open fetch
PAUSE: Final = 5.0  # seconds before a control topic that could not be read is read again
LOOK: Final = 2.0  # seconds between two looks at the file of trusted keys
PROSE: Final = 2000  # characters of a reason that are reported: records have a size limit, and a worker whose reports fail looks lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Served(Serving):
    """A live plan, its bindings, and its model versions."""

    program: Program
    bindings: Mapping[str, Binding]
    artifacts: Mapping[str, Artifact]


Job = Callable[[], Coroutine[Any, Any, None]]


class Follower:
    """Follows the releases of one topology for one worker. `deployment` is what the worker scores with; a swap assigns the next one.

    Use `following`: it reads the log, brings up the active generation, and stops everything at the end.
    """

    deployment: Deployment[Served]
    reporter: Reporter
    folding: Folding

    def __init__(self, loaded: Loaded, settings: Settings, cluster: str, metrics: Metrics, models: asyncio.Lock) -> None:
        self._loaded, self._settings, self._cluster, self._metrics, self._models = loaded, settings, cluster, metrics, models
        topology = loaded.topology
        if topology.releases.on_invalid == "rollback" and settings.signing_key is None and not settings.unsigned_control:
            raise SettingsError("`on_invalid: rollback` makes releases, so the worker needs a key to sign them with: --signing-key FILE")
        self.topics = Topics.declared(settings.application, topology)
        self.worker = settings.group_instance_id or f"{socket.gethostname()}.{os.getpid()}.{new_id()[-4:]}"
        self.places: Callable[[], dict[str, Place]] = dict  # the worker's positions in its partitions; the runner that reads them sets it
        self.ready: Callable[[], bool] = lambda: False  # whether the worker is ready; the runner sets what computes it
        self.problems = Problems()
        if settings.unsigned_control:
            logger.warning("UNSIGNED: every client that can write to %s can swap the models. For development only", self.topics.control)
        self.cases = Cases()
        self._plans: dict[str, Prepared] = {}  # of the releases that are ready, by id
        self._preparation = Preparation(loaded, settings)
        self._beside = Beside(self._preparation, self._on_step)
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()  # executed one after another
        self._retry: asyncio.TimerHandle | None = None
        self._moved = asyncio.Event()
        self._active = 0  # the active generation of the log, at the last time when it was whole
        self._started = timestamp()
        self._stopping = False

    @asynccontextmanager
    async def following(self, fail: Callable[[BaseException | None], None]) -> AsyncIterator[Self]:
        """Inside, the active generation is `deployment`; later ones are followed in the background. `fail` is called for a bug there.

        Raises TransportUnavailable when the log cannot be read, ModelError or ControlError when the active generation
        cannot be served here.
        """
        settings = self._settings
        trust = Trust.load(settings.trust)
        connection, patience = aiokafka_arguments(settings), patience_of(settings)
        wait_ms = min(settings.fetch_wait_ms, WAIT_MS)
        async with (
            Reader(connection, self.topics.control, patience=patience, wait_ms=wait_ms, whole=True) as reader,
            Writer(connection, patience=patience) as writer,
        ):
            self.folding = Folding(reader, self._judge, trust)
            self._metrics.control_refused.set_function(self._refused)
            self.reporter = Reporter(writer, self.topics.status, self.worker, self._describe, interval=settings.status_interval)
            try:
                self._warn_of_trust(trust)
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
                if self._retry is not None:
                    self._retry.cancel()
                self._beside.close()

    def _warn_of_trust(self, trust: Trust) -> None:
        if not trust.keys and not self._settings.unsigned_control:
            logger.warning(
                "no key is trusted (%s has none): the versions of the topology file are served, and every release is refused. "
                "`penstock keys trust NAME` adds a key",
                self._settings.trust,
            )

    def _judge(self, trust: Trust) -> Judge:
        return Judge(self._loaded.topology.name, self._cluster, self.topics.control, trust, unsigned=self._settings.unsigned_control)

    def _duties(self) -> Iterator[Coroutine[Any, Any, None]]:
        yield self._follow()
        yield self._work()
        yield self._watch_trust()
        yield self.reporter.run()
        if self._loaded.topology.releases.check_every:
            yield self._check_forever(self._loaded.topology.releases.check_every)

    async def caught_up(self) -> None:
        """Returns when this worker scores with the currently active generation, or cannot.

        Raises TransportUnavailable when the brokers do not return the end of the log.
        """
        patience = patience_of(self._settings)
        if not self.folding.lost:
            end = await self.folding.reader.end()
            try:
                await self._until(lambda: self.folding.position >= end or self.folding.lost, patience)
            except TimeoutError as error:
                raise TransportUnavailable(f"{self.topics.control} was not read to its end within {patience:g} s") from error
        try:
            await self._until(lambda: self.folding.whole and not self._behind(), min(patience, self._settings.prepare_timeout))
        except TimeoutError:
            logger.warning("generation %d is not ready here yet: scoring continues with the previous one", self.folding.log.generation)
        self.reporter.assigned()

    async def _until(self, holds: Callable[[], bool], seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while not holds():
                self._moved.clear()
                await self._moved.wait()

    # -- the start ---------------------------------------------------------------------------------------------------

    async def _bring_up(self) -> None:
        """Folds the log to its end, and makes the active generation live."""
        await self.folding.to_the_end()
        log = self.folding.log
        if not log.generation:
            self._refuse_to_fall_back(log.refused["unknown-key"])
            made = runtime.prepare(
                self._loaded,
                warm_rows=self._settings.chunk_rows,
                model_trust=self._settings.model_trust,
                model_memory=self._settings.model_memory,
            )
            bound = runtime.bindings(self._loaded)
            self.deployment = Deployment(Served(0, made.plan, program=made, bindings=bound, artifacts=self._loaded.artifacts))
            self._preparation.adopt(self._loaded.artifacts, runtime.sessions(made))
        else:
            release = log.generations[-1].release
            self.deployment = Deployment(_served(log.generation, release, await self._beside.prepare(release)))
            self._compare_with_the_file(release.bindings)
            self._jobs.put_nowait(self._prune)
        self._metrics.generation.set(self.deployment.generation)
        logger.info("generation %d is live", self.deployment.generation, extra=dict(self.deployment.primary.plan.versions))
        self._decide()

    def _refuse_to_fall_back(self, unknown: int) -> None:
        """Raises ConfigError when the log may hold releases that this worker cannot check: it would serve older models in silence."""
        if unknown and not self._settings.from_file:
            message = (
                f"the control log {self.topics.control} holds {unknown} messages signed with keys that this file does not have, and no "
                "release of a trusted key"
            )
            fix = "give the trust file of the other workers; or start with --from-file, if the topology file's versions are to be served"
            raise ConfigError(Problem(str(self._settings.trust), 0, 0, message, fix))

    def _compare_with_the_file(self, bound: Mapping[str, Binding]) -> None:
        declared = {node.name: str(node.model) for node in self._loaded.topology.model_nodes}
        differs = [
            f"{name}: {bound[name]}, the file names {said}" for name, said in declared.items() if name in bound and str(bound[name]) != said
        ]
        if differs:
            logger.info("the control log overrides the topology file: %s", "; ".join(differs))

    # -- the log -----------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            try:
                further = await self.folding.advance()
            except TransportUnavailable as error:
                self.problems.say("control", f"the control topic cannot be read: {error}")
                await asyncio.sleep(PAUSE)
                continue
            except TransportError as error:  # a log that was recreated is ignored
                current = self.deployment.generation
                self.problems.say("control", f"{error}; this worker continues with generation {current} and ignores later ones")
                self._moved.set()
                return
            self.problems.say("control")
            if further:
                self._decide()

    async def _watch_trust(self) -> None:
        """Reads the trust file again and again. After a change, `folding` judges the log anew, from its beginning."""
        while True:
            await asyncio.sleep(LOOK)
            try:
                self.folding.trust = await asyncio.to_thread(Trust.load, self._settings.trust)
            except PenstockError as error:
                self.problems.say("trust", f"{error}; the keys of the previous trust file stay trusted")
            else:
                self.problems.say("trust")

    # -- effects of the log ------------------------------------------------------------------------------------------

    def _scoring(self) -> Scoring:
        current, previous = self.deployment.primary, self.deployment.previous
        return Scoring(current.generation, current.release, previous.release if previous else "")

    def _behind(self) -> bool:
        return behind(self.folding.log, self.cases, self._scoring())

    def _decide(self) -> None:
        if self.folding.whole:
            self._active = self.folding.log.generation
            self.cases, effects = reconcile(self.folding.log, self.cases, self._scoring(), _now())
            for effect in effects:
                self._carry_out(effect)
        self.reporter.changed()
        self._moved.set()

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Prepare(release):
                self._jobs.put_nowait(partial(self._prepare, release))
            case Switch(release, generation):
                self._switch(release, generation)
            case End(release, state, why):
                self._plans.pop(release.id, None)
                if release.id == self.cases.preparing:
                    self._beside.stop()
                logger.info("release %s is %s: %s", release.id, state, why)
            case Warn(about, what):
                self.problems.say(about, what)
            case Retry(at):
                if self._retry is not None:
                    self._retry.cancel()
                self._retry = asyncio.get_running_loop().call_later(max(at - time.monotonic(), 0), self._jobs.put_nowait, self._look_again)

    def _switch(self, release: Release, generation: int) -> None:
        self.deployment = self.deployment.followed_by(_served(generation, release, self._plans.pop(release.id)))
        self._jobs.put_nowait(self._prune)
        self._metrics.swaps.inc()
        self._metrics.generation.set(generation)
        self._metrics.retain_nodes({pair for one in self.deployment.loaded for pair in one.plan.versions.items()})
        versions = dict(self.deployment.primary.plan.versions)
        logger.info("generation %d is live: %s", generation, release.reason or "no reason given", extra=versions)

    # -- preparation -------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            job = await self._jobs.get()
            await job()

    async def _look_again(self) -> None:
        self._decide()

    async def _prepare(self, release: Release) -> None:
        try:
            if self.cases.stopped:  # before it began
                raise Stopped
            prepared = self._loaded_already(release.bindings) or await self._beside.prepare(release)
        except Exception as error:  # no error of a model's file may stop the live plan
            known = isinstance(error, PenstockError)
            if not self.cases.stopped:
                logger.warning("release %s failed here: %s", release.id, error, exc_info=None if known else error)
                self._metrics.releases_failed.inc()
            self.cases = self.cases.failed(release.id, str(error) if known else repr(error), _now())
        else:
            if not self.cases.stopped:
                self._plans[release.id] = prepared
                logger.info("release %s is ready", release.id)
            self.cases = self.cases.ready(release.id, _now())
        self._decide()

    def _loaded_already(self, bindings: Mapping[str, Binding]) -> Prepared | None:
        return next((Prepared(one.program, one.artifacts) for one in self.deployment.loaded if same(one.bindings, bindings)), None)

    def _on_step(self, id: str, state: State, detail: str) -> None:
        self.cases = self.cases.progress(id, state, detail, _now())
        self.reporter.changed()

    async def _prune(self) -> None:
        """Removes old versions from the host's cache, after a change of generation."""
        kept = [binding for one in self.deployment.loaded for binding in one.bindings.values()]
        try:
            await self._beside.prune(kept)
        except (PenstockError, OSError) as error:
            logger.warning("the cache of models was not pruned: %s", error)

    # -- while live ------------------------------------------------------------------------------------------------

    async def _check_forever(self, every: float) -> None:
        """Checks every live model with its golden records. A failure is reported, and rolled back when the topology demands it."""
        topology, validity = self._loaded.topology, Validity(self._models)
        while True:
            await asyncio.sleep(every)
            serving = self.deployment.primary
            failures = await validity.failures(serving.plan, serving.artifacts)
            self._metrics.validity_failures.inc(len(failures))
            self.problems.say("validity", "; ".join(failures))
            if failures and serving is self.deployment.primary and topology.releases.on_invalid == "rollback":
                await take_back(self._settings, topology, serving.generation, f"{self.worker}: {failures[0]}")

    # -- what is reported --------------------------------------------------------------------------------------------

    def out_of_touch(self) -> str:
        """Returns why the control log is not followed at this moment; empty when it is."""
        return self.problems.about("control")

    def _refused(self) -> dict[Labels, float]:
        """Returns the counts of control messages that were refused or had no effect, by cause."""
        log = self.folding.log
        return {(cause,): float(count) for cause, count in (log.refused + log.ignored).items()}

    def _describe(self) -> WorkerStatus:
        current, log = self.deployment.primary, self.folding.log
        return WorkerStatus(
            worker=self.worker,
            topology=self._loaded.topology.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=self._started,
            time=timestamp(),
            generation=current.generation,
            wanted=self._active,
            ready=self.ready() and not self._stopping,
            models=dict(current.plan.versions),
            partitions=self.places(),
            releases=[Progress(id=id, state=one.state, detail=one.detail[:PROSE], since=one.since) for id, one in self.cases.known.items()],
            refused=dict(log.refused + log.ignored),
            problems=[what[:PROSE] for what in self.problems.all()],
            unsigned=self._settings.unsigned_control,
            reads=NEWEST,
        )


def _served(generation: int, release: Release, prepared: Prepared) -> Served:
    made = prepared.program
    return Served(generation, made.plan, release.id, program=made, bindings=release.bindings, artifacts=prepared.artifacts)


def _now() -> Now:
    return Now(time.monotonic(), timestamp())
