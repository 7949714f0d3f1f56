"""The service runner: loads the models, opens the doors, and closes them without losing a request.

1. The doors open first: while models are being made ready, health says so, and requests are answered with "not ready".
2. After SIGTERM or Ctrl-C it is no longer ready, accepts no new connections, answers what it has, and ends.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from penstock import runtime
from penstock.host import on_signals
from penstock.pipeline import Fixed
from penstock.runners.collector import collecting
from penstock.runners.health import Phase
from penstock.runtime import Loaded
from penstock.settings import Settings
from penstock.telemetry import Metrics
from penstock.telemetry.health import Condition, Health, Pages, Verdict

__all__ = ["ServiceRunner"]

logger = logging.getLogger(__name__)

GRACE = 5.0  # seconds that a stop may exceed its bound, before the process exits without cleanup

Doors = Callable[[Pages], AbstractAsyncContextManager[None]]


class ServiceRunner:
    """Serves a topology until it is stopped. One per process; `run` blocks. `served` is the active program, None before there is one.

    Implements `telemetry.health.Pages`.
    """

    def __init__(self, loaded: Loaded, settings: Settings) -> None:
        self.loaded, self.settings = loaded, settings
        self.metrics_of = Metrics()
        self.served: Fixed | None = None
        self.phase = Phase.STARTING
        self._page: object = None
        self.metrics_of.ready.set_function(lambda: {(one.name,): float(one.holds) for one in self.health().conditions})

    def run(self, doors: Doors) -> None:
        """Returns after a clean stop. `doors` serves while its block runs.

        Raises ModelError when a model cannot serve, TopologyError for models and providers that are absent.
        """
        with asyncio.Runner(loop_factory=_loop()) as runner:
            runner.run(self._main(doors))
        faulthandler.cancel_dump_traceback_later()

    async def _main(self, doors: Doors) -> None:
        over = asyncio.Event()
        with on_signals(over.set):
            async with doors(self):
                up, end = asyncio.create_task(asyncio.to_thread(runtime.prepare, self.loaded, self.settings)), asyncio.create_task(over.wait())
                await asyncio.wait({up, end}, return_when=asyncio.FIRST_COMPLETED)
                if up.done():
                    self.served = Fixed(up.result())
                    self.metrics_of.generation.set(self.served.generation)
                    self.phase = Phase.RUNNING
                    logger.info("ready: %s, generation %d", self.loaded.topology.name, self.served.generation)
                    async with collecting():
                        await end
                self.phase = Phase.STOPPING
                logger.info("stopping: answering what is under way")
                faulthandler.dump_traceback_later(self.settings.drain_timeout + 2 * GRACE, exit=True, file=2)
        logger.info("stopped")

    # -- the pages -------------------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """Returns whether the service is alive and ready, with reasons."""
        models = self.served is not None
        return Health(
            (),
            (
                Condition("running", self.phase is Phase.RUNNING, self.phase.value),
                Condition("models", models, "warm" if models else "being made ready"),
            ),
        )

    async def alive(self) -> Verdict:
        return self.health().liveness()

    async def ready(self) -> Verdict:
        return self.health().readiness()

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        from penstock.telemetry import export  # only a service that shows its metrics loads prometheus-client

        if self._page is None:
            self._page = export.registry(self.metrics_of)
        return export.encode(self._page, accept)  # type: ignore[arg-type]  # as made above


def _loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Returns how the event loop is made: by uvloop where it is installed (the extra `serve`)."""
    try:
        import uvloop
    except ImportError:
        return None
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made
