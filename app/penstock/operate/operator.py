"""The operator: follows both topics of a topology's releases, and writes control messages.

A deploy, step by step; `rollout` holds the rule of step 3:

1. Read both topics to their end. Make a proposal from the current bindings and the requested changes (`proposal`).
2. Check that there are live workers (one that is starting is waited for) and that each can read the new messages. Announce the
   release. It counts once it was read back from the topic: two operators may announce at the same time.
3. Follow the workers until the release is ready on them, or cannot become ready.
4. Write `activate`, and read it back: if another release was activated first, this one has lost. Or write `abort` with the reason.
5. Follow the workers until they report that they score with the new generation.

A release on trial is activated in the same way. Then `promote` leads it on, and `abort` ends its trial; what these write counts as soon as
it is read back, and they follow the workers as in step 5. Nothing else can be released before the trial has ended.

All state is on the topics. An operator that is killed leaves the active generation unchanged and its release pending. Any other operator
may continue with it at step 3, or abort it. An operator that is interrupted aborts its release.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self, TypeVar

import msgspec

from penstock.binding import Binding
from penstock.control.fleet import Fleet, Worker
from penstock.control.log import Generation, Log, Standing
from penstock.control.messages import Abort, Activate, Pause, Promote, Release, new_id
from penstock.control.proposal import Change, Difference, Proposal, bound_now, changes_of, find, propose, restore
from penstock.control.rights import ALL, DEPLOY, ROLLBACK, needed
from penstock.control.rollout import Stand, Verdict, outdated, stands, verdict
from penstock.control.status import Boundary
from penstock.control.strategy import SINGLE, Single, Strategy, shares_of
from penstock.errors import ConfigError, ControlError, TransportUnavailable
from penstock.operate.aliases import Moves, moves
from penstock.operate.comparing import Compared, compared
from penstock.operate.desk import Desk, introduced
from penstock.operate.precheck import precheck
from penstock.registry.open import open_registry
from penstock.settings import Settings
from penstock.topology.spec import Topology

__all__ = ["Deployed", "OnChanges", "Operator", "Phase", "Progress", "Watcher", "operate"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
LOOK_S: Final = 0.5  # between two looks at the clocks while no message arrives
_OPEN: Final = frozenset({Standing.PENDING, Standing.CANDIDATE})  # what an abort ends
FAREWELL_S: Final = 10.0  # for the abort after an interrupt


class Phase(StrEnum):
    """The phase of a deploy, or of a trial: `ended` when it was aborted."""

    ANNOUNCED = "announced"
    ACTIVATED = "activated"
    PROMOTED = "promoted"
    ABORTED = "aborted"
    ENDED = "ended"


class Progress(NamedTuple):
    """The progress of a deploy, passed to its `Watcher` at each change. `stands` has one entry per worker, lost ones included."""

    phase: Phase
    release: Release
    stands: tuple[Stand, ...]
    generations: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Deployed:
    """The result of a deploy.

    `generation` is None when the release was only announced. `seconds` is, by worker that switched, the time from the broker's stamp
    of the message that made the generation to its stamp of the worker's first report of it: an upper bound of the time to the switch, by
    one clock. `late` names the live workers that did not switch in time or cannot switch, and why. `outcome` says what the release is
    in that generation: `live`, a `candidate` that answers this `share` of the units, or `aborted`, when its trial has ended instead.
    """

    release: Release
    changes: tuple[Difference, ...]
    generation: int | None = None
    seconds: Mapping[str, float] | None = None
    late: tuple[Stand, ...] = ()
    outcome: Literal["", "live", "candidate", "aborted"] = ""
    share: float | None = None


Watcher = Callable[[Progress], object]
OnChanges = Callable[[tuple[Compared, ...]], object]


def _unwatched(_progress: Progress) -> None:
    """Ignores the progress."""


def _unread(_changes: tuple[Compared, ...]) -> None:
    """Ignores the changes."""


class Operator:
    """Use as an async context manager; `operate` does it for programs without an event loop.

    Raises TransportUnavailable or AccessRefused for brokers that do not answer, TopicMissing when the topics of the releases do
    not exist, ConfigError for a trust file that cannot be used.
    """

    def __init__(self, settings: Settings, topology: Topology, cluster: str = "", *, requested_by: str = "") -> None:
        """`requested_by` is named in the messages, when they are written for another person than their author."""
        self.settings = settings
        self.topology = topology
        self._desk = Desk(settings, topology, cluster, requested_by)
        self._registry = open_registry(settings.models)
        self._told: Progress | None = None

    async def __aenter__(self) -> Self:
        await self._desk.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._desk.__aexit__(kind, error, trace)

    @property
    def log(self) -> Log:
        """The fold of the control topic, as far as it was read."""
        return self._desk.log

    @property
    def fleet(self) -> Fleet:
        """The fold of the status topic, as far as it was read."""
        return self._desk.fleet

    @property
    def status_topic(self) -> str:
        return self._desk.topics.status

    @property
    def unchecked(self) -> str:
        """Why workers' reports are taken as they are; "" when only those of members of the consumer group count.

        Known from the beginning, and later only cleared: what is announced afterwards is not decided by more reports than it allows.
        """
        return self._desk.unchecked

    # --- reading -------------------------------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Reads both topics to their current ends."""
        await self._desk.refresh()

    async def state(self) -> Log:
        """Returns the fold of the control topic, read to its end."""
        await self.refresh()
        return self.log

    async def workers(self) -> list[Worker]:
        """Returns the workers that reported within the last hour, by name; `.live` is False for lost ones."""
        await self.refresh()
        return self.fleet.workers()

    async def boundaries(self) -> list[Boundary]:
        """Returns where each generation began, by topic, partition and offset."""
        await self.refresh()
        return self.fleet.boundaries()

    def bindings(self) -> Mapping[str, Binding]:
        """Returns the current binding of every node. Raises ModelNotFound when the topology file binds a node to a missing version."""
        return bound_now(self.topology, self.log, self.fleet.workers(), self._registry)

    def author(self) -> str:
        """Returns the author that the history will name. Raises ConfigError when the settings name none, or one without a trusted key."""
        return self._desk.voice().author

    # --- changing ------------------------------------------------------------------------------------------------------

    async def propose(self, changes: Mapping[str, Change | str], strategy: Strategy = SINGLE) -> Proposal:
        """Returns what a deploy of these changes (node -> reference or Change) would announce: the dry run. Nothing is written.

        Raises ConfigError, ModelNotFound, ModelCorrupt, TopologyError with every incompatibility; ControlError when nothing
        would change, and while a release is on trial.
        """
        await self.refresh()
        self._check_no_trial()
        strategy = self._by_the_unit(strategy)
        wanted = {node: Change.to(change) if isinstance(change, str) else change for node, change in changes.items()}
        proposal = propose(self.topology, self.log, self.bindings(), wanted, self._registry, strategy)
        await asyncio.to_thread(precheck, self.topology, proposal, self._registry, self.settings.schemas)
        return proposal

    async def moved_aliases(self) -> Moves:
        """Returns the nodes that need a release because an alias of the topology file has moved; see `aliases`."""
        await self.refresh()
        return moves(self.topology, self.log, self.bindings(), self._registry)

    async def propose_rollback(self, to: str | int | None = None) -> Proposal:
        """Returns what a rollback would announce: to the generation before, to a number, or to that of a release id (or its beginning).

        Raises ControlError, also while a release is on trial.
        """
        await self.refresh()
        self._check_no_trial()
        return restore(self.log, self.bindings(), to)

    async def demand(self, right: str) -> None:
        """Raises ControlError when the key of the settings may not do this now, and ConfigError without a key that is trusted."""
        await self.refresh()
        self._desk.demand(frozenset({DEPLOY, right}))

    async def compare(self, differences: Iterable[Difference]) -> tuple[Compared, ...]:
        """Returns the differences with the metrics of the versions before and after, as their manifests in the registry state them."""
        return await asyncio.to_thread(compared, self.topology, tuple(differences), self._registry)

    async def deploy(
        self, changes: Mapping[str, Change | str], *, strategy: Strategy = SINGLE, reason: str = "", min_ready: int | None = None,
        timeout: float | None = None, wait: bool = True, on_progress: Watcher = _unwatched, on_changes: OnChanges = _unread,
    ) -> Deployed:  # fmt: skip
        """Proposes the changes and carries them out; see `carry_out`. `on_changes` receives them, compared, before anything is written.

        With another `strategy` than `single`, the release is on trial when it is active: see `promote`. Its unit is that of the topology.
        """
        await self.demand(DEPLOY)
        self._check_readers()
        proposal = await self.propose(changes, strategy)
        on_changes(await self.compare(proposal.differences))
        return await self.carry_out(proposal, reason=reason, min_ready=min_ready, timeout=timeout, wait=wait, on_progress=on_progress)

    async def rollback(
        self, to: str | int | None = None, *, reason: str = "", min_ready: int | None = None, timeout: float | None = None,
        wait: bool = True, on_progress: Watcher = _unwatched, on_changes: OnChanges = _unread,
    ) -> Deployed:  # fmt: skip
        """Makes a release with the bindings of an earlier generation, by default the one before. See `deploy`.

        While a release is on trial, this ends the trial instead: `outcome` of the result is `aborted`. With `to` it raises ControlError.
        """
        await self.demand(ROLLBACK)
        self._check_readers()
        if self.log.candidate is not None and to is None:
            trial = await self.abort(reason=reason)
            return await self._until_switched(trial, on_progress, Phase.ENDED)
        proposal = await self.propose_rollback(to)
        on_changes(await self.compare(proposal.differences))
        return await self.carry_out(proposal, reason=reason, min_ready=min_ready, timeout=timeout, wait=wait, on_progress=on_progress)

    async def carry_out(
        self, proposal: Proposal, *, reason: str = "", min_ready: int | None = None, timeout: float | None = None,
        wait: bool = True, on_progress: Watcher = _unwatched,
    ) -> Deployed:  # fmt: skip
        """Announces the release, waits until it is ready on all live workers (or on `min_ready`), activates it, waits for the switch.

        `timeout` (by default a little more than the workers' `prepare_timeout`) is the time in seconds to become ready. Without
        `wait` the release is announced and left to `resume`. A cancellation before the activation aborts the release.
        Raises ControlError when the release was not activated, with the reason of each worker or the release that was first;
        TransportError when the brokers are unreachable: then the release may be pending.
        """
        if wait and proposal.restores is None:
            self._desk.demand(ALL, (*shares_of(proposal.strategy), 1.0)[0])
        await self._await_workers(min_ready, timeout)
        self._check_workers(min_ready)
        release = Release(
            base=proposal.base,
            bindings=dict(proposal.bindings),
            baseline=dict(proposal.baseline),
            restores=proposal.restores,
            aliases=dict(proposal.aliases),
            strategy=proposal.strategy,
            **self._desk.opening(new_id(), reason),
        )
        try:
            await self._desk.say(release)
            self._standing(release)
            self._tell(on_progress, Phase.ANNOUNCED, release)
            if not wait:
                return Deployed(release, changes_of(self.log, release))
            await self._until_ready(release, min_ready, timeout, on_progress)
        except asyncio.CancelledError:
            await self._take_back(release, "interrupted", on_progress)
            raise
        return await self._until_switched(release, on_progress)

    async def resume(
        self, id: str, *, min_ready: int | None = None, timeout: float | None = None, on_progress: Watcher = _unwatched,
        on_changes: OnChanges = _unread,
    ) -> Deployed:  # fmt: skip
        """Continues with a release that was announced (`id` or its beginning); as `deploy`."""
        await self.refresh()
        release = find(self.log, id).release
        on_changes(await self.compare(changes_of(self.log, release)))
        if self._standing(release) is Standing.PENDING:
            activate = Activate(**self._desk.opening(release.id))
            self._desk.demand(needed(self.log, activate), self.log.leads_to(activate))
            await self._await_workers(min_ready, timeout)
            self._check_workers(min_ready)
            try:
                await self._until_ready(release, min_ready, timeout, on_progress)
            except asyncio.CancelledError:
                await self._take_back(release, "interrupted", on_progress)
                raise
        return await self._until_switched(release, on_progress)

    async def promote(
        self, id: str | None = None, *, full: bool = False, resume: bool = False, reason: str = "", on_progress: Watcher = _unwatched
    ) -> Deployed:
        """Leads the release on trial to its next step, or makes it live after the last one and with `full`; waits for the switch.

        `id` (or its beginning) names it, for callers that mean no other one. While the trial is paused, only with `resume`. Raises
        ControlError when it is not on trial, is paused, or has moved in the meantime; then nothing has changed by this.
        """
        await self.refresh()
        trial = self._trial(id)
        self._check_readers()
        if (why := self._paused(trial)) and not resume:
            raise ControlError(f"the trial of release {trial.id} is {why}; a promotion has to say that it resumes it", code="paused")
        base = self.log.generation
        promote = Promote(base=base, resume=resume, full=full, **self._desk.opening(trial.id, reason))
        self._desk.demand(needed(self.log, promote), self.log.leads_to(promote))
        await self._desk.say(promote)
        made = self.log.generations[base] if self.log.generation > base else None
        if made is None or _role(made, trial) == "aborted" or (full and made.live.id != trial.id):
            raise self._forestalled(trial, "promoted")
        return await self._until_switched(trial, on_progress, Phase.PROMOTED, made)

    async def pause(self, id: str | None = None, reason: str = "") -> Release:
        """Keeps the release on trial (`id` or its beginning, when given) at its step, until a promotion resumes it.

        Raises ControlError when it is not on trial, or paused already.
        """
        await self.refresh()
        trial = self._trial(id)
        self._check_readers()
        if why := self._paused(trial):
            raise ControlError(f"the trial of release {trial.id} is {why} already", code="paused")
        await self._desk.say(Pause(**self._desk.opening(trial.id, reason)))
        if not self._paused(trial):
            raise self._forestalled(trial, "paused")
        return trial

    async def abort(self, id: str | None = None, reason: str = "") -> Release:
        """Ends a pending release (`id` or its beginning), or the trial of one. Without an id it is the one on trial.

        Raises ControlError when it is neither.
        """
        await self.refresh()
        known = self.log.releases[self._trial(None).id] if id is None else find(self.log, id)
        if known.standing in _OPEN:
            self._check_readers()
            await self._desk.say(Abort(**self._desk.opening(known.release.id, reason)))
            known = self.log.releases[known.release.id]
            if known.standing is Standing.ABORTED:
                return known.release
        advice = "; take it back with `penstock rollback`" if known.standing is Standing.ACTIVE else f" ({known.why})"
        what = f"release {known.release.id} is not pending and not on trial"
        raise ControlError(f"{what}, it is {known.standing}{advice}", code="not-pending")

    def _paused(self, trial: Release) -> str:
        """Returns who has paused the trial of a release, and why; "" while it is not paused."""
        return self.log.releases[trial.id].why if self.log.paused and self.log.tries(trial.id) else ""

    def _forestalled(self, trial: Release, what: str) -> ControlError:
        known = self.log.releases[trial.id]
        now = f"it is {known.standing}" + (f", {known.why}" if known.why else "")
        return ControlError(f"release {trial.id} was not {what}, another message was first: {now}", code="lost")

    def _trial(self, id: str | None) -> Release:
        """Returns the release on trial. Raises ControlError without one, and when it is not the one that `id` begins."""
        trial = self.log.candidate
        if id is not None and (known := find(self.log, id)).release != trial:
            why = f" ({known.why})" if known.why else ""
            raise ControlError(f"release {known.release.id} is not on trial, it is {known.standing}{why}", code="no-trial")
        if trial is None:
            pending = ", ".join(one.id for one in self.log.pending)
            raise ControlError("no release is on trial" + (f"; pending: {pending}" if pending else ""), code="no-trial")
        return trial

    def _check_no_trial(self) -> None:
        """Raises ControlError while a release is on trial: no reader would accept another one."""
        if trial := self.log.candidate:
            name = self.topology.name
            raise ControlError(
                f"release {trial.id} by {trial.author} is on trial, and nothing else can be released before that has ended: make it live "
                f"with `penstock promote {name} --full`, or end it with `penstock abort {name}`",
                code="on-trial",
            )

    def _by_the_unit(self, strategy: Strategy) -> Strategy:
        """Returns the strategy with the unit of the topology. Raises ConfigError for one that names another."""
        unit = self.topology.releases.unit
        if not isinstance(strategy, Strategy):
            raise TypeError(f"strategy is {strategy!r}: give one of penstock.control.strategy, such as Canary((0.05, 0.25)) or Split(0.5)")
        if isinstance(strategy, Single) or strategy.unit == unit:
            return strategy
        if strategy.unit:
            here = f"its file names {unit!r}" if unit else "its file names none, so it is the record's key"
            raise ConfigError(f"the unit of a trial is that of the topology: {here}, and the strategy says {strategy.unit!r}")
        return msgspec.structs.replace(strategy, unit=unit)

    # --- the steps -----------------------------------------------------------------------------------------------------

    def _check_readers(self) -> None:
        """Raises ControlError when a live worker cannot read new messages: it would keep its models while others switch."""
        if old := outdated(self.fleet.workers()):
            listed = "".join(f"\n  {one.worker}: {one.detail}" for one in old)
            raise ControlError(
                f"{len(old)} of {len(self.fleet.live())} live workers run an older Penstock. Nothing was written; upgrade and restart "
                f"these workers first:{listed}",
                code="old-workers",
            )

    async def _await_workers(self, min_ready: int | None, timeout: float | None) -> None:
        """Without a live worker, waits for those that are starting, as long as the release itself may take."""
        clock, told = asyncio.get_running_loop().time, False
        deadline = clock() + self._limit(timeout)
        while min_ready != 0 and not self.fleet.live() and (starting := self.fleet.starting()) and clock() < deadline:
            if not told:
                logger.info("no live worker yet: waiting for %s, starting", ", ".join(starting))
                told = True
            await self._desk.look(LOOK_S)

    def _limit(self, timeout: float | None) -> float:
        return self.settings.prepare_timeout + self.fleet.silence if timeout is None else timeout

    def _check_workers(self, min_ready: int | None) -> None:
        self._check_readers()
        workers = self.fleet.workers()
        if blind := [one for one in workers if one.live and one.status.wanted > self.log.generation]:
            raise ControlError(
                f"worker {blind[0].name} follows generation {blind[0].status.wanted}, but with the keys trusted here the newest is "
                f"{self.log.generation}: check that {self.settings.trust} is the workers' trust file. {self._desk.refusals()}",
                code="other-trust",
            )
        if min_ready == 0:
            return
        if any(one.live for one in workers):
            if lacking := self.fleet.lacking():
                name = self.topology.name
                start = "; ".join(f"penstock run {name} --stage {one}" for one in lacking)
                raise ControlError(
                    f"no live worker runs the stage {' and '.join(lacking)} of {name}: start one ({start}), or deploy for later workers: "
                    "--min-ready 0",
                    code="no-workers",
                )
            return
        known = [one.name for one in workers if one.member]
        last = f"; the last reports of {', '.join(known)} are too old" if known else ""
        if strangers := [one.name for one in workers if not one.member]:
            last += f"; {', '.join(strangers)} is no member of the consumer group"
        raise ControlError(
            f"no live worker of {self.topology.name} to make it ready{last}; start one (`penstock run`), or deploy for later "
            "workers: --min-ready 0",
            code="no-workers",
        )

    async def _until_ready(self, release: Release, min_ready: int | None, timeout: float | None, on_progress: Watcher) -> None:
        """Returns when the release is active, by this or another operator. Raises ControlError when it has ended otherwise."""
        clock = asyncio.get_running_loop().time
        limit = self._limit(timeout)
        deadline = clock() + limit
        while self._standing(release) is Standing.PENDING:
            now = self._tell(on_progress, Phase.ANNOUNCED, release)
            live = [one for one in now if one.live]
            found = verdict(now, min_ready)
            if found is Verdict.ACTIVATE and min_ready is None and self.fleet.lacking():  # a stage has lost its last worker
                found = Verdict.WAIT
            if old := outdated(self.fleet.workers()):  # one that started after the check
                await self._give_up(
                    release, old, f"{len(old)} of {len(live)} live workers run an older Penstock: upgrade them", on_progress
                )
            elif found is Verdict.ACTIVATE:
                await self._desk.say(Activate(**self._desk.opening(release.id)))
            elif found is Verdict.GIVE_UP:
                failed = [one for one in live if one.failed]
                await self._give_up(release, failed, f"{len(failed)} of {len(live)} live workers cannot make it ready", on_progress)
            elif clock() >= deadline:
                behind = [one for one in live if not one.ready]
                what = f"{len(behind)} of {len(live)} live workers not ready within {limit:g} s"
                if lacking := self.fleet.lacking():
                    what += f", and no worker runs the stage {' and '.join(lacking)}"
                await self._give_up(release, behind, what, on_progress)
            else:
                await self._desk.look(min(LOOK_S, max(deadline - clock(), 0.01)))

    async def _until_switched(
        self, release: Release, on_progress: Watcher, phase: Phase = Phase.ACTIVATED, generation: Generation | None = None
    ) -> Deployed:
        """Follows the workers to this generation, by default the last one that a message about the release made."""
        generation = generation or next(one for one in reversed(self.log.generations) if one.release.id == release.id)
        role = _role(generation, release)
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.fleet.silence
        while True:
            now = self._tell(on_progress, phase, release)
            behind = {one.name for one in self.fleet.live() if one.generation < generation.number}
            late = tuple(one for one in now if one.worker in behind)
            hopeless = role != "aborted" and all(one.failed for one in late)  # without it, a worker where it failed may switch
            if not late or hopeless or clock() >= deadline:
                return Deployed(
                    release,
                    changes_of(self.log, release),
                    generation.number,
                    self._seconds(generation),
                    late,
                    role,
                    generation.share if role == "candidate" else None,
                )
            await self._desk.look(LOOK_S)

    def _seconds(self, generation: Generation) -> dict[str, float]:
        switched = [one for one in self.fleet.workers() if one.generation == generation.number and one.came_from is not None]
        return {one.name: max(one.since_ms - generation.at_ms, 0) / 1000 for one in switched}

    async def _give_up(self, release: Release, why: list[Stand], what: str, on_progress: Watcher) -> None:
        """Writes `abort` with each worker's reason, and raises ControlError with them, unless the release was activated first."""
        await self._take_back(release, ": ".join([what, "; ".join(map(str, why))]) if why else what, on_progress)
        if self.log.releases[release.id].standing is Standing.ABORTED:
            listed = "".join(f"\n  {one}" for one in why)
            raise ControlError(f"release {release.id} was aborted: {what}{listed}", code="not-ready")

    async def _take_back(self, release: Release, reason: str, on_progress: Watcher) -> None:
        """Writes `abort`. The topic decides the result: another operator may have activated the release before it."""
        try:
            async with asyncio.timeout(FAREWELL_S):
                await self._desk.say(Abort(**self._desk.opening(release.id, reason)))
        except TimeoutError as error:
            raise TransportUnavailable(f"release {release.id} may be pending: the brokers did not accept its abort") from error
        known = self.log.releases.get(release.id)
        if known is not None and known.standing in {Standing.ABORTED, Standing.CANDIDATE, Standing.ACTIVE}:
            self._tell(on_progress, Phase.ABORTED if known.standing is Standing.ABORTED else Phase.ACTIVATED, release)

    def _standing(self, release: Release) -> Standing:
        """Returns PENDING, CANDIDATE or ACTIVE. Raises ControlError with the result of the release otherwise."""
        known = self.log.releases[release.id]
        if known.standing in {*_OPEN, Standing.ACTIVE}:
            return known.standing
        code = {Standing.ABORTED: "aborted", Standing.SUPERSEDED: "superseded"}.get(known.standing, "lost")
        raise ControlError(f"release {release.id} was {known.standing}: {known.why}", code=code)

    def _tell(self, on_progress: Watcher, phase: Phase, release: Release) -> tuple[Stand, ...]:
        """Returns the state of the release on each worker, and passes it to `on_progress` when it has changed."""
        known = self.log.releases[release.id]
        announced = known.at_ms
        messages = {known.offset: announced} | {one.offset: one.at_ms for one in self.log.generations[-1:] if one.release.id == release.id}
        taking_part = [one for one in self.fleet.workers() if one.live or (one.member and one.said_ms >= announced)]
        generations = {one.name: one.generation for one in taking_part}
        old = {one.worker: one for one in outdated(taking_part)}
        found = tuple(old.get(one.worker, one) for one in stands(taking_part, release.id, messages))
        progress = Progress(phase, release, found, generations)
        if progress != self._told:
            self._told = progress
            on_progress(progress)
        return progress.stands


