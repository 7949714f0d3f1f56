"""Storm: the process of a bolt that scores. A `ShellBolt` starts it, and both exchange Storm's multilang messages in JSON.

    python -m penstock.integrations.storm topologies/flights.yaml

1. Tuples are what Kafka's spout emits: `topic`, `partition`, `offset`, `key`, `value`. Keys and values are bytes, as text of ISO-8859-1,
   in which each byte is one character: the deserializers of the spout and the serializers of the Kafka bolts are set to it.
2. The process answers Storm's greeting when its models are loaded and warm: Storm begins to send then.
3. The tuples that wait are a batch, of at most `chunk_rows`. Nothing is held back for more, so a tick has nothing to flush.
4. Outputs go to the stream `default` and dead letters to the stream `dead_letter`, as `topic`, `key` and `message`, anchored to their input.
   An input is acknowledged after what it caused was emitted: what a killed process has not acknowledged, the spout emits again.
"""

from __future__ import annotations

import logging
import os
import select
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from penstock import runtime
from penstock.cli.options import with_settings
from penstock.codecs.schema_registry import open_schema_registry
from penstock.errors import ConfigError, PenstockError, Problem, SchemaWanted, TransportError
from penstock.parcel import Parcel
from penstock.pipeline.letters import fitting
from penstock.pipeline.ports import Program
from penstock.pipeline.score import LEAST_LETTER, Chunk, Pipeline
from penstock.record import Position, Record
from penstock.settings import Settings
from penstock.topology.find import find
from penstock.transports.files import letters
from penstock.transports.memory import LIMIT, Memory, MemorySink

__all__ = ["Bolt", "Messages", "main"]

logger = logging.getLogger(__name__)

Message = dict[str, Any]
Waiting = Mapping[Position, Sequence[str]]  # by the place of a record the tuples that hold it: several, when the spout emits it again

STREAMS: Final = {name: ["topic", "key", "message"] for name in ("default", "dead_letter")}
MOST: Final = 1 << 20  # bytes of messages that are read at once; one message may be longer
_END: Final = b"\nend\n"
_LEVELS: Final = {logging.DEBUG: 1, logging.INFO: 2, logging.WARNING: 3, logging.ERROR: 4}
_TEXT: Final = "ISO-8859-1"


class Messages:
    """The messages of both directions: each is a line of JSON, then a line `end`. `reads` and `writes` are file descriptors."""

    def __init__(self, reads: int, writes: int) -> None:
        self._reads, self._writes = reads, writes
        self._read = bytearray()

    def waiting(self) -> list[Any]:
        """Returns the messages that have arrived, after waiting for the first one. Raises EOFError when there will be none."""
        end = -1
        while end < 0 or (len(self._read) < MOST and select.select([self._reads], [], [], 0)[0]):
            searched = max(0, len(self._read) - len(_END))
            if not (more := os.read(self._reads, MOST)):
                raise EOFError
            self._read += more
            end = max(end, self._read.rfind(_END, searched))
        whole = bytes(self._read[:end])
        del self._read[: end + len(_END)]
        return [msgspec.json.decode(one) for one in whole.split(_END)]

    def send(self, messages: Iterable[Message]) -> None:
        """Writes the messages."""
        left = memoryview(b"".join(msgspec.json.encode(one) + _END for one in messages))
        while left:
            left = left[os.write(self._writes, left) :]


