"""Where each partition begins, and what a commit records beside the offset so that the next start knows it.

A commit has a mark: the id of the topic, and how many partitions it had when the group began to read it; where the topic is joined, also
which offsets beyond the position are free (docs/decisions/0043-joins-by-event-id.md).

Kafka names topics in its commits, so the offset of a topic that was deleted could be taken for one of a new topic of that name, and
records would be passed over. The id shows the difference. The number of partitions separates those that existed when the group
began, which `start_from` is for, from one that was added later and is read from its beginning, whichever worker finds it and whenever.

A commit of another program, such as kafka-consumer-groups, has no mark: its offset counts as it is.

Private parts of aiokafka 0.14.0 that are touched: `AIOKafkaConsumer._coordinator` and its `fetch_committed_offsets`.
"""

from __future__ import annotations

import base64
import logging
import re
import zlib
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple, Self

import numpy as np
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from penstock.batch import Array
from penstock.transports.kafka.lookout import Lookout

__all__ = ["Mark", "Places"]

logger = logging.getLogger(__name__)

_FORM: Final = re.compile(
    r"penstock topic=(?P<topic>[0-9a-f]*) partitions=(?P<partitions>\d{1,9})( free=(?P<free>[A-Za-z0-9+/=]{1,4000}))?"
)
MOST: Final = 3_500  # characters that say what is free: brokers take 4,096 in all (offset.metadata.max.bytes)
_LONGEST: Final = 1 << 20  # bytes of it, before compression


class Mark(NamedTuple):
    """`topic` is the topic's id, "" where brokers give none. `packed` are the offsets beyond the position that are free, see `free`."""

    topic: str
    partitions: int
    packed: str = ""

    def __str__(self) -> str:
        return f"penstock topic={self.topic} partitions={self.partitions}" + (f" free={self.packed}" if self.packed else "")

    def beside(self, position: int, free: Array, most: int = MOST) -> str:
        """Returns the text of a commit of this position, beyond which these offsets are free, int64, ascending: the first of them, as far
        as `most` characters have room.
        """
        if not len(free):
            return str(self)
        at = free - position
        bits = np.zeros(min(int(at[-1]) + 1, _LONGEST * 8), bool)
        bits[at[at < len(bits)]] = True
        while len(packed := base64.b64encode(zlib.compress(np.packbits(bits).tobytes(), 9)).decode()) > most and len(bits):
            bits = bits[: len(bits) // 2]
        return str(self._replace(packed=packed if len(bits) else ""))

    def free(self, position: int) -> Array:
        """Returns the offsets that a commit of this position names as free, int64, ascending. What cannot be read names none."""
        try:
            given = zlib.decompressobj().decompress(base64.b64decode(self.packed, validate=True), _LONGEST) if self.packed else b""
        except (ValueError, zlib.error):
            given = b""
        return np.flatnonzero(np.unpackbits(np.frombuffer(given, np.uint8))) + position

    @classmethod
    def read(cls, text: str | None) -> Self | None:
        """Returns the mark that a commit has; None without one."""
        found = _FORM.fullmatch(text or "")
        return None if found is None else cls(found["topic"], int(found["partitions"]), found["free"] or "")

    def of_another(self, topic: str) -> bool:
        """Returns whether it was made for another topic than the one with this id."""
        return bool(self.topic and topic and self.topic != topic)


class Begins(NamedTuple):
    """Where each assigned partition begins, which of these positions are not committed yet, and which are of a topic created again.

    `free` are the offsets beyond the positions that are free.
    """

    positions: dict[TopicPartition, int]
    fresh: dict[TopicPartition, int]
    renewed: list[TopicPartition]
    free: dict[TopicPartition, Array]


class Places:
    """Of the topics that a group reads. `written` are those that the same topology writes."""

    def __init__(self, client: AIOKafkaConsumer, lookout: Lookout, *, start_from: str, written: Collection[str]) -> None:
        self._client, self._lookout = client, lookout
        self._latest, self._written = start_from == "latest", written
        self._partitions: dict[str, int] = {}  # of each topic, when its group began to read it
        self._most = MOST

    def mark(self, topic: str) -> Mark:
        """Returns what a commit for the topic records."""
        return Mark(self._lookout.id_of(topic), self._partitions.get(topic, 0))

    def beside(self, topic: str, position: int, free: Array) -> str:
        """Returns what a commit of this position records: the mark, and which offsets beyond it are free."""
        return self.mark(topic).beside(position, free, self._most)

    def shorten(self) -> bool:
        """Lets commits record half as much of what is free: a broker has refused them as too long. Returns False where none is left."""
        self._most, before = self._most // 2, self._most
        return before > 0

    async def begin(self, assigned: Sequence[TopicPartition]) -> Begins:
        """Asks for what is committed.

        `start_from` is for topics that the group has not read. A partition that was added since starts at its beginning: its first
        events came before any worker could be assigned to it. So does a topic that another stage writes, because that stage may
        have begun on another worker already, and one that was created anew since the group has committed for it.
        """
        client, lookout = self._client, self._lookout
        topics = sorted({tp.topic for tp in assigned})
        places = [TopicPartition(topic, one) for topic in topics for one in client.partitions_for_topic(topic) or ()]
        found = await client._coordinator.fetch_committed_offsets(sorted({*places, *assigned}))
        marks = {tp: Mark.read(offset.metadata) for tp, offset in found.items()}
        old = {tp for tp, mark in marks.items() if mark is not None and mark.of_another(lookout.id_of(tp.topic))}
        committed = {tp: offset.offset for tp, offset in found.items() if tp not in old}
        for topic in topics:
            counts = [mark.partitions for tp in committed if tp.topic == topic and (mark := marks[tp])]
            known = any(tp.topic == topic for tp in found)  # without a mark of this topic, every partition that has no commit is a late one
            now = len(client.partitions_for_topic(topic) or ())
            self._partitions[topic] = min(counts) if counts else 0 if known else now
        new = {tp for tp in assigned if tp not in committed}
        if renewed := sorted(new & old):
            names = ", ".join(f"{tp.topic}/{tp.partition}" for tp in renewed)
            logger.warning("%s: the topic was created again since the group has committed for it, and is read from its beginning", names)
        late = {tp for tp in new if self._latest and tp.partition < self._partitions[tp.topic] and tp.topic not in self._written}
        fresh = {**(await client.beginning_offsets(new - late) if new - late else {}), **(await client.end_offsets(late) if late else {})}
        if deleted := sorted(tp for tp in new - late if tp.topic in self._written and fresh[tp]):
            names = ", ".join(f"{tp.topic}/{tp.partition} begins at {fresh[tp]}" for tp in deleted)
            logger.warning("records that this group has not read are deleted (retention): %s", names)
        free = {tp: mark.free(committed[tp]) for tp in assigned if tp in committed and (mark := marks[tp]) is not None}
        return Begins({tp: fresh[tp] if tp in new else committed[tp] for tp in assigned}, fresh, renewed, free)
