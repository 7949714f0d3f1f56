"""Follows the releases of one topology, and makes them live: what a worker, a service and a reading program have in common.

It reads the control log and writes nothing. `follower` adds what makes it a worker: reports, the proof on real rows, the guard and the
checks. `reading` starts also while the brokers are away.

1. The log is folded to its end before anything is scored.
2. After each slice of the log, and whenever a preparation ends, `control.cases` decides what to do; nothing else does.
3. Preparations run beside the event loop (`beside`), one at a time.
4. No failure stops the live plan.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Self

from penstock import runtime
from penstock.binding import Binding, same
from penstock.control.cases import Cases, Effect, End, Now, Prepare, Retry, Scoring, Switch, Warn, behind, reconcile
from penstock.control.lifecycle import State
from penstock.control.log import Generation
from penstock.control.messages import Release, timestamp
from penstock.control.proposal import differences
from penstock.control.strategy import Single
from penstock.control.topics import Topics
from penstock.control.trust import Judge, Trust
from penstock.engine import Deployment, Router, Serving
from penstock.errors import ControlError, ModelMismatch, PenstockError, Stopped, TransportError, TransportUnavailable
from penstock.model.artifact import Artifact
from penstock.pipeline import Candidate, Program, check_beside
from penstock.pipeline.trial import Tally
from penstock.runtime import Loaded
from penstock.settings import Settings
from penstock.telemetry import Metrics
from penstock.telemetry.families import Labels
from penstock.transports.kafka.connection import aiokafka_arguments, patience_of
from penstock.transports.kafka.journal import Reader
from penstock.transports.kafka.lookout import Lookout
from penstock.worker.beside import Beside
from penstock.worker.folding import Folding, Judges
from penstock.worker.keys import Keys
from penstock.worker.preparation import Preparation, Prepared, Prove, untried
from penstock.worker.report import Problems

__all__ = ["Followed", "Following", "Served", "served"]

logger = logging.getLogger(__name__)

WAIT_MS: Final = 200  # a request for the end of the log, at each assignment, waits behind an open fetch
PAUSE: Final = 5.0  # seconds before a control topic that could not be read is read again
_OTHERS: Final = "others"  # the id of generation 0, where it is not what a trial began on: no release has it
CONFIRM: Final = 2.0  # seconds between two questions whether the log is read to its end
ANSWER: Final = 5.0  # seconds for the answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Served(Serving):
    """A plan that scores, its bindings, and its model versions. A live one has the candidate that is on trial beside it."""

    program: Program
    bindings: Mapping[str, Binding]
    artifacts: Mapping[str, Artifact]
    candidate: Candidate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """How current the models of a process are.

    `generation` and `release` (its id; "" for generation 0) are what scores. `active` is the active generation of the control log, as far
    as it was read: a higher one is being made ready, or cannot be served here. `seconds` have passed since the brokers last confirmed that
    the log was read to its end; `reason` is why it is not followed at this moment, "" while it is. `problems` are all that a person should
    look at, a release that failed here included.
    """

    generation: int
    release: str
    active: int
    seconds: float
    reason: str = ""
    problems: tuple[str, ...] = ()


Job = Callable[[], Coroutine[Any, Any, None]]


class Following:
    """Follows the releases of one topology. `deployment` is what the process scores with; a swap assigns the next one.

    Use `following`: it reads the log, brings up the active generation, and stops everything at the end. A subclass adds to the methods
    that are called hooks below.
    """

    deployment: Deployment[Served]
    folding: Folding
    from_file = "--from-file"  # how that setting is given

    def __init__(self, loaded: Loaded, settings: Settings, cluster: str, metrics: Metrics, *, rolls_back: bool = False) -> None:
        """`rolls_back` says that this process may have to make releases, by the topology's `on_invalid`."""
        self._loaded, self._settings, self._cluster, self._metrics = loaded, settings, cluster, metrics
        topology = loaded.topology
        self.topics = Topics.declared(settings.application, topology)
        self.problems = Problems()
        self._keys = Keys(settings, topology, self.problems, rolls_back=rolls_back and topology.releases.on_invalid == "rollback")
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
        self._confirmed = -math.inf  # when the brokers were asked last for the end up to which the log is folded, by the monotonic clock
        self._stopping = False

    @asynccontextmanager
    async def following(self, fail: Callable[[BaseException], None]) -> AsyncIterator[Self]:
        """Inside, the active generation is `deployment`; later ones are followed in the background. `fail` is called for a bug there.

        Raises TransportUnavailable when the log cannot be read, ModelError or ControlError when the active generation
        cannot be served here.
        """
        trust = Trust.load(self._settings.trust)
        self._keys.begin(trust)
        try:
            async with AsyncExitStack() as stack:
                await self._begin(stack, trust)
                self._metrics.control_refused.set_function(self._refused)
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
                    await self._farewell()
        finally:
            if self._retry is not None:
                self._retry.cancel()
            self._beside.close()

    @property
    def followed(self) -> Followed:
        """How current the live plan is, now."""
        current = self.deployment.primary
        return Followed(
            generation=current.generation,
            release=current.release,
            active=max(self._active, current.generation),
            seconds=time.monotonic() - self._confirmed,
            reason=self.out_of_touch(),
            problems=tuple(self.problems.all()),
        )

    def out_of_touch(self) -> str:
        """Returns why the control log is not followed at this moment; empty when it is."""
        return self.problems.about("control") or self.problems.about("brokers")

    # -- hooks -------------------------------------------------------------------------------------------------------

    async def _begin(self, stack: AsyncExitStack, trust: Trust) -> None:
        """Opens the log and folds it to its end, in `folding`; `stack` closes what was opened. Raises TransportError."""
        reader = await stack.enter_async_context(self._reader(patience_of(self._settings)))
        asked = time.monotonic()
        self.folding = Folding(reader, self._judge, trust)
        await self.folding.to_the_end()
        self._confirmed = asked

    def _duties(self) -> Iterator[Coroutine[Any, Any, None]]:
        """Yields what runs until the end."""
        yield self._follow()
        yield self._work()
        yield self._keys.watch(self.folding)

    async def _farewell(self) -> None:
        """Ends in order, while the brokers can still be reached."""

    def _prover(self, _release: Release) -> Prove:
        """Returns what tries a release on real rows before it is ready."""
        return untried

    def _changed(self) -> None:
        """Something that is reported has changed."""

    def _switched(self, replaced: bool) -> None:
        """The deployment is another one; `replaced` says whether another release answers in it."""

    def _confirms(self) -> None:
        """The log was just confirmed to be read to its end."""

    # -- the start ---------------------------------------------------------------------------------------------------

    def _reader(self, patience: float) -> Reader:
        settings = self._settings
        wait_ms = min(settings.fetch_wait_ms, WAIT_MS)
        return Reader(aiokafka_arguments(settings), self.topics.control, patience=patience, wait_ms=wait_ms, whole=True)

    def _judge(self, trust: Trust) -> Judges:
        """Returns the judge of a fold that begins."""
        return Judge(self._loaded.topology.name, self._cluster, self.topics.control, trust, unsigned=self._settings.unsigned_control)

    async def _bring_up(self) -> None:
        """Makes the active generation live."""
        log = self.folding.log
        self._active = log.generation
        if not log.generation:
            self._keys.refuse_to_fall_back(log.refused["unknown-key"], self.topics.control, self.from_file)
            self.deployment = Deployment(await self._from_the_file())
        else:
            newest = log.generations[-1]
            for release in filter(None, (newest.live, newest.candidate)):
                self._plans[release.id] = await self._beside.prepare(release)
            if newest.candidate is not None:
                self._check_trial(newest.candidate, self._plans[newest.candidate.id])
            self.deployment = Deployment(*self._made(newest))
            self._compare_with_the_file(newest.live.bindings)
            self._jobs.put_nowait(self._prune)
        self._metrics.generation.set(self.deployment.generation)
        what = f": {_told(log.generations[-1])}" if log.generations else ""
        logger.info("generation %d is live%s", self.deployment.generation, what, extra=dict(self.deployment.primary.plan.versions))
        self._decide()

    async def _from_the_file(self) -> Served:
        """Returns generation 0: the versions that the topology file names, as the registry has them. Raises ModelError, TopologyError."""
        loaded = self._loaded
        made = await asyncio.to_thread(runtime.prepare, loaded, self._settings)
        self._preparation.adopt(loaded.artifacts, runtime.sessions(made))
        return Served(0, made.plan, program=made, bindings=runtime.bindings(loaded), artifacts=loaded.artifacts)

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
            self.problems.say("control", f"{why}; scoring continues with generation {current} and ignores later ones")
            self._moved.set()
        else:
            self.problems.say("status", f"{why}; `penstock status` and `deploy` do not see this process until it is started again")
        self._changed()

    async def _confirm(self, topics: Sequence[str]) -> None:
        """Asks the brokers, again and again, whether the log is read to its end, and whether `topics` are still the same.

        For a process that reads no partitions: of one that does, the source asks for its topics.
        """
        lookout = Lookout(self._settings, beside=topics, lost=self.topic_lost)
        while not self.folding.lost:
            await asyncio.sleep(CONFIRM)
            if not self.folding.connected:
                continue
            asked, reader = time.monotonic(), self.folding.reader
            try:
                async with asyncio.timeout(ANSWER):
                    lookout.saw(seen := await reader.describe(lookout.beside))
                    end = await reader.end() if self.topics.control in seen else math.inf
            except (TransportUnavailable, TimeoutError) as error:
                why = str(error) or f"no broker answers within {ANSWER:g} s"
                self.problems.say("brokers", f"the control log is not confirmed: {why}")
                self._changed()
                continue
            if self.problems.about("brokers"):
                self.problems.say("brokers")
                self._changed()
            if self.folding.whole and self.folding.position >= end and not self.folding.lost:
                self._confirmed = asked
                self._confirms()

    # -- effects of the log ------------------------------------------------------------------------------------------

    def _scoring(self) -> Scoring:
        current, trial, previous = self.deployment.primary, self.deployment.trial, self.deployment.previous
        return Scoring(
            current.generation,
            _OTHERS if self._strange() else current.release,
            previous.release if previous else "",
            trial.release if trial else "",
            current.candidate.router.share if current.candidate else 0.0,
        )

    def _strange(self) -> bool:
        """Whether the topology file binds something else here than where a trial began on it: an alias may have moved."""
        current, newest = self.deployment.primary, self.folding.log.generations[-1:]
        return not current.release and any(not one.live.id and not same(one.live.bindings, current.bindings) for one in newest)

    def _behind(self) -> bool:
        return behind(self.folding.log, self.cases, self._scoring())

    def _decide(self) -> None:
        if self.folding.whole:
            self._active = self.folding.log.generation
            self.cases, effects = reconcile(self.folding.log, self.cases, self._scoring(), _now())
            for effect in effects:
                self._carry_out(effect)
        self._changed()
        self._moved.set()

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Prepare(release):
                self._jobs.put_nowait(partial(self._prepare, release))
            case Switch(generation):
                self._switch(generation)
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

    def _switch(self, to: Generation) -> None:
        before = self.deployment
        self.deployment = before.followed_by(*self._made(to))
        self._switched(self.deployment.primary.release != before.primary.release)
        self._jobs.put_nowait(self._prune)
        self._metrics.swaps.inc()
        self._metrics.generation.set(to.number)
        self._metrics.retain_nodes({pair for one in self.deployment.loaded for pair in one.plan.versions.items()})
        versions = dict(self.deployment.primary.plan.versions)
        logger.info("generation %d is live: %s", to.number, _told(to), extra=versions)

    def _made(self, of: Generation) -> tuple[Served, Served | None]:
        """Returns the plans of a generation, of those that are ready or loaded."""
        live = served(of.number, of.live, self._taken(of.live))
        self.problems.say("beside")
        if of.candidate is None:
            return live, None
        trial = served(of.number, of.candidate, self._taken(of.candidate))
        candidate = self._candidate(of.candidate, trial.program, live.bindings, of.share)
        try:
            check_beside(live.program, candidate)
        except ModelMismatch as error:  # what is live was not ready when the candidate was checked
            self.problems.say("beside", f"this worker answers with what is live alone: {error}")
            return live, trial
        return replace(live, candidate=candidate), trial

    def _taken(self, release: Release) -> Prepared:
        """Returns the plan of a release that is ready, or loaded."""
        loaded = (one for one in self._loaded_now() if one.release == release.id)
        return self._plans.pop(release.id, None) or next(Prepared(one.program, one.artifacts) for one in loaded)

    def _loaded_now(self) -> tuple[Served, ...]:
        return self.deployment.loaded if hasattr(self, "deployment") else ()

    def _candidate(self, release: Release, program: Program, live: Mapping[str, Binding], share: float) -> Candidate:
        """Returns the program of a release as what is on trial beside these bindings."""
        strategy = release.strategy
        assert not isinstance(strategy, Single), "it would be live, and not on trial"
        changed = frozenset(one.node for one in differences(live, release.bindings))
        router = Router(release.id, share, strategy.unit)
        if (now := self._on_trial()) is None or now.router.experiment != release.id:
            return Candidate(program, changed, router)
        return Candidate(program, changed, replace(router, numbers=now.router.numbers), Tally(seen=now.tally.seen))

    def _on_trial(self) -> Candidate | None:
        return next((one.candidate for one in self._loaded_now() if one.candidate is not None), None)

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
            prepared = self._loaded_already(release.bindings) or await self._beside.prepare(release, self._prover(release))
            if not isinstance(release.strategy, Single):
                self._check_trial(release, prepared)
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

    def _check_trial(self, release: Release, prepared: Prepared) -> None:
        """Raises ControlError or ModelMismatch for a release that cannot be on trial here beside what is live in its generation."""
        strategy, unit = release.strategy, self._loaded.topology.releases.unit
        assert not isinstance(strategy, Single), "it would be live, and not on trial"
        if strategy.unit != unit:
            theirs, here = (f"the field {one}" if one else "the record's key" for one in (strategy.unit, unit))
            raise ControlError(
                f"release {release.id} is tried by {theirs}, and releases.unit of this worker's topology file is {here}: deploy, and "
                "start all workers, with one file",
                code="unit",
            )
        live, bindings = self._live_then()
        candidate = self._candidate(release, prepared.program, bindings, 0.0)
        check_beside(live, candidate)
        parameters = {node: binding.parameters for node, binding in release.bindings.items()}
        runtime.check_tried(self._loaded, prepared.artifacts, parameters, candidate.changed)

    def _live_then(self) -> tuple[Program, Mapping[str, Binding]]:
        """Returns what is live in the newest generation, where that is ready here, else what scores."""
        for newest in self.folding.log.generations[-1:]:
            loaded = (one.program for one in self._loaded_now() if one.release == newest.live.id)
            ready = self._plans.get(newest.live.id)
            if (found := ready.program if ready is not None else next(loaded, None)) is not None:
                return found, newest.live.bindings
        return self.deployment.primary.program, self.deployment.primary.bindings

    def _loaded_already(self, bindings: Mapping[str, Binding]) -> Prepared | None:
        return next((Prepared(one.program, one.artifacts) for one in self.deployment.loaded if same(one.bindings, bindings)), None)

    def _on_step(self, id: str, state: State, detail: str) -> None:
        self.cases = self.cases.progress(id, state, detail, _now())
        self._changed()

    async def _prune(self) -> None:
        """Removes old versions from the host's cache, after a change of generation."""
        kept = [binding for one in self.deployment.loaded for binding in one.bindings.values()]
        try:
            await self._beside.prune(kept)
        except (PenstockError, OSError) as error:
            logger.warning("the cache of models was not pruned: %s", error)

    def _refused(self) -> dict[Labels, float]:
        """Returns the counts of control messages that were refused or had no effect, by cause."""
        log = self.folding.log
        return {(cause,): float(count) for cause, count in (log.refused + log.ignored).items()}


def served(generation: int, release: Release, prepared: Prepared) -> Served:
    """Returns a release that was made ready, as the live plan of this generation."""
    made = prepared.program
    return Served(generation, made.plan, release.id, program=made, bindings=release.bindings, artifacts=prepared.artifacts)


def _now() -> Now:
    return Now(time.monotonic(), timestamp())


def _told(generation: Generation) -> str:
    """Returns what a generation has changed, for the log."""
    release = generation.release
    if generation.candidate is not None:
        return f"release {release.id} is on trial and answers {100 * generation.share:.6g} % of the units"
    if generation.live is not release:
        return f"the trial of release {release.id} has ended"
    return release.reason or "no reason given"
