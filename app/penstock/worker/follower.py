"""A worker's side of the releases: it follows them (`following`), and reports, tries, guards and checks what it serves.

1. The log is folded again to its end at every assignment of partitions: the worker that had a partition before may have scored it with a
   generation that this one has not read yet, and a partition must not fall back.
2. A release is tried beside the live plan on the last real rows before it is ready (`proof`), and guarded over its first rows after a
   switch (`guard`). While live, the plan is checked by a timer (`checks`). With `on_invalid: rollback` what fails there brings the
   previous generation back, by an ordinary release.
3. What the worker does about each release is reported (`report`), signed by its identity in the consumer group.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, ClassVar, Final

from penstock.control.lifecycle import State
from penstock.control.messages import NEWEST, Release, new_id, timestamp
from penstock.control.proposal import differences
from penstock.control.status import DeadLetters, Place, Progress, Refused, WorkerStatus
from penstock.control.trust import Trust
from penstock.control.trust.member import Identity
from penstock.errors import ControlError, TransportUnavailable
from penstock.evidence.guard import Rule
from penstock.model.parity import Pair
from penstock.pipeline import Program
from penstock.runtime import Loaded
from penstock.settings import Settings
from penstock.telemetry import Metrics
from penstock.transports.base import Sink
from penstock.transports.kafka.connection import aiokafka_arguments, patience_of
from penstock.transports.kafka.journal import Writer
from penstock.worker.checks import Validity, take_back
from penstock.worker.following import Following
from penstock.worker.guard import Guard
from penstock.worker.preparation import Prove
from penstock.worker.proof import prove, run_pairs
from penstock.worker.recent import Recent
from penstock.worker.report import Reporter
from penstock.worker.trial import TrialGuard

__all__ = ["Follower"]

logger = logging.getLogger(__name__)

REFUSALS: Final = 8  # last entries of the log that were not accepted here and are reported
PROSE: Final = 2000  # characters of a reason that are reported: records have a size limit, and a worker whose reports fail looks lost


class Follower(Following):
    """Follows the releases of one topology for one worker, and reports about it."""

    role: ClassVar[str] = ""  # what reports call it, beside a worker
    reporter: Reporter

    def __init__(self, loaded: Loaded, settings: Settings, cluster: str, metrics: Metrics) -> None:
        super().__init__(loaded, settings, cluster, metrics, rolls_back=True)
        self.worker = self._name()
        self.identity = Identity.new(self.worker)
        self.places: Callable[[], dict[str, Place]] = dict  # the worker's positions in its partitions; the runner that reads them sets it
        self.letters: Callable[[], DeadLetters | None] = lambda: None  # the worker's dead letters; set by the runner, too
        self.ready: Callable[[], bool] = lambda: False  # whether the worker is ready; the runner sets what computes it
        self.answering: Callable[[], bool] = lambda: True  # whether brokers answer; the runner sets it: without them, no farewell is tried
        self.sink: Sink | None = None  # knows the size limits of the topics; the runner that writes them sets it
        self.recent = Recent(settings.proof_rows)  # an observer of what this worker scores
        self._guard = Guard(
            self.recent,
            Rule(settings.failing_share, settings.guard_rows, settings.guard_seconds),
            say=partial(self._say_bad, "guard"),
            act=self._invalid,
            sink=lambda: self.sink,
            metrics=metrics,
        )
        self._trial_guard = TrialGuard(
            self._on_trial,
            say=lambda what: self._say_bad("trial", what, bad=bool(what)),
            act=lambda why: self._invalid(self.deployment.generation, why),
        )
        self._started = timestamp()
        share = loaded.share
        self._stage, self._stages = ("", []) if share is None else (share.process, list(share.processes))

    def _name(self) -> str:
        return self._settings.group_instance_id or f"{socket.gethostname()}.{os.getpid()}.{new_id()[-4:]}"

    async def _begin(self, stack: AsyncExitStack, trust: Trust) -> None:
        settings = self._settings
        await super()._begin(stack, trust)
        writer = await stack.enter_async_context(Writer(aiokafka_arguments(settings), patience=patience_of(settings)))
        self.reporter = Reporter(
            writer, self.topics.status, self.identity, self._describe, interval=settings.status_interval, stage=self._stage
        )

    def _duties(self) -> Iterator[Coroutine[Any, Any, None]]:
        yield from super()._duties()
        yield self.reporter.run()
        yield self._guard.run()
        yield self._trial_guard.run()
        if self._loaded.topology.releases.check_every:
            yield self._check_forever(self._loaded.topology.releases.check_every)

    async def _farewell(self) -> None:
        if self.answering():
            await self.reporter.close()

    def _changed(self) -> None:
        self.reporter.changed()

    def _switched(self, replaced: bool) -> None:
        if replaced and self.deployment.previous is not None and self._settings.guard_seconds:
            self._guard.begin(self.deployment.generation, self.deployment.previous)

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

    # -- before a release is ready ---------------------------------------------------------------------------------

    def _prover(self, release: Release) -> Prove:
        return partial(self._prove, release)

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
        newest = {one.id for each in generations[-1:] for one in (each.live, each.candidate) if one is not None}
        if release.restores is not None or release.id in newest:
            logger.warning("release %s is made ready all the same: %s", release.id, why)
            return why
        raise ControlError(f"{State.PROVING}: {why}. The release changes {', '.join(changed)}: {advice}", code="proof")

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
        """Returns the release that answers in a generation; None for generation 0, and while the log does not have it."""
        generations = self.folding.log.generations
        return generations[generation - 1].live if self.folding.whole and 0 < generation <= len(generations) else None

    async def _invalid(self, generation: int, why: str) -> bool:
        """Carries out `on_invalid`. Returns whether to try again, should the generation stay live."""
        topology = self._loaded.topology
        if topology.releases.on_invalid != "rollback":
            return False
        return await take_back(self._settings, topology, generation, f"{self.worker}: {why}")

    def _say_bad(self, about: str, what: str, bad: bool) -> None:
        """Sets the problem that a guard has found, with advice when what it guards is bad; "" clears it."""
        name, back = self._loaded.topology.name, self._loaded.topology.releases.on_invalid == "rollback"
        advice = "this worker takes it back" if back else f"`penstock rollback {name}` takes it back"
        self.problems.say(about, f"{what}; {advice}" if bad else what)
        self.reporter.changed()

    # -- what is reported --------------------------------------------------------------------------------------------

    def _describe(self) -> WorkerStatus:
        current, log = self.deployment.primary, self.folding.log
        return WorkerStatus(
            worker=self.worker,
            role=self.role,
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
            releases=[
                Progress(id=id, state=one.state, detail=one.detail[:PROSE], since=one.since) for id, one in self.cases.known.items() if id
            ],
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
            stage=self._stage,
            stages=self._stages,
        )
