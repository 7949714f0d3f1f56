"""One record at its position, read without a group: nothing is committed, and no worker loses a partition."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from penstock.errors import RecordMissing
from penstock.record import Position, Record, RecordLike, Unreadable
from penstock.settings import Settings
from penstock.transports.kafka.connection import Admin, aiokafka_arguments, patience_of
from penstock.transports.kafka.fetch import RawFetcher
from penstock.transports.kafka.metadata import steady
from penstock.transports.kafka.unavailable import unavailable
from penstock.transports.tracker import Partition

__all__ = ["read_at"]


def read_at(settings: Settings, position: Position) -> Record:
    """Returns the record at this position. Blocks; not to be called on an event loop.

    Raises TopicMissing, RecordMissing that names the offsets there are, TransportUnavailable, AccessRefused.
    """
    partitions = Admin(settings).describe([position.topic])[position.topic].partitions
    if position.partition >= partitions:
        last = f", the last one is {partitions - 1}" if partitions > 1 else ", which is 0"
        raise RecordMissing(f"{position}: {position.topic} has {partitions} partition{'s' if partitions > 1 else ''}{last}")
    return asyncio.run(_read_at(settings, position))


async def _read_at(settings: Settings, position: Position) -> Record:
    client = steady(
        AIOKafkaConsumer(
            **aiokafka_arguments(settings),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
        )
    )
    with unavailable(f"{position} cannot be read"):
        try:
            async with asyncio.timeout(patience_of(settings)):
                await client.start()
                found = await _find(client, position)
        finally:
            await client.stop()
    return Record(position.topic, found.value, found.key, tuple(found.headers), found.timestamp, position.partition, position.offset)


async def _find(client: AIOKafkaConsumer, position: Position) -> RecordLike:
    raw = RawFetcher(client)
    place = TopicPartition(position.topic, position.partition)
    client.assign([place])
    begin, end = (await client.beginning_offsets([place]))[place], (await client.end_offsets([place]))[place]
    if not begin <= position.offset < end:
        raise RecordMissing(f"{position}: {_absence(position.offset, begin, end)}")
    client.seek(place, position.offset)

    def lost(_: Partition, expected: int, found: int | None) -> None:
        if found is None:
            raise RecordMissing(f"{position}: it was deleted while it was looked for")
        client.seek(place, expected)

    while True:
        raw.check()
        await raw.wait(0.2)
        for fetched in raw.take(lambda _: position.offset, lost):
            return _only(position, fetched.records[0] if fetched.records else None)


def _only(position: Position, found: RecordLike | None) -> RecordLike:
    if found is None:
        raise RecordMissing(f"{position}: there is no record at this offset; it was compacted away, or is a transaction marker")
    if isinstance(found, Unreadable):
        raise RecordMissing(f"{position}: {found.reason}")
    if found.offset != position.offset:
        raise RecordMissing(f"{position}: the record at this offset was removed; the next one is at offset {found.offset}")
    return found


def _absence(offset: int, begin: int, end: int) -> str:
    if begin == end:
        return "the partition is empty" + (f"; everything before offset {end} was deleted (retention)" if end else "")
    there = f"the partition holds offsets {begin} to {end - 1}"
    return f"{there}; what came before was deleted (retention)" if offset < begin else there
