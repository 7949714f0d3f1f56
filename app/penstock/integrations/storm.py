"""Storm: the process of a bolt that scores. A `ShellBolt` starts it, and both exchange Storm's multilang messages in JSON.

    python -m penstock.integrations.storm topologies/flights.yaml

1. Tuples are what Kafka's spout emits: `topic`, `partition`, `offset`, `key`, `value`. Keys and values are bytes, as text of ISO-8859-1,
   in which each byte is one character: the deserializers of the spout and the serializers of the Kafka bolts are set to it.
2. The process answers Storm's greeting when its models are loaded and warm: only then does Storm send.
3. The tuples that wait are one batch. Nothing is held back for more of them, so a tick has nothing to flush. A batch has one generation.
4. Outputs go to the stream `default`, dead letters to the stream `dead_letter`, as `topic`, `key`, `message`, anchored to their input. An
   input is acknowledged after what it caused was emitted: what a killed process has not acknowledged, the spout emits again.
5. With the setting `brokers`, releases are followed: a release answers from the next batch of each process on.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final, TextIO, cast

import msgspec

from penstock import runtime, settings, telemetry
from penstock.codecs.schema_registry import open_schema_registry
from penstock.errors import ConfigError, PenstockError, Problem, TransportError
from penstock.parcel import Parcel
from penstock.pipeline import Chunk, Fixed, Pipeline, Served
from penstock.pipeline.answers import begun
from penstock.pipeline.letters import fitting
from penstock.pipeline.score import LEAST_LETTER
from penstock.record import Position, Record
from penstock.topology.find import find
from penstock.transports.files import letters
from penstock.transports.memory import LIMIT, Memory, MemorySink
from penstock.worker.reading import Reading

__all__ = ["Bolt", "Messages", "main"]

logger = logging.getLogger(__name__)

Message = dict[str, Any]
Waiting = Mapping[Position, Sequence[str]]  # the tuples by their record: several, where the spout has emitted it again

STREAMS: Final = {name: ["topic", "key", "message"] for name in ("default", "dead_letter")}
MOST: Final = 1 << 20  # bytes that are read for one batch; a single message may be longer
TEXT: Final = "ISO-8859-1"
_END: Final = b"\nend\n"
_LIMITS: Final = MemorySink(Memory())  # of the size of an output


class Messages:
    """The messages of both directions: each is a line of JSON, then a line `end`. `reads` and `writes` are file descriptors."""

    def __init__(self, reads: int, writes: int) -> None:
        self._reads, self._writes = reads, writes
        self._arrived = bytearray()
        self._sending = threading.Lock()

    def waiting(self) -> list[Any]:
        """Returns the messages that have arrived, after waiting for the first one. Raises EOFError when there will be none."""
        end = -1
        while end < 0 or (len(self._arrived) < MOST and select.select([self._reads], [], [], 0)[0]):
            searched = max(0, len(self._arrived) - len(_END))
            if not (more := os.read(self._reads, MOST)):
                if end < 0:
                    raise EOFError
                break
            self._arrived += more
            end = max(end, self._arrived.rfind(_END, searched))
        whole = bytes(self._arrived[:end])
        del self._arrived[: end + len(_END)]
        return [msgspec.json.decode(one) for one in whole.split(_END)]

    def send(self, messages: Iterable[Message]) -> None:
        """Writes the messages. Threads may call it."""
        left = memoryview(b"".join(msgspec.json.encode(one) + _END for one in messages))
        with self._sending:
            while left:
                left = left[os.write(self._writes, left) :]

    def write(self, text: str) -> None:
        """Writes a text to the log of Storm's worker. It reads standard error seldom, and a full pipe there would stop both."""
        self.send([{"command": "log", "msg": text.rstrip(), "level": 2}])

    def flush(self) -> None:
        """Does nothing: what is sent is written."""


class Bolt:
    """The stages of the program that `serving` returns, each for the tuples of its topic; `fields` are theirs, by component and stream."""

    def __init__(self, serving: Callable[[], Served], fields: Mapping[str, Mapping[str, Sequence[str]]], *, chunk_rows: int = 256) -> None:
        self._serving, self._fields, self._chunk_rows = serving, fields, chunk_rows
        self._served: Served | None = None
        self._stages: dict[str, Pipeline] = {}

    def answer(self, messages: Iterable[Message]) -> Iterator[list[Message]]:
        """Yields what to send, batch by batch. Raises ConfigError for tuples that are not records of a topic that the topology reads."""
        waiting: dict[Position, list[str]] = {}
        records: dict[Position, Record] = {}
        for one in messages:
            if one["stream"] == "__heartbeat":
                yield [{"command": "sync"}]
            elif one["stream"] == "__tick":
                yield [{"command": "ack", "id": one["id"]}]
            else:
                record = self._record(one)
                records[record.position] = record
                waiting.setdefault(record.position, []).append(one["id"])
        stages = self._current() if records else {}
        for topic, places in groupby(sorted(records), lambda one: one.topic):
            if topic not in stages:
                raise ConfigError(f"the spout reads {topic}, and the topology reads {', '.join(stages)}")
            spans = [((topic, number), [records[one] for one in those]) for number, those in groupby(places, lambda one: one.partition)]
            for chunk in stages[topic].chunks(spans):
                yield _scored(stages[topic], chunk, waiting)

    def _current(self) -> Mapping[str, Pipeline]:
        if (served := self._serving()) is not self._served:
            self._served = served
            self._stages = {
                stage.wired.source.topic: Pipeline(
                    served.program, name, sink=_LIMITS, generation=served.generation, chunk_rows=self._chunk_rows
                )
                for name, stage in served.program.plan.stages.items()
            }
        return self._stages

    def _record(self, message: Message) -> Record:
        names = self._fields[message["comp"]][message["stream"]]
        given = dict(zip(names, message["tuple"], strict=True))
        try:
            value, key = _bytes(given["value"]), _bytes(given["key"])
            return Record(given["topic"], value, key, partition=given["partition"], offset=given["offset"])
        except (KeyError, AttributeError, UnicodeEncodeError) as error:
            found = f"{message['comp']} emits {', '.join(names)}, which is no record: {type(error).__name__} {error}"
            fix = f"use KafkaSpout, StringDeserializer, and {TEXT} as key.deserializer.encoding and value.deserializer.encoding"
            raise ConfigError(Problem("", 0, 0, found, fix)) from None


