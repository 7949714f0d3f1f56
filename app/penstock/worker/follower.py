"""Follows the releases of one topology for one worker: folds the control log, calls `control.cases`, and carries out the effects.

1. The log is folded to its end before the first event, and again at every assignment of partitions: the worker that had a partition before
   may have scored it with a generation that this one has not read yet, and a partition must not fall back.
2. After each slice of the log, and whenever a preparation ends, `reconcile` decides what to do; nothing else does.
3. Preparations run beside the event loop (`beside`), one at a time.
4. A release is tried beside the live plan on the last real rows before it is ready (`proof`), and guarded over its first rows after a
   switch (`guard`). While live, the plan is checked by a timer (`checks`). With `on_invalid: rollback` what fails there brings the
   previous generation back, by an ordinary release.
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
from penstock.control.proposal import differences
from penstock.control.status import DeadLetters, Place, Progress, Refused, WorkerStatus
from penstock.control.topics import Topics
from penstock.control.trust import Judge, Trust
from penstock.control.trust.member import Identity
from penstock.engine import Deployment, Serving
from penstock.errors import ControlError, PenstockError, Stopped, TransportError, TransportUnavailable
from penstock.evidence.guard import Rule
from penstock.model.artifact import Artifact
from penstock.model.parity import Pair
from penstock.pipeline import Program
from penstock.runtime import Loaded
from penstock.settings import Settings
from penstock.telemetry import Metrics
from penstock.telemetry.families import Labels
from penstock.transports.base import Sink
from penstock.transports.kafka.connection import aiokafka_arguments, patience_of
from penstock.transports.kafka.journal import Reader, Writer
from penstock.worker.beside import Beside
from penstock.worker.checks import Validity, take_back
from penstock.worker.folding import Folding
from penstock.worker.guard import Guard
from penstock.worker.keys import Keys
from penstock.worker.preparation import Preparation, Prepared
from penstock.worker.proof import prove, run_pairs
from penstock.worker.recent import Recent
from penstock.worker.report import Problems, Reporter

__all__ = ["Follower", "Served"]

logger = logging.getLogger(__name__)

WAIT_MS: Final = 200  # a request for the end of the log, at each assignment, waits behind an open fetch
PAUSE: Final = 5.0  # seconds before a control topic that could not be read is read again
REFUSALS: Final = 8  # last entries of the log that were not accepted here and are reported
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

    def __init__(self, loaded: Loaded, settings: Settings, cluster: str, metrics: Metrics) -> None:
        self._loaded, self._settings, self._cluster, self._metrics = loaded, settings, cluster, metrics
        topology = loaded.topology
        self.topics = Topics.declared(settings.application, topology)
        self.worker = settings.group_instance_id or f"{socket.gethostname()}.{os.getpid()}.{new_id()[-4:]}"
        self.identity = Identity.new(self.worker)
        self.places: Callable[[], dict[str, Place]] = dict  # the worker's positions in its partitions; the runner that reads them sets it
        self.letters: Callable[[], DeadLetters | None] = lambda: None  # the worker's dead letters; set by the runner, too
        self.ready: Callable[[], bool] = lambda: False  # whether the worker is ready; the runner sets what computes it
        self.answering: Callable[[], bool] = lambda: True  # whether brokers answer; the runner sets it: without them, no farewell is tried
        self.sink: Sink | None = None  # knows the size limits of the topics; the runner that writes them sets it
        self.recent = Recent(settings.proof_rows)  # an observer of what this worker scores
        self.problems = Problems()
        self._keys = Keys(settings, topology, self.problems)
        if settings.unsigned_control:
            logger.warning("UNSIGNED: every client that can write to %s can swap the models. For development only", self.topics.control)
        self.cases = Cases()
        self._plans: dict[str, Prepared] = {}  # of the releases that are ready, by id
        self._preparation = Preparation(loaded, settings)
        self._beside = Beside(self._preparation, self._on_step)
        self._guard = Guard(
            self.recent,
            Rule(settings.failing_share, settings.guard_rows, settings.guard_seconds),
            say=self._say_guard,
            act=self._invalid,
            sink=lambda: self.sink,
            metrics=metrics,
        )
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()  # executed one after another
        self._retry: asyncio.TimerHandle | None = None
        self._moved = asyncio.Event()
        self._active = 0  # the active generation of the log, at the last time when it was whole
        self._started = timestamp()
        self._stopping = False

    @asynccontextmanager
    async def following(self, fail: Callable[[BaseException], None]) -> AsyncIterator[Self]:
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
            self.reporter = Reporter(writer, self.topics.status, self.identity, self._describe, interval=settings.status_interval)
            try:
                self._keys.begin(trust)
                await self._bring_up()
                tasks = [asyncio.create_task(one) for one in self._duties()]
                for task in tasks:
                    task.add_done_callback(lambda task: None if task.cancelled() or (error := task.exception()) is None else fail(error))
                try:
                    yield self
                finally:
                    self._stopping = True
                    for task in tasks:
                        task.cancel()
                    await asyncio.wait(tasks)
                    if self.answering():
                        await self.reporter.close()
            finally:
                if self._retry is not None:
                    self._retry.cancel()
                self._beside.close()

    def _judge(self, trust: Trust) -> Judge:
        return Judge(self._loaded.topology.name, self._cluster, self.topics.control, trust, unsigned=self._settings.unsigned_control)

    def _duties(self) -> Iterator[Coroutine[Any, Any, None]]:
        yield self._follow()
        yield self._work()
        yield self._keys.watch(self.folding)
        yield self.reporter.run()
        yield self._guard.run()
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
            self._keys.refuse_to_fall_back(log.refused["unknown-key"], self.topics.control)
            made = runtime.prepare(self._loaded, self._settings)
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
                if self.folding.lost:
                    return
                self.problems.say("control", f"the control topic cannot be read: {error}")
                await asyncio.sleep(PAUSE)
                continue
            except TransportError as error:  # a log that was recreated is ignored
                self.topic_lost(self.topics.control, str(error))
                return
            if self.folding.lost:
                return
            self.problems.say("control")
            if further:
                self._decide()

    def topic_lost(self, topic: str, why: str) -> None:
        """Goes on without a topic that was deleted or created again. A control log is not followed any more: a new one begins elsewhere."""
        current = self.deployment.generation
        if topic == self.topics.control:
            self.folding.lost = True
            self.problems.say("control", f"{why}; this worker continues with generation {current} and ignores later ones")
            self._moved.set()
        else:
            self.problems.say("status", f"{why}; `penstock status` and `deploy` do not see this worker until it is started again")

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
        if self.deployment.previous is not None and self._settings.guard_seconds:
            self._guard.begin(generation, self.deployment.previous)
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
            prepared = self._loaded_already(release.bindings) or await self._beside.prepare(release, partial(self._prove, release))
        except Exception as error:  # no error of a model's file may stop the live plan
            known = isinstance(error, PenstockError)
            if not self.cases.stopped:
                logger.warning("release %s failed here: %s", release.id, error, exc_info=None if known else error)
                self._metrics.releases_failed.inc()
            self.cases = self.cases.failed(release.id, str(error) if known else repr(error), _now())
        else:
            if not self.cases.stopped:
                self._plans[release.id] = prepared
                logger.info("release %s is ready%s", release.id, prepared.proof and f": {prepared.proof}")
            self.cases = self.cases.ready(release.id, _now(), prepared.proof)
        self._decide()

    def _prove(self, release: Release, program: Program, pairs: Mapping[str, Pair], stopped: Callable[[], bool]) -> str:
        """Tries the program beside the live one; called in the preparation's thread. Raises ControlError to refuse the release.

        What the log has activated is served all the same: the other workers serve it. And a rollback is never refused.
        """
        live = self.deployment.primary
        kept, share = self.recent.kept(), self._settings.failing_share
        proof = prove(program, live.program, kept, sink=self.sink, stopped=stopped)
        changed = [f"nodes.{one.node}: {one.after}" for one in differences(live.bindings, release.bindings)]
        why = proof.refusal(share, live.generation, program.plan.versions, changed)
        advice = "deploy a version that scores such rows, or, if they should fail, deploy this one with --min-ready 0"
        if not why and pairs:
            run_pairs(program, pairs, kept, sink=self.sink, stopped=stopped)
            why = next((f"nodes.{node}: {refusal}" for node, pair in pairs.items() if (refusal := pair.refusal(share))), "")
            advice = "the setting failing_share is how many rows may differ"
        if not why:
            return "; ".join([str(proof), *(f"nodes.{node}: {pair}" for node, pair in pairs.items())])
        generations = self.folding.log.generations
        if release.restores is not None or (generations and generations[-1].release.id == release.id):
            logger.warning("release %s is made ready all the same: %s", release.id, why)
            return why
        raise ControlError(f"{State.PROVING}: {why}. The release changes {', '.join(changed)}: {advice}", code="proof")

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
        """Checks what is live, again and again. A failure is reported, and rolled back when the topology demands it."""
        validity = Validity(self._settings.failing_share)
        while True:
            await asyncio.sleep(every)
            serving = self.deployment.primary
            kept = self.recent.kept(serving.generation)
            failures = await validity.failures(serving, self._activated(serving.generation), kept, self.sink)
            self._metrics.validity_failures.inc(len(failures))
            self.problems.say("validity", "; ".join(failures))
            if failures and serving is self.deployment.primary:
                await self._invalid(serving.generation, failures[0])

    def _activated(self, generation: int) -> Release | None:
        """Returns the release of a generation; None for generation 0, and while the log does not have it."""
        generations = self.folding.log.generations
        return generations[generation - 1].release if self.folding.whole and 0 < generation <= len(generations) else None

    async def _invalid(self, generation: int, why: str) -> bool:
        """Carries out `on_invalid`. Returns whether to try again, should the generation stay live."""
        topology = self._loaded.topology
        if topology.releases.on_invalid != "rollback":
            return False
        return await take_back(self._settings, topology, generation, f"{self.worker}: {why}")

    def _say_guard(self, what: str, bad: bool) -> None:
        """Sets the problem that the guard has found, with advice when the generation is bad; "" clears it."""
        name, back = self._loaded.topology.name, self._loaded.topology.releases.on_invalid == "rollback"
        advice = "this worker takes it back" if back else f"`penstock rollback {name}` takes it back"
        self.problems.say("guard", f"{what}; {advice}" if bad else what)
        self.reporter.changed()

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
            refusals=[
                Refused(offset=one.offset, code=one.code, why=one.why)
                for one in sorted([*log.last_refused, *log.last_rejected])[-REFUSALS:]
            ],
            trusts=sum(key.serves(self._loaded.topology.name) for key in self.folding.trust.keys.values()),
            problems=[what[:PROSE] for what in self.problems.all()],
            dead_letters=self.letters(),
            unsigned=self._settings.unsigned_control,
            reads=NEWEST,
        )


def _served(generation: int, release: Release, prepared: Prepared) -> Served:
    made = prepared.program
    return Served(generation, made.plan, release.id, program=made, bindings=release.bindings, artifacts=prepared.artifacts)


def _now() -> Now:
    return Now(time.monotonic(), timestamp())
