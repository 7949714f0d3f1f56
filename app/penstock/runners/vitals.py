"""A worker's vital signs: read from its parts on request, and checked by a timer.

The computed metrics, the pages `/healthz`, `/readyz` and `/metrics`, the status topic's `ready`, and the watchdog all use the same
picture of the worker, so they cannot contradict each other.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from penstock.errors import Stalled
from penstock.model.session import Session
from penstock.runners.health import Phase, Picture, Watchdog, explain, health
from penstock.settings import Settings
from penstock.telemetry import Metrics
from penstock.telemetry.families import Labels
from penstock.telemetry.health import Health, Verdict
from penstock.transports.kafka.state import PartitionState, SourceState

if TYPE_CHECKING:
    from penstock.telemetry.export import Registry

__all__ = ["Vitals"]

LOOKS: Final = 12  # checks of the watchdog within its bound
FRESH: Final = 0.25  # seconds for which a metrics page is reused: frequent scrapes must not slow the stream


class Vitals:
    """The vital signs of one worker. The runner sets `phase`; the rest is read by functions.

    `consumer` returns its state, None before it exists; `sessions` the loaded models; `control` and `models` the reason why the control log
    is not folded or the models are not warm ("" when they are); `schemas`, by topic, what events wait for; `state` how far what nodes
    remember is restored. Implements
    `telemetry.health.Pages`.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        sources: Mapping[str, str],
        *,
        consumer: Callable[[], SourceState | None],
        sessions: Callable[[], Iterable[Session]],
        control: Callable[[], str],
        models: Callable[[], str],
        schemas: Callable[[], Mapping[str, str]] = dict,
        state: Callable[[], str] = str,
    ) -> None:
        self.phase = Phase.STARTING
        self._metrics, self._sources = metrics, sources
        self._consumer, self._sessions, self._control, self._models = consumer, sessions, control, models
        self._schemas, self._state = schemas, state
        # A fetch without records is answered after `fetch_wait_ms`, so a shorter bound would end a worker with an idle topic.
        bound = max(settings.stall_timeout, settings.fetch_wait_ms / 1000 * 3) if settings.stall_timeout else math.inf
        flight = bound + settings.broker_timeout
        self._watchdog = Watchdog(bound, flight, flight + max(settings.drain_timeout * 2, settings.session_timeout))
        self._page: tuple[str, float, tuple[bytes, str]] = ("", -math.inf, (b"", ""))  # the last page: its format, its time, its content
        self._collector: Registry | None = None
        metrics.next_offset.set_function(lambda: self._by_partition(lambda one: one.position))
        metrics.backlog_records.set_function(lambda: self._by_partition(lambda one: one.backlog))
        metrics.seconds_behind.set_function(lambda: self._by_partition(lambda one: one.seconds_behind(time.time())))
        metrics.ready.set_function(lambda: {(one.name,): float(one.holds) for one in self.health().conditions})

    def _by_partition(self, value: Callable[[PartitionState], float | None]) -> dict[Labels, float]:
        state = self._consumer()
        found = {one.partition: value(one) for one in state.partitions} if state is not None else {}
        return {(topic, str(partition)): number for (topic, partition), number in found.items() if number is not None}

    def picture(self) -> Picture:
        """Returns the worker's state now."""
        metrics, now = self._metrics, time.monotonic()
        return Picture(
            phase=self.phase,
            sources=self._sources,
            consumer=self._consumer(),
            progress=(metrics.batches.value, metrics.decode_seconds.value, metrics.records_out.value, metrics.dead_letters.value),
            busy=any(session.within_deadline(now) for session in self._sessions()),
            control=self._control(),
            models=self._models(),
            schemas=dict(self._schemas()),
            state=self._state(),
        )

    def health(self) -> Health:
        """Returns whether the worker is alive and ready, with reasons."""
        return health(self.picture(), self._watchdog)

    # -- the pages -------------------------------------------------------------------------------------------------

    async def alive(self) -> Verdict:
        return self.health().liveness()

    async def ready(self) -> Verdict:
        return self.health().readiness()

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        asked, made, page = self._page
        now = time.monotonic()
        if asked != accept or now - made > FRESH:
            from penstock.telemetry import export  # only a worker that shows its metrics loads prometheus-client

            if self._collector is None:
                self._collector = export.registry(self._metrics)
            page = export.encode(self._collector, accept)
            self._page = (accept, now, page)
        return page

    # -- the watchdog ------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Never returns. Raises Stalled when something made no progress for its bound without a reason."""
        pause = min(self._watchdog.bound / LOOKS, 5.0)
        while True:
            await asyncio.sleep(pause)
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Runs one check of the watchdog. Raises Stalled."""
        picture = self.picture()
        self._watchdog.look(now, picture)
        self._metrics.watchdog_looks.inc()
        if stalled := self._watchdog.stalled():
            found = "; ".join(explain(what, seconds, picture) for what, seconds in stalled.items())
            raise Stalled(f"{found}. The worker exits so that it can be restarted (setting stall_timeout)")
