"""The control log as far as this worker has folded it, and the keys used: folded anew, from its beginning, when the trusted keys change.

During a new fold the active generation is not known yet, so nothing may be decided from the log: it is not `whole`. A log that was
recreated, or has lost its beginning, is `lost`: its later entries are ignored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from penstock.control.log import Kind, Log, Outcome
from penstock.control.rights import Admitted
from penstock.control.trust import Trust
from penstock.errors import TransportError, TransportUnavailable
from penstock.transports.kafka.journal import Entry, Reader

__all__ = ["Folding", "Judges"]

Judges = Callable[[Entry], Admitted]

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 32  # entries between two turns of the event loop: checking a signature takes some 0.1 ms


class Folding:
    """`judge` makes the judge for the keys of a trust file. Assign `trust` to fold with other keys from the next `advance` on.

    Without a `reader`, the log is what `apply` was given, until `connect`.
    """

    def __init__(self, reader: Reader | None, judge: Callable[[Trust], Judges], trust: Trust) -> None:
        self._reader, self.trust = reader, trust
        self._judge = judge
        self._folded_by = trust
        self._anew_until = 0
        self.log = Log(judge(trust))
        self.position = 0  # the log is folded up to here
        self.lost = False

    @property
    def reader(self) -> Reader:
        assert self._reader is not None, "no brokers yet"
        return self._reader

    @property
    def connected(self) -> bool:
        """Whether the log is read from the brokers."""
        return self._reader is not None

    @property
    def whole(self) -> bool:
        return self.connected and self.position >= self._anew_until

    async def to_the_end(self) -> None:
        """Folds the log to its current end. Raises TransportError."""
        async for entries in self.reader.until(await self.reader.end()):
            for entry in entries:
                self.log.apply(entry)
        self.position = self.reader.position
        self._warn()

    def apply(self, entries: Iterable[Entry], position: int) -> None:
        """Folds entries that were kept, up to this position."""
        for entry in entries:
            self.log.apply(entry)
        self.position = position
        self._warn()

    async def connect(self, reader: Reader) -> None:
        """Goes on with the log that the reader reads: it is folded anew, from its beginning. Raises TransportUnavailable."""
        await self._begin_anew(reader, "the brokers answer")

    def _warn(self) -> None:
        if self.log.refused:
            counted = ", ".join(f"{count} {code}" for code, count in self.log.refused.items())
            logger.warning("entries of the control log are refused here: %s; the last: %s", counted, self.log.last_refused[-1].why)

    async def advance(self) -> bool:
        """Folds what has arrived; returns whether the position has advanced. Raises TransportUnavailable for a passing failure.

        Raises TransportError when the log is `lost`.
        """
        try:
            if self.trust != self._folded_by:
                await self._begin_anew(self.reader, "the trusted keys have changed")
            entries = await self.reader.take()
        except TransportUnavailable:
            raise
        except TransportError:
            self.lost = True
            raise
        for at in range(0, len(entries), _AT_ONCE):
            for entry in entries[at : at + _AT_ONCE]:
                self._heard(self.log.apply(entry), entry.offset)
            await asyncio.sleep(0)
        before, self.position = self.position, self.reader.position  # also past entries that are not records
        return self.position != before

    async def _begin_anew(self, reader: Reader, why: str) -> None:
        logger.info("%s: folding the control log anew", why)
        trust, end = self.trust, await reader.end()
        await reader.rewind()
        self._reader, self.position, self._anew_until = reader, reader.position, end
        self.log, self._folded_by = Log(self._judge(trust)), trust

    def _heard(self, outcome: Outcome, offset: int) -> None:
        # Entries without effect are logged at DEBUG: an attacker could send very many of them to fill a disk. The status counts them.
        level = logging.DEBUG if outcome.kind in (Kind.REFUSED, Kind.IGNORED) or offset < self._anew_until else logging.INFO
        logger.log(level, "control: %s %s", outcome.kind, outcome.id or "", extra={"offset": offset, "why": outcome.why})
