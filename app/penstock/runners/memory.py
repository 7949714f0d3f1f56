"""A program between topics in memory: what the test driver and a program of its user run instead of a worker, in the same loop."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from penstock.engine.observe import Observers
from penstock.pipeline import Pace, Program
from penstock.runners import bounded
from penstock.state import States
from penstock.transports.memory import Memory, MemorySink, MemorySource

__all__ = ["InMemory"]


class InMemory:
    """The topics of a program, and its run. `stages` names the stage that reads each topic. Used by one thread at a time."""

    def __init__(
        self,
        program: Program,
        stages: Mapping[str, str],
        *,
        partitions: int = 1,
        pace: Pace | None = None,
        observers: Observers | None = None,
    ) -> None:
        self.program = program
        self.topics = Memory(partitions)
        self._stages = stages
        self._pace = pace
        self._observers = observers
        self.states = States()
        self._source = MemorySource(self.topics, list(stages))
        self._sink = MemorySink(self.topics)
        self._loop = asyncio.new_event_loop()
        self.close = weakref.finalize(self, self._loop.close)

    def run(self) -> None:
        """Runs every record of the topics that has not been run, to its end; also when an event loop is running, as in a notebook."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._loop.run_until_complete(self._deliver())
        else:
            with ThreadPoolExecutor(1) as beside:
                beside.submit(self._loop.run_until_complete, self._deliver()).result()

    async def _deliver(self) -> None:
        self._source.assign()
        await bounded.run(
            self.program,
            self._source,
            self._sink,
            stages=self._stages,
            pace=self._pace,
            observers=self._observers,
            states=self.states,
        )
