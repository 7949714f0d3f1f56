"""Preparations beside the event loop: one thread, one release at a time, and a way to stop the one that is under way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from penstock.binding import Binding
from penstock.control.lifecycle import State
from penstock.control.messages import Release
from penstock.worker.preparation import Preparation, Prepared

__all__ = ["Beside"]


class Beside:
    """`told` hears, on the event loop, of each step of a preparation: the release's id, its state, and a detail."""

    def __init__(self, preparation: Preparation, told: Callable[[str, State, str], None]) -> None:
        self._preparation, self._told = preparation, told
        self._executor = ThreadPoolExecutor(1, "preparation")
        self._stop = threading.Event()

    async def prepare(self, release: Release) -> Prepared:
        """See `Preparation.prepare`, whose errors it raises."""
        loop = asyncio.get_running_loop()
        self._stop = stop = threading.Event()

        def tell(state: State, detail: str = "") -> None:
            loop.call_soon_threadsafe(self._told, release.id, state, detail)

        return await loop.run_in_executor(self._executor, self._preparation.prepare, release, tell, stop.is_set)

    async def prune(self, kept: Iterable[Binding]) -> None:
        """See `Preparation.prune`."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self._preparation.prune, kept)

    def stop(self) -> None:
        """Stops the preparation under way: it raises Stopped soon."""
        self._stop.set()

    def close(self) -> None:
        self.stop()
        self._executor.shutdown(wait=False, cancel_futures=True)
