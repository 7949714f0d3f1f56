"""What nodes remember, on its way to the changelogs: behind the outputs of a group, and before its spans are finished.

1. What a group has changed in the states of its nodes is packed when it was scored: `changes`.
2. It is sent when the group's outputs are acknowledged, and what earlier groups have changed was sent. Until then, a restart finds the
   state before the group, and the same features for its rows. Afterwards it finds outputs of all of them: what it answers again is
   counted once.
3. When a group fails, or its changes are not taken, no later one of its assignment is written: what that one has counted includes the
   rows of this. One that is under way by then is refused by the broker, as it lacks the records before it (the idempotent producer).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from penstock.errors import DeliveryFailed
from penstock.parcel import Parcel
from penstock.record import Record
from penstock.state import Checkpoint, States
from penstock.transports.base import Lapsed, Sent, Sink
from penstock.transports.tracker import Span

__all__ = ["Remember"]


class Remember:
    """Writes to `changelogs`, topics by node. What a node without one has changed is remembered in memory only."""

    def __init__(self, sink: Sink, changelogs: Mapping[str, str]) -> None:
        self._sink, self._topics = sink, changelogs
        self._nodes = {topic: node for node, topic in changelogs.items()}
        self._under_way: set[asyncio.Future[None]] = set()

    def changes(self, states: States, nodes: Collection[str], now_ms: int) -> list[Parcel]:
        """Returns what rows have changed in the states of these nodes, as records of their changelogs."""
        made = []
        for checkpoint in states.checkpoint(nodes) if nodes else ():
            if checkpoint.node in self._topics:
                made.append(self._parcel(checkpoint, now_ms))
            else:
                states.written(checkpoint.node, checkpoint.partition)
        return made

    def send(self, states: States, changes: Sequence[Parcel], under: Span, taken: Sent) -> Sent:
        """Sends changes when `taken`, the outputs of their group, is settled. Returns what is settled when they are acknowledged."""
        done, before = Sent(1), states.sending
        queued = states.sending = asyncio.get_running_loop().create_future()

        def failed(ended: Sent) -> None:
            """At once: the next group may be about to be sent."""
            states.failed = states.failed or ended.exception() is not None or bool(ended.refused)

        taken.add_done_callback(failed)

        async def remember() -> None:
            try:
                await taken.settled()
                if before is not None:
                    await before
                if states.failed:
                    raise Lapsed  # the error of the group before ends the loop
                sent = await self._queued(changes, under)
                sent.add_done_callback(failed)
                queued.set_result(None)
                await self._acknowledged(sent)
                for one in changes:
                    states.written(self._nodes[one.topic], one.partition)
                done.settle()
            except BaseException as error:  # noqa: BLE001  the waiting spans have to know
                states.failed = True
                if not queued.done():
                    queued.set_result(None)
                done.settle(error)

        task = asyncio.ensure_future(remember())
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return done

    async def write(self, checkpoint: Checkpoint, now_ms: int) -> None:
        """Writes what has changed in a state, before its partition is read. Raises DeliveryFailed when its topic does not take it."""
        await self._acknowledged(await self._queued([self._parcel(checkpoint, now_ms)], None))

    async def _queued(self, changes: Sequence[Parcel], under: Span | None) -> Sent:
        for one in changes:
            for at, value in enumerate(one.values):  # most are far smaller than they may be
                if len(value or b"") > self._sink.limit(one.topic) // 2 and not self._sink.fits(one.part(at, at + 1)):
                    raise self._refused(one.part(at, at + 1), "it is larger than a record may be")
        return await self._sink.send(changes, under)

    async def _acknowledged(self, sent: Sent) -> None:
        await sent.settled()
        if sent.refused:
            raise self._refused(*sent.refused[0])

    def _parcel(self, checkpoint: Checkpoint, now_ms: int) -> Parcel:
        """Returns records with this timestamp: those of the events may be none that the changelog takes."""
        topic = self._topics[checkpoint.node]
        keys, values = zip(*checkpoint.entries, strict=True)
        return Parcel(topic, checkpoint.partition, [Record(topic, b"", timestamp=now_ms)] * len(keys), values, keys)

    def _refused(self, parcel: Parcel, reason: str) -> DeliveryFailed:
        key, size = (parcel.keys or [b""])[0][1:], len(parcel.values[0] or b"")
        return DeliveryFailed(
            f"nodes.{self._nodes[parcel.topic]}: {parcel.topic} does not take what is remembered of the key {key!r}, {size:,} bytes: "
            f"{reason}. Raise its max.message.bytes; a window with exact: true keeps every event of a key"
        )
