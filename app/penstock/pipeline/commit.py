"""What finishing means: when the spans of a delivery are finished, and what is stored of it.

`AtLeastOnce`: a span is finished when every output that it caused was acknowledged; the end of the contiguous run of finished
spans is stored from time to time. After a crash, what was finished and not stored is done again: with the same event ids.

A guarantee is a file here and a row in no table: the runner makes it, and refuses one whose `needs` its transport lacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from penstock.errors import DeliveryFailed
from penstock.transports.base import Abilities, Sent, Source
from penstock.transports.tracker import Span

__all__ = ["AtLeastOnce", "Commit"]


Then = Callable[[BaseException | None], None]


class Commit(Protocol):
    """The strategy of a loop. Everything is called in the loop's own thread."""

    @property
    def needs(self) -> Abilities: ...

    def done(self, spans: Sequence[Span], sent: Sent, then: Then) -> None:
        """The spans' outputs were handed over as `sent`; `then` is called once, when they are finished, or with what prevents it."""

    async def store(self) -> bool:
        """Stores what is finished. True when something was stored; what could not be stored is tried again by the next call."""


class AtLeastOnce:
    """Finishes a span when its outputs are acknowledged, and stores finished prefixes."""

    needs: Final = Abilities(replay=True)

    def __init__(self, source: Source) -> None:
        self._source = source
        self._storing = asyncio.Lock()

    def done(self, spans: Sequence[Span], sent: Sent, then: Then) -> None:
        """See `Commit.done`."""

        def settled(ended: Sent) -> None:
            error = ended.exception()
            if error is not None:
                refused = DeliveryFailed(f"the broker refused a batch of outputs: {error!r}")
                refused.__cause__ = error
                then(refused)
                return
            for span in spans:
                span.finish()
            then(None)

        sent.add_done_callback(settled)

    async def store(self) -> bool:
        """See `Commit.store`."""
        async with self._storing:
            positions = self._source.positions
            offsets, epoch = positions.committable(), positions.epoch
            if not offsets or not await self._source.store(offsets):
                return False
            positions.committed(offsets, epoch)
            return True
