"""Releases that others ask a running process to make, as the callers of a service do: announced at once, carried out by a task.

The process signs with its own key, so what it may do is what that key may. The release names the caller (`requested_by`), as the process
knows them; that is no proof to readers of the control topic. All state is on the topics: any process can return the state of a release by
its id, and an operator may continue with one whose process has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from penstock.control.log import Standing
from penstock.control.messages import Release
from penstock.control.proposal import Change, find
from penstock.control.rollout import Stand, stands
from penstock.control.strategy import SINGLE, Strategy
from penstock.errors import ControlError, PenstockError, TransportError
from penstock.operate.operator import Deployed, Operator, Progress, Watcher
from penstock.operate.state import Past, history, past
from penstock.settings import Settings
from penstock.topology.spec import Topology

__all__ = ["Requested", "Requests"]

logger = logging.getLogger(__name__)

AGAIN: Final = 5.0  # seconds before a release is continued whose brokers did not answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """A release and its state on each worker and service.

    `past.standing` is `pending` while it is made ready; then `active`, and later `superseded`; or `candidate` while it is on trial; or
    `aborted` or `rejected`, and `past.why` has the reasons. `workers` are those that have reported something of it.
    """

    past: Past
    workers: tuple[Stand, ...]

    @property
    def release(self) -> Release:
        return self.past.release


class Requests:
    """Makes releases on behalf of callers. Use as an async context manager; its end aborts the releases that are not active yet.

    The settings name the key (`signing_key`), and `trust`, which has it. Every method raises TransportUnavailable for brokers that do not
    answer, TopicMissing where the topics of the releases do not exist, and ConfigError for a trust file that cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tasks: set[asyncio.Task[None]] = set()
        self._stack = AsyncExitStack()
        self._readers: dict[str, Operator] = {}  # open, by topology: callers ask often
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Requests:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._stack.aclose()

    async def deploy(
        self, topology: Topology, changes: Mapping[str, Change | str], *, requested_by: str, strategy: Strategy = SINGLE,
        reason: str = "", min_ready: int | None = None, timeout: float | None = None,
    ) -> Requested:  # fmt: skip
        """Announces a release with these changes (node -> NAME@VERSION, or Change), and returns; a task waits for it and activates it.

        With another `strategy` than `single` it is on trial then: see `promote`.

        Raises ControlError when it could not be announced: nothing changes, no live worker, the key lacks the right; ConfigError for
        unknown nodes and without a trusted key; ModelError and TopologyError for versions that are missing or do not fit.
        """
        options: dict[str, Any] = {"strategy": strategy, "reason": reason, "min_ready": min_ready, "timeout": timeout}
        return await self._begin(
            topology, requested_by, lambda operator, watch: operator.deploy(changes, **options, on_progress=watch), timeout
        )

    async def rollback(
        self, topology: Topology, to: int | str | None = None, *, requested_by: str, reason: str = "",
        min_ready: int | None = None, timeout: float | None = None,
    ) -> Requested:  # fmt: skip
        """Announces a release of what an earlier generation bound: the one before, or that of the number or release id. As `deploy`.

        While a release is on trial, its trial is ended instead, and that release is returned, aborted; with `to` that is refused.
        """
        return await self._begin(
            topology,
            requested_by,
            lambda operator, watch: operator.rollback(to, reason=reason, min_ready=min_ready, timeout=timeout, on_progress=watch),
            timeout,
        )

    async def promote(
        self, topology: Topology, id: str, *, requested_by: str, full: bool = False, resume: bool = False, reason: str = ""
    ) -> Requested:
        """Leads a release on trial to its next step, or makes it live after the last one and with `full`; waits for the switch.

        Raises ControlError when it is not on trial, is paused (without `resume`), or the key may not promote it.
        """
        async with Operator(self._settings, topology, requested_by=requested_by) as operator:
            promoted = await operator.promote(id, full=full, resume=resume, reason=reason)
        return await self.get(topology, promoted.release.id)

    async def pause(self, topology: Topology, id: str, *, requested_by: str, reason: str = "") -> Requested:
        """Keeps a release on trial at its step. Raises ControlError when it is not on trial or paused already, or the key may not."""
        async with Operator(self._settings, topology, requested_by=requested_by) as operator:
            release = await operator.pause(id, reason)
        return await self.get(topology, release.id)

    async def abort(self, topology: Topology, id: str, *, requested_by: str, reason: str = "") -> Requested:
        """Ends a pending release or the trial of one, also that of another author.

        Raises ControlError when it is neither pending nor on trial, or the key may not end it.
        """
        async with Operator(self._settings, topology, requested_by=requested_by) as operator:
            release = await operator.abort(id, reason)
        return await self.get(topology, release.id)

    async def get(self, topology: Topology, id: str) -> Requested:
        """Returns the state of a release, by its id or the beginning of it. Raises ControlError when there is no such release."""
        async with self._lock:
            operator = await self._reader(topology)
            known = find(operator.log, id)
            told = stands(operator.fleet.workers(), known.release.id, {known.offset: known.at_ms})
            return Requested(past=past(operator.log, known), workers=tuple(one for one in told if one.state))

    async def history(self, topology: Topology, *, limit: int = 20) -> tuple[Past, ...]:
        """Returns the last releases, the newest first, with their results."""
        async with self._lock:
            log = (await self._reader(topology)).log
            return tuple(past(log, one) for one in history(log, limit=limit, everything=True))

    async def _reader(self, topology: Topology) -> Operator:
        """Returns an operator that has read both topics to their ends."""
        operator = self._readers.get(topology.name)
        if operator is None:
            operator = self._readers[topology.name] = await self._stack.enter_async_context(Operator(self._settings, topology))
        else:
            await operator.refresh()
        return operator

    async def _begin(
        self, topology: Topology, requested_by: str, act: Callable[[Operator, Watcher], Awaitable[Deployed]], timeout: float | None
    ) -> Requested:
        announced: asyncio.Future[Release] = asyncio.get_running_loop().create_future()

        def watch(progress: Progress) -> None:
            if not announced.done():
                announced.set_result(progress.release)

        async def carry_out() -> None:
            try:
                async with Operator(self._settings, topology, requested_by=requested_by) as operator:
                    await act(operator, watch)
            except TransportError as error:
                if not announced.done():
                    raise
                await self._continue(topology, announced.result(), requested_by, timeout, error)

        task = asyncio.create_task(carry_out())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        try:
            either: list[asyncio.Future[Any]] = [task, announced]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if not announced.done():  # the caller has gone before anything was written
                task.cancel()
            raise
        if not announced.done():
            await task
        return await self.get(topology, announced.result().id)

    async def _continue(self, topology: Topology, release: Release, requested_by: str, timeout: float | None, error: PenstockError) -> None:
        """Continues with an announced release until the brokers answer: it would stay pending else."""
        while True:
            logger.warning("release %s is continued in %g s: %s", release.id, AGAIN, error)
            await asyncio.sleep(AGAIN)
            try:
                async with Operator(self._settings, topology, requested_by=requested_by) as operator:
                    await self._resume_or_abort(operator, release, timeout)
                return
            except TransportError as again:
                error = again

    async def _resume_or_abort(self, operator: Operator, release: Release, timeout: float | None) -> None:
        try:
            if operator.log.releases[release.id].standing is Standing.PENDING:
                await operator.resume(release.id, timeout=timeout)
        except ControlError as error:  # without a live worker, for example
            if operator.log.releases[release.id].standing is Standing.PENDING:
                await operator.abort(release.id, str(error))
            raise

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, PenstockError):  # the release has it as its reason, or the caller was given it
            logger.info("a requested release has ended: %s", error)
        else:
            logger.error("a requested release has failed", exc_info=error)
