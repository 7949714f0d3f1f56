"""When the spans of a delivery are finished, and which positions are stored.

`AtLeastOnce`: a span is finished when every output that it caused was acknowledged; the end of the contiguous run of finished
spans is stored from time to time. After a crash, spans that were finished and not stored are processed again, with the same event ids.

A guarantee is a file here and a row in no table: the runner makes it, and refuses one whose `needs` its transport lacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from penstock.errors import DeliveryFailed, TransportError
from penstock.transports.base import Abilities, Lapsed, Sent, Source
from penstock.transports.tracker import Span

__all__ = ["AtLeastOnce", "Commit", "as_refusal"]


def as_refusal(error: BaseException) -> BaseException:
    """Returns the error of outputs that were not acknowledged, as one of ours."""
    if isinstance(error, Lapsed | TransportError):
        return error
    refused = DeliveryFailed(f"the broker refused a batch of outputs: {error!r}")
    refused.__cause__ = error
    return refused


Then = Callable[[BaseException | None], None]


class Commit(Protocol):
    """The strategy of a loop. All methods are called in the loop's thread."""

    @property
    def needs(self) -> Abilities: ...

    def done(self, spans: Sequence[Span], sent: Sent, then: Then) -> None:
        """Finishes the spans when their outputs, `sent`, are acknowledged. Calls `then` once: when they are finished, or with the error."""

    async def store(self) -> bool:
        """Stores finished positions. Returns True when some were stored; the next call tries again those that could not be stored."""


class AtLeastOnce:
    """Finishes a span when its outputs are acknowledged, and stores finished prefixes."""

    needs: Final = Abilities(replay=True)

    def __init__(self, source: Source) -> None:
        self._source = source
        self._storing = asyncio.Lock()

    def done(self, spans: Sequence[Span], sent: Sent, then: Then) -> None:
        """See `Commit.done`."""

        def settled(ended: Sent) -> None:
            if (error := ended.exception()) is not None:
                then(as_refusal(error))
                return
            for span in spans:
                span.finish()
            then(None)

        sent.add_done_callback(settled)

    async def store(self) -> bool:
        """See `Commit.store`."""
        async with self._storing:
            positions = self._source.positions
            offsets, epoch, changes = positions.committable(), positions.epoch, positions.changes()
            if not offsets or not await self._source.store(offsets):
                return False
            positions.committed(offsets, epoch, changes)
            return True