def _role(generation: Generation, release: Release) -> Literal["live", "candidate", "aborted"]:
    """Returns what a release is in a generation that a message about it made."""
    if generation.live.id == release.id:
        return "live"
    return "candidate" if generation.candidate is not None else "aborted"


def operate(settings: Settings, topology: Topology, act: Callable[[Operator], Awaitable[T]]) -> T:
    """Runs `act` with an open Operator, and waits for it: `operate(settings, topology, lambda it: it.deploy(...))`.

    Also where an event loop runs already, as in a notebook. An interrupt cancels `act`, which aborts its release.
    """
    cluster = introduced(settings, topology)  # outside the loop, where an interrupt need not wait for brokers that do not answer

    async def run() -> T:
        async with Operator(settings, topology, cluster) as operator:
            return await act(operator)

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run())
    return _in_another_thread(run)


def _in_another_thread(run: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs it in a thread with its own loop. An interrupt cancels it, and waits for its end."""
    begun: Future[Callable[[], object]] = Future()

    async def cancellable() -> T:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        begun.set_result(lambda: loop.call_soon_threadsafe(task.cancel))
        return await run()

    with ThreadPoolExecutor(1, "penstock-operate") as executor:
        running = executor.submit(lambda: asyncio.run(cancellable()))
        try:
            return running.result()
        except KeyboardInterrupt:
            begun.result()()
            raise
