"""Preparations beside the event loop: one thread, one release at a time, and a way to stop the running one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from penstock.binding import Binding
from penstock.control.lifecycle import State
from penstock.control.messages import Release
from penstock.worker.preparation import Preparation, Prepared, Prove, untried

__all__ = ["Beside"]


class Beside:
    """`on_step` is called on the event loop for each step of a preparation: the release's id, its state, and a detail."""

    def __init__(self, preparation: Preparation, on_step: Callable[[str, State, str], None]) -> None:
        self._preparation, self._on_step = preparation, on_step
        self._executor = ThreadPoolExecutor(1, "preparation")
        self._stop = threading.Event()

    async def prepare(self, release: Release, prove: Prove = untried) -> Prepared:
        """Runs `Preparation.prepare` in the thread; raises its errors."""
        loop = asyncio.get_running_loop()
        self._stop = stop = threading.Event()

        def tell(state: State, detail: str = "") -> None:
            loop.call_soon_threadsafe(self._on_step, release.id, state, detail)

        return await loop.run_in_executor(self._executor, self._preparation.prepare, release, tell, stop.is_set, prove)

    async def prune(self, kept: Iterable[Binding]) -> None:
        """Runs `Preparation.prune` in the thread."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self._preparation.prune, kept)

    async def store(self, bindings: Iterable[Binding]) -> None:
        """Runs `Preparation.store` in the thread; raises its errors."""
        self._stop = stop = threading.Event()
        await asyncio.get_running_loop().run_in_executor(self._executor, self._preparation.store, bindings, stop.is_set)

    def stop(self) -> None:
        """Stops the running preparation: it soon raises Stopped."""
        self._stop.set()

    def close(self) -> None:
        self.stop()
        self._executor.shutdown(wait=False, cancel_futures=True)
