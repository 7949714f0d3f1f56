"""The reports of a worker on the status topic: its state, every few seconds and when something changes, and where generations begin.

A failed write does not affect scoring: it is logged and repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from penstock.control import status
from penstock.control.messages import timestamp
from penstock.control.status import Boundary, Status, WorkerStatus
from penstock.control.trust.member import Identity
from penstock.errors import TransportError
from penstock.transports.kafka.journal import FAREWELL, Writer
from penstock.transports.tracker import Partition

__all__ = ["Problems", "Reporter"]

logger = logging.getLogger(__name__)

APART: Final = 0.02  # least seconds between two reports: a burst of changes makes one report


class Problems:
    """The problems that a person should look at, one text per subject. A new one is logged."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def say(self, about: str, what: str = "") -> None:
        """Sets the problem of this subject, and logs it when it is new. An empty text clears it."""
        if what and self._said.get(about) != what:
            logger.warning("%s", what)
            self._said[about] = what
        elif not what:
            self._said.pop(about, None)

    def about(self, subject: str) -> str:
        """Returns the problem of this subject; "" without one."""
        return self._said.get(subject, "")

    def all(self) -> list[str]:
        return list(self._said.values())


class Reporter:
    """Writes what `describe` returns, and boundaries. `run` is a task of the worker's loop."""

    def __init__(
        self, writer: Writer, topic: str, identity: Identity, describe: Callable[[], WorkerStatus], *, interval: float, stage: str = ""
    ) -> None:  # fmt: skip
        self._stage = stage
        self._writer, self._topic, self._identity, self._worker = writer, topic, identity, identity.worker
        self._number = 0
        self._describe = describe
        self._interval = interval
        self._changed = asyncio.Event()
        self._boundaries: list[Boundary] = []
        self._generations: dict[Partition, int] = {}  # the last one that scored each partition of this assignment

    def changed(self) -> None:
        """Requests a report at once, after a change."""
        self._changed.set()

    def assigned(self) -> None:
        """Starts a new assignment: the next record of each partition is where this worker begins."""
        self._generations.clear()
        self._changed.set()

    def scores(self, partition: Partition, offset: int, generation: int) -> None:
        """Notes that the worker scores `partition` from `offset` on. Called per batch; a change of generation makes a boundary."""
        if self._generations.get(partition) != generation:
            self._generations[partition] = generation
            self._boundaries.append(
                Boundary(
                    topic=partition[0],
                    partition=partition[1],
                    offset=offset,
                    generation=generation,
                    worker=self._worker,
                    time=timestamp(),
                    stage=self._stage,
                )
            )
            self._changed.set()

    async def run(self) -> None:
        while True:
            self._changed.clear()
            await self._tell()
            await asyncio.sleep(APART)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):  # `wait_for` of Python 3.11 loses a cancellation that meets a change
                    await self._changed.wait()

    async def close(self) -> None:
        """Writes the remaining reports, then deletes the worker's record: the worker has stopped, and is not lost."""
        try:
            async with asyncio.timeout(2 * FAREWELL):
                await self._tell()
                await self._write(status.key_of(self._describe()), None)
        except TimeoutError:
            logger.warning("could not report on the status topic that this worker stops")

    async def _tell(self) -> None:
        """Keeps boundaries until they are acknowledged: if the task is cancelled before, `close` writes them again."""
        self._number += 1
        said: list[Status] = [*self._boundaries, msgspec.structs.replace(self._describe(), number=self._number)]
        written = await asyncio.gather(*(self._write(status.key_of(one), status.encode(one)) for one in said))
        acknowledged = {one for one, good in zip(said, written, strict=True) if good and isinstance(one, Boundary)}
        self._boundaries = [one for one in self._boundaries if one not in acknowledged]

    async def _write(self, key: bytes, value: bytes | None) -> bool:
        try:
            await self._writer.write(self._topic, key, value, self._identity.sign(value) if value else b"")
        except TransportError as error:
            logger.warning("the status was not written: %s", error)
            return False
        return True
