"""The service runner: loads the models, opens the doors, and closes them without losing a request.

1. The doors open first: while models are being made ready, the health pages report it, and requests are answered with "not ready".
2. With brokers, the models are those of the active generation, and releases are followed as a worker does. Without, they are those that
   the topology file names.
3. After SIGTERM or Ctrl-C it is no longer ready, accepts no new connections, answers what it has, and ends.
"""

from __future__ import annotations

import asyncio
import faulthandler
import importlib
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from penstock import runtime
from penstock.binding import Binding
from penstock.engine.observe import Observers
from penstock.host import on_signals
from penstock.pipeline import Fixed, Served
from penstock.runners.collector import collecting
from penstock.runners.health import Phase
from penstock.runtime import Loaded
from penstock.settings import Settings
from penstock.telemetry import Metrics
from penstock.telemetry.health import Condition, Health, Pages, Verdict
from penstock.transports.kafka.connection import Admin
from penstock.worker.member import Member

__all__ = ["ServiceRunner"]

logger = logging.getLogger(__name__)

GRACE = 5.0  # seconds that a stop may exceed its bound, before the process exits without cleanup

Doors = Callable[[Pages], AbstractAsyncContextManager[None]]


class ServiceRunner:
    """Serves a topology until it is stopped. One per process; `run` blocks. `numbers` are its metrics.

    Implements `telemetry.health.Pages`.
    """

    def __init__(self, loaded: Loaded, settings: Settings) -> None:
        self.loaded, self.settings = loaded, settings
        self.numbers = Metrics()
        self.observers: Observers | None = None  # of the executed chunks
        self.phase = Phase.STARTING
        self._fixed: Fixed | None = None
        self._bound: Mapping[str, Binding] | None = None  # of the file
        self._member: Member | None = None
        self._failure: BaseException | None = None
        self._over: asyncio.Event
        self._page: object = None
        self.numbers.ready.set_function(lambda: {(one.name,): float(one.holds) for one in self.health().conditions})

    @property
    def served(self) -> Served | None:
        """The active program; None before there is one."""
        if self._member is None:
            return self._fixed
        return self._member.deployment.primary if hasattr(self._member, "deployment") else None

    @property
    def bindings(self) -> Mapping[str, Binding] | None:
        """The models of the active program; None before there is one."""
        if self._member is None:
            self._bound = self._bound or (runtime.bindings(self.loaded) if self._fixed is not None else None)
            return self._bound
        return self._member.deployment.primary.bindings if hasattr(self._member, "deployment") else None

    def run(self, doors: Doors) -> None:
        """Returns after a clean stop. `doors` serves while its block runs.

        Raises ModelError or ControlError when the active generation cannot be served, TopologyError for models and providers that are
        absent, TransportError when the brokers cannot be reached at the start.
        """
        with asyncio.Runner(loop_factory=_loop()) as runner:
            runner.run(self._main(doors))
        faulthandler.cancel_dump_traceback_later()

    async def _main(self, doors: Doors) -> None:
        self._over = asyncio.Event()
        with on_signals(self._over.set):
            async with AsyncExitStack() as stack:
                # The doors close before the member leaves its group: what they answer until then is of a live generation.
                following = await stack.enter_async_context(AsyncExitStack())
                await stack.enter_async_context(doors(self))
                up, end = asyncio.create_task(self._bring_up(following)), asyncio.create_task(self._over.wait())
                await asyncio.wait({up, end}, return_when=asyncio.FIRST_COMPLETED)
                if up.done():
                    up.result()
                    self.phase = Phase.RUNNING
                    served = self.served
                    logger.info("ready: %s, generation %d", self.loaded.topology.name, 0 if served is None else served.generation)
                    async with collecting():
                        await end
                else:
                    up.cancel()
                    await asyncio.wait({up})
                self.phase = Phase.STOPPING
                logger.info("stopping: answering what is under way")
                faulthandler.dump_traceback_later(self.settings.drain_timeout + 2 * GRACE, exit=True, file=2)
        logger.info("stopped")
        if self._failure is not None:
            raise self._failure

    async def _bring_up(self, stack: AsyncExitStack) -> None:
        if not (self.settings.brokers and self.settings.releases):
            self._fixed = Fixed(await asyncio.to_thread(runtime.prepare, self.loaded, self.settings))
            return
        cluster = await asyncio.to_thread(Admin(self.settings).cluster_id)
        member = Member(self.loaded, self.settings, cluster, self.numbers)
        member.ready = lambda: self.health().ready
        self._member = member
        self.observers = Observers([member.recent], self.numbers)
        await stack.enter_async_context(member.following(self._fail))

    def _fail(self, error: BaseException) -> None:
        """Ends the run with an error of what follows the releases."""
        if self._failure is None:
            self._failure = error
        self._over.set()

    # -- the pages -------------------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """Returns whether the service is alive and ready, with reasons."""
        running = Condition("running", self.phase is Phase.RUNNING, self.phase.value)
        if self._member is not None:
            return Health((), (running, *(one for one in self._member.conditions() if one.name != "running")))
        warm = self._fixed is not None
        return Health((), (running, Condition("models", warm, "warm" if warm else "being made ready")))

    async def alive(self) -> Verdict:
        return self.health().liveness()

    async def ready(self) -> Verdict:
        return self.health().readiness()

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        from penstock.telemetry import export  # only a service that shows its metrics loads prometheus-client

        if self._page is None:
            self._page = export.registry(self.numbers)
        return export.encode(self._page, accept)  # type: ignore[arg-type]  # as made above


def _loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Returns how the event loop is made: by uvloop where it is installed (the extra `serve`)."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return None
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made
