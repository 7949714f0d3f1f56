"""Runs that messages of a topic ask for, each once per cause.

A message names its cause, `id`. What became of it is written to the topic `TOPIC.results`, whose newest record per cause is kept: a cause
that is done is never run again, and one that has failed is run again when a newer message names it. A process that was killed finds the
message without a result and asks for the same run, whose outputs know their cause: the run goes on where it was ended, and one that had
come to its end is not repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import msgspec

from penstock.errors import PenstockError, TransportUnavailable
from penstock.settings import Settings
from penstock.transports.kafka.connection import aiokafka_arguments
from penstock.transports.kafka.journal import Entry, Reader, Writer

__all__ = ["Asked", "Refusal", "Result", "answer", "results_of"]

_AGAIN: Final = 1.0  # seconds before the brokers are asked again
_LONGEST: Final = 200  # characters of a cause


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message: the cause, what to read and to write, by names below those that the command allows, and which part."""

    id: str
    input: str = msgspec.field(name="in", default="")
    output: str = msgspec.field(name="out", default="")
    start: int | str | None = msgspec.field(name="from", default=None)
    stop: int | str | None = msgspec.field(name="to", default=None)
    limit: int | None = None
    sample: float | None = None


class Result(msgspec.Struct):
    """What became of a message at `offset`. `out` is where its outputs are."""

    id: str
    offset: int
    state: Literal["done", "failed", "refused"]
    reason: str = ""
    out: str = ""
    read: int = 0
    written: int = 0
    dead_letters: int = 0


class Refusal(Exception):
    """A message asks for what cannot be run: it is answered, and the next one is read."""


def results_of(topic: str) -> str:
    """Returns the topic of the results."""
    return f"{topic}.results"


async def answer(
    settings: Settings,
    topic: str,
    run: Callable[[Asked, int], Awaitable[Result | None]],
    tell: Callable[[Result], None],
    stopped: asyncio.Event,
) -> None:
    """Runs what the messages of partition 0 of the topic ask for, one after the other, until `stopped` is set.

    `run` gets a message and its offset, and returns None when it was stopped; it raises Refusal or PenstockError. Raises TransportError
    when the topics cannot be read at the start; later the brokers may be away.
    """
    connection, patience = aiokafka_arguments(settings), settings.broker_timeout
    async with (
        Reader(connection, results_of(topic), patience=patience) as results,
        Reader(connection, topic, patience=patience) as messages,
        Writer(connection, patience=patience) as writer,
    ):
        known: dict[str, Result] = {}
        async for entries in results.until(await results.end()):
            known |= {found.id: found for entry in entries if (found := _result(entry)) is not None}
        while not stopped.is_set():
            for entry in await messages.take():
                asked = _asked(entry)
                before = known.get(asked.id)
                if before is not None and (before.state == "done" or before.offset >= entry.offset):
                    continue
                result = await _one(asked, entry.offset, run)
                if result is None or stopped.is_set():
                    return
                known[asked.id] = result
                await _write(writer, results_of(topic), result, stopped)
                tell(result)


async def _one(asked: Asked | Result, offset: int, run: Callable[[Asked, int], Awaitable[Result | None]]) -> Result | None:
    if isinstance(asked, Result):
        return asked
    try:
        return await run(asked, offset)
    except Refusal as refusal:
        return Result(asked.id, offset, "refused", str(refusal))
    except PenstockError as error:
        return Result(asked.id, offset, "failed", str(error))


def _asked(entry: Entry) -> Asked | Result:
    """Returns what a message asks for; the refusal of one that asks for nothing, under its offset."""
    try:
        asked = msgspec.json.decode(entry.value or b"", type=Asked)
        if 0 < len(asked.id) <= _LONGEST:
            return asked
        reason = f"the id has {len(asked.id)} characters; 1 to {_LONGEST} are allowed"
    except (msgspec.DecodeError, RecursionError) as error:
        reason = str(error)
    return Result(f"offset {entry.offset}", entry.offset, "refused", reason)


def _result(entry: Entry) -> Result | None:
    try:
        return msgspec.json.decode(entry.value or b"", type=Result)
    except (msgspec.DecodeError, RecursionError):
        return None  # of another writer: it is no result


async def _write(writer: Writer, topic: str, result: Result, stopped: asyncio.Event) -> None:
    """Writes the result, also when the brokers are away for a while: without it, the run would be asked for again."""
    while True:
        try:
            await writer.write(topic, result.id.encode(errors="replace"), msgspec.json.encode(result))
            return
        except TransportUnavailable:
            if stopped.is_set():
                raise
            await asyncio.sleep(_AGAIN)