class Bolt:
    """The stages of a program, each of which reads the tuples of its topic. `fields` are those of tuples, by component and stream.

    Raises ConfigError for a topology that reads headers: the spout emits none.
    """

    def __init__(self, program: Program, settings: Settings, fields: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        self._fields = fields
        sink = MemorySink(Memory())  # for the limit of an output's size
        self._stages: dict[str, Pipeline] = {}
        for name, stage in program.plan.stages.items():
            read = [column.field for one in stage.wired.inputs for column in one.columns]
            if header := next((one for one in read if one.startswith("header.")), None):
                message = f"the source {name} is read for {header}, and Storm's Kafka spout emits no headers"
                raise ConfigError(Problem(program.plan.topology, 0, 0, message, "have producers put it into the event"))
            self._stages[stage.wired.source.topic] = Pipeline(program, name, sink=sink, chunk_rows=settings.chunk_rows)

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
        for topic, places in groupby(sorted(records), lambda one: one.topic):
            if topic not in self._stages:
                raise ConfigError(f"the spout reads {topic}, and the topology reads {', '.join(self._stages)}")
            spans = [((topic, number), [records[one] for one in those]) for number, those in groupby(places, lambda one: one.partition)]
            for chunk in self._stages[topic].chunks(spans):
                yield _scored(self._stages[topic], chunk, waiting)

    def _record(self, message: Message) -> Record:
        names = self._fields[message["comp"]][message["stream"]]
        given = dict(zip(names, message["tuple"], strict=True))
        try:
            value, key = _bytes(given["value"]), _bytes(given.get("key"))
            return Record(given["topic"], value, key, partition=given["partition"], offset=given["offset"])
        except (KeyError, AttributeError, UnicodeEncodeError) as error:
            found = f"{message['comp']} emits {', '.join(names)}, which is no record: {type(error).__name__} {error}"
            fix = f"use KafkaSpout, StringDeserializer, and {_TEXT} as key.deserializer.encoding and value.deserializer.encoding"
            raise ConfigError(Problem("", 0, 0, found, fix)) from None


def _scored(pipeline: Pipeline, chunk: Chunk, waiting: Waiting) -> list[Message]:
    ids = [id for one in chunk.records if isinstance(one, Record) for id in waiting[one.position]]
    try:
        parcels = pipeline.complete(pipeline.begin(chunk))
    except SchemaWanted as wanted:
        try:
            wanted.fetch()
        except TransportError as error:
            logger.error("%d events wait for a schema, and are emitted again: %s", chunk.rows, error)  # noqa: TRY400
            return [{"command": "fail", "id": id} for id in ids]
        return _scored(pipeline, chunk, waiting)
    emitted = [one for parcel in parcels for one in _emitted(parcel, pipeline.port.source.topic, waiting)]
    return [*emitted, *({"command": "ack", "id": id} for id in ids)]


def _emitted(parcel: Parcel, source: str, waiting: Waiting) -> Iterator[Message]:
    stream = "dead_letter" if parcel.dead else "default"
    values = _lines(parcel) if parcel.dead else parcel.values
    for at, ((_, key, _, _), value) in enumerate(zip(parcel.records, values, strict=True)):
        one = parcel.inputs[at]
        place = one.position if isinstance(one, Record) else Position(source, parcel.partition, one.offset)
        made = [parcel.topic, _text(key), _text(value)]
        yield {"command": "emit", "stream": stream, "anchors": waiting[place], "tuple": made, "need_task_ids": False}


def _lines(parcel: Parcel) -> Iterator[bytes]:
    """Yields the dead letters as JSON, since Storm's Kafka bolt writes no headers. Control characters can make that longer than allowed."""
    for at, line in enumerate(letters.lines(parcel)):
        yield line if len(line) <= LIMIT else next(letters.lines(fitting(parcel.part(at, at + 1), lambda _: False, LEAST_LETTER)))


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode(_TEXT)


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode(_TEXT)


class _ToStorm(logging.Handler):
    """Sends what is logged to the log of Storm's worker: a full pipe of standard error, which Storm reads seldom, would stop both."""

    def __init__(self, send: Callable[[Iterable[Message]], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send([{"command": "log", "msg": self.format(record), "level": _LEVELS.get(record.levelno, 2)}])


@click.command()
@click.argument("topology", type=click.Path(path_type=Path))
@with_settings("models", "model_trust", "schemas", "chunk_rows", "log_level")
def bolt(topology: Path, settings: Settings) -> None:
    """Score the tuples that Storm sends to standard input."""
    messages = Messages(0, os.dup(1))
    os.dup2(2, 1)  # what a library prints is no message
    greeting, *_ = messages.waiting()
    context = greeting["context"]
    if (declared := context["stream->outputfields"]) != STREAMS:
        raise ConfigError(f"{context['componentid']} declares the streams {declared}; the bolt emits {STREAMS}")
    file = find(topology, settings.topologies)
    loaded = runtime.load(file, models=settings.models, schemas=settings.schemas, schema_registry=open_schema_registry(settings))
    scoring = Bolt(runtime.prepare(loaded, settings), settings, context["source->stream->fields"])
    (Path(greeting["pidDir"]) / str(os.getpid())).touch()  # Storm ends the process of a worker that was killed by it
    messages.send([{"pid": os.getpid()}])
    logging.getLogger().handlers[:] = [_ToStorm(messages.send)]
    while True:
        for answers in scoring.answer(messages.waiting()):
            messages.send(answers)


def main() -> None:
    """Runs the bolt to the end of its input. What cannot be run is on standard error, which Storm shows as the bolt's error."""
    try:
        bolt()
    except EOFError:
        pass
    except PenstockError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