def _scored(pipeline: Pipeline, chunk: Chunk, waiting: Waiting) -> list[Message]:
    ids = [id for one in cast(Sequence[Record], chunk.records) for id in waiting[one.position]]
    try:
        parcels = pipeline.complete(begun(pipeline, chunk))
    except TransportError as error:  # of a schema registry
        logger.warning("%d events wait for their schema, and will be emitted again: %s", chunk.rows, error)
        return [{"command": "fail", "id": id} for id in ids]
    emitted = [one for parcel in parcels for one in _emitted(parcel, pipeline.port.source.topic, waiting)]
    return [*emitted, *({"command": "ack", "id": id} for id in ids)]


def _emitted(parcel: Parcel, source: str, waiting: Waiting) -> Iterator[Message]:
    stream = "dead_letter" if parcel.dead else "default"
    values = _lines(parcel) if parcel.dead else parcel.values
    for one, (_, key, _, _), value in zip(parcel.inputs, parcel.records, values, strict=True):
        place = one.position if isinstance(one, Record) else Position(source, parcel.partition, one.offset)
        made = [parcel.topic, _text(key), _text(value)]
        yield {"command": "emit", "stream": stream, "anchors": waiting[place], "tuple": made, "need_task_ids": False}


def _lines(parcel: Parcel) -> Iterator[bytes]:
    """Yields the dead letters as JSON, since Storm's Kafka bolt writes no headers. Control characters can make that too long for Kafka."""
    for at, line in enumerate(letters.lines(parcel)):
        yield line if len(line) <= LIMIT else next(letters.lines(fitting(parcel.part(at, at + 1), lambda _: False, LEAST_LETTER)))


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode(TEXT)


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode(TEXT)


def _run(topology: str, messages: Messages) -> None:
    (greeting,) = messages.waiting()
    context = greeting["context"]
    if (declared := context["stream->outputfields"]) != STREAMS:
        raise ConfigError(f"{context['componentid']} declares the streams {declared}, and the bolt emits {STREAMS}")
    chosen = settings.load({})
    telemetry.configure(chosen.log_level, chosen.log_format)
    bolt = Bolt(_serving(topology, chosen), context["source->stream->fields"], chunk_rows=chosen.chunk_rows)
    Path(greeting["pidDir"], str(os.getpid())).touch()  # by which Storm ends what a killed worker has left
    messages.send([{"pid": os.getpid()}])
    telemetry.configure(chosen.log_level, chosen.log_format, stream=cast(TextIO, messages))
    while True:
        for answers in bolt.answer(messages.waiting()):
            messages.send(answers)


def _serving(topology: str, chosen: settings.Settings) -> Callable[[], Served]:
    """Returns what returns the active program: with brokers that of the control log, which is followed from now on."""
    follow, registry = bool(chosen.brokers and chosen.releases), open_schema_registry(chosen)
    file = find(topology, chosen.topologies)
    loaded = runtime.load(
        file, models=chosen.models, schemas=chosen.schemas, absent=follow, schema_registry=registry, forgets="a bolt of Storm"
    )
    for stage in loaded.wiring.stages:
        if found := next((column.field for one in stage.inputs for column in one.columns if column.field.startswith("header.")), ""):
            message = f"the source {stage.name} is read for {found}, and Storm's Kafka spout emits no headers"
            raise ConfigError(Problem(str(file), 0, 0, message, "have producers put it into the event"))
    if not follow:
        return Fixed(runtime.prepare(loaded, chosen))
    reading = Reading(loaded, chosen)
    reading.start()
    return lambda: reading.deployment.primary


def main() -> None:
    """Runs the bolt until Storm ends it. Why it cannot run is on standard error, which Storm shows as the error of the bolt."""
    messages = Messages(0, os.dup(1))
    os.dup2(2, 1)  # what a library prints is no message
    try:
        _run(sys.argv[1], messages)
    except (EOFError, BrokenPipeError):
        pass  # the worker has ended
    except PenstockError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
