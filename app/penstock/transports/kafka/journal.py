"""A topic of one partition as a journal that every reader reads whole: without a group, from the beginning, then its tail.

For the control and the status topic. Reading is a coroutine in the caller's event loop. Nothing is committed, and nothing is
skipped: a journal that has lost its beginning, or was created again, raises an error and is not read as a new one. What cannot be read
is an entry too, with its bytes as the value: its reader refuses it like any other that is malformed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from penstock.errors import TransportError, TransportUnavailable
from penstock.record import Header
from penstock.transports.kafka.fetch import RawFetcher
from penstock.transports.kafka.group import GroupView
from penstock.transports.kafka.metadata import Described, cluster_of, describe, steady
from penstock.transports.kafka.unavailable import unavailable
from penstock.transports.tracker import Partition

__all__ = ["FAREWELL", "Entry", "Reader", "Writer", "leave"]

logger = logging.getLogger(__name__)

SIGNATURE_HEADER = "penstock-signature"  # of a record whose value is signed, and stays as it is for readers that do not look
FAREWELL = 1.0  # seconds for leaving brokers that may be gone: a worker has several to leave, within its grace
AT_ONCE = 1 << 20  # bytes unpacked at once; a batch is never divided
SLICE = 256  # entries handed over together, so that a flood leaves the loop to others


class Entry(NamedTuple):
    """One record. `timestamp` is in ms; `stamped` is true when the broker set it (LogAppendTime), not the writer."""

    offset: int
    timestamp: int
    stamped: bool
    key: bytes | None
    value: bytes | None
    signature: bytes = b""  # the header of that name


class Reader:
    """Partition 0 of `topic`. Use as an async context manager; `connection` are aiokafka's arguments.

    `wait_ms` is how long the broker holds a fetch open; what arrives is delivered at once. Raises TransportUnavailable when
    the brokers do not answer within `patience` seconds, and TransportError for a journal that must be `whole` and has lost
    its beginning.
    """

    def __init__(self, connection: Mapping[str, Any], topic: str, *, patience: float, wait_ms: int = 500, whole: bool = False) -> None:
        self.topic = topic
        self._whole = whole
        self._wait_ms = wait_ms
        self.position = 0
        self._next = 0  # of the records that were fetched: those before it and from `position` on are waiting
        self._waiting: list[Entry] = []
        self._partition = TopicPartition(topic, 0)
        self._patience = patience
        self._connection = connection

    async def __aenter__(self) -> Self:
        self._client = steady(
            AIOKafkaConsumer(
                **self._connection,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="none",
                fetch_max_wait_ms=self._wait_ms,
            )
        )
        async with _begun(self._client, self._patience, f"{self.topic} cannot be read"):
            self._raw = RawFetcher(self._client, most=AT_ONCE, by_batch=True)
            self._client.assign([self._partition])
            await self._to_the_beginning()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await leave(self._client)

    def group(self, name: str) -> GroupView:
        """Returns a view of a consumer group, by this reader's connections."""
        return GroupView(self._client._client, name)

    async def describe(self, topics: Collection[str]) -> Mapping[str, Described]:
        """Returns those of the topics that the brokers know now, by this reader's connections. Raises TransportUnavailable."""
        with unavailable("the topics cannot be described"):
            async with asyncio.timeout(self._patience):
                found = await describe(self._client._client, topics)
        if found is None:
            raise TransportUnavailable("no broker answers")
        return found

    async def cluster(self) -> str:
        """Returns the id of the cluster. Raises TransportUnavailable."""
        with unavailable("the id of the cluster is not known"):
            async with asyncio.timeout(self._patience):
                found = await cluster_of(self._client._client)
        if found is None:
            raise TransportUnavailable("no broker answers")
        return found

    async def end(self) -> int:
        """Returns the offset after the last record, as the brokers have it now."""
        with unavailable(f"the end of {self.topic} is not known"):
            async with asyncio.timeout(self._patience):
                offsets: Mapping[TopicPartition, int] = await self._client.end_offsets([self._partition])
        return offsets[self._partition]

    async def rewind(self) -> None:
        """Reads from the beginning again."""
        with unavailable(f"the beginning of {self.topic} is not known"):
            async with asyncio.timeout(self._patience):
                await self._to_the_beginning()

    async def _to_the_beginning(self) -> None:
        beginning = (await self._client.beginning_offsets([self._partition]))[self._partition]
        if self._whole and beginning:
            raise TransportError(
                f"{self.topic} has lost its first {beginning} records, and the active release cannot be found without them: it must be "
                "kept without a time limit. Give it another name in the topology file (releases), create that topic "
                "(`penstock topics create`), and deploy there"
            )
        self.position = self._next = beginning
        self._waiting.clear()
        self._client.seek(self._partition, beginning)

    async def take(self, wait: float = 0.5) -> list[Entry]:
        """Returns what has arrived, in order, or nothing after `wait` seconds.

        Raises TransportError when the journal was replaced or has lost records, and TransportUnavailable for an error that may pass.
        Waits for brokers that are away: aiokafka connects again by itself.
        """
        if not self._waiting:
            try:
                self._raw.check()
                await self._raw.wait(wait)
                for one in self._raw.take(lambda _: self._next, self._seek):
                    self._next = one.end
                    self._waiting += [
                        Entry(at.offset, at.timestamp, bool(one.stamped), at.key, at.value, _signature(at.headers)) for at in one.records
                    ]
            except KafkaError as error:
                raise TransportUnavailable(f"{self.topic} cannot be read: {error!r}") from error
        entries, self._waiting = self._waiting[:SLICE], self._waiting[SLICE:]
        # An offset without a record (compacted, the end of a transaction) is skipped.
        self.position = entries[-1].offset + 1 if self._waiting else self._next
        return entries

    def _seek(self, partition: Partition, expected: int, found: int | None) -> None:
        if found is None:
            raise TransportError(
                f"{self.topic} no longer holds offset {expected}: it was created again, or has lost records; "
                "it must be kept without a time limit (`penstock topics create` sets this)"
            )
        self._client.seek(self._partition, expected)

    async def until(self, offset: int) -> AsyncIterator[list[Entry]]:
        """Yields everything from the current position up to `offset`, in slices. An offset that holds no record (compacted) counts as read.

        Raises as `take`, and TransportUnavailable when nothing comes for `patience` seconds.
        """
        heard = time.monotonic()
        while (before := self.position) < offset:
            entries = await self.take()
            if self.position > before:
                heard = time.monotonic()
            elif time.monotonic() - heard > self._patience:
                raise TransportUnavailable(f"{self.topic}: offset {before} did not come within {self._patience:g} s")
            yield entries


def _signature(headers: Sequence[Header]) -> bytes:
    return next((value for name, value in headers if name == SIGNATURE_HEADER and value), b"")


class Writer:
    """Writes to partition 0 of journals. Use as an async context manager.

    Each write is acknowledged by all replicas in sync. A retry may write it twice, which changes nothing for a reader that reads a journal
    by its keys. In return a write ends when brokers are gone: an idempotent producer would retry without end, and could not be stopped.
    """

    def __init__(self, connection: Mapping[str, Any], *, patience: float) -> None:
        self._connection = connection
        self._patience = patience

    async def __aenter__(self) -> Self:
        self._client = steady(
            AIOKafkaProducer(
                **self._connection, acks="all", enable_idempotence=False, linger_ms=0, request_timeout_ms=int(self._patience * 1000)
            )
        )
        async with _begun(self._client, self._patience, "the brokers cannot be written to"):
            return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await leave(self._client)

    async def write(self, topic: str, key: bytes, value: bytes | None, signature: bytes = b"") -> int:
        """Appends a record (None: a tombstone) and returns its offset. Raises TransportError when it was not acknowledged."""
        headers = [(SIGNATURE_HEADER, signature)] if signature else []
        try:
            async with asyncio.timeout(self._patience):
                written = await self._client.send_and_wait(topic, value, key=key, partition=0, headers=headers)
        except TimeoutError as error:
            raise TransportUnavailable(f"{topic}: not acknowledged within {self._patience:g} s") from error
        except (KafkaError, OSError) as error:
            raise TransportError(f"{topic}: not written: {error!r}") from error
        return int(written.offset)


@asynccontextmanager
async def _begun(client: Any, patience: float, trouble: str) -> AsyncIterator[None]:
    """Starts a client, and stops it when a later step fails. All of it within `patience` seconds."""
    with unavailable(trouble):
        try:
            async with asyncio.timeout(patience):
                await client.start()
                yield
        except BaseException:
            await leave(client)
            raise


async def leave(client: Any) -> None:
    """Stops a client in bounded time and raises nothing, also when the brokers have gone permanently.

    The writer has awaited what had to be written. aiokafka flushes first, and a task that it cancels may raise from its
    `stop` as if we had been cancelled.
    """
    stopping = asyncio.ensure_future(client.stop())
    await asyncio.wait({stopping}, timeout=FAREWELL)  # not `wait_for`, which goes on waiting when the task ignores the cancellation
    if not stopping.done():
        stopping.cancel()
    elif not stopping.cancelled() and (error := stopping.exception()) is not None:
        logger.debug("a client was not stopped in order: %r", error)
