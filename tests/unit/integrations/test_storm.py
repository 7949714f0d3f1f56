"""The bolt for Storm, spoken to as a `ShellBolt` does: records in tuples, outputs and dead letters in tuples, and what it does not take."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.integrations.storm import STREAMS, TEXT, Messages
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from penstock.testing.driver import TopologyDriver
from penstock.transports.memory import LIMIT

FIELDS = ["topic", "partition", "offset", "key", "value"]
SCHEMA = {"type": "record", "name": "ride", "fields": [{"name": "id", "type": "string"}, {"name": "km", "type": "float"}]}
RIDES = """\
topology: rides
sources:
  rides: {topic: rides, schema: ride.avsc, format: avro, id: id}
  notes: {topic: notes, schema: ride.avsc}
nodes:
  double: {kind: model, model: double@1, inputs: {x: rides.km}}
  again: {kind: model, model: double@1, inputs: {x: notes.km}}
sinks:
  bills: {topic: bills, fields: {id: rides.id, fare: double}, key: rides.id}
  noted: {topic: noted, fields: {id: notes.id, fare: again}}
"""


class Storm:
    """The side of Storm: a process that was greeted."""

    def __init__(
        self, folder: Path, *, fields: Sequence[str] = FIELDS, streams: Any = STREAMS, topology: str = "rides.yaml", **environment: str
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "penstock.integrations.storm", topology],
            cwd=folder,  # where its defaults, models/ and schemas/, are
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._messages = Messages(self.process.stdout.fileno(), self.process.stdin.fileno())
        self._read: list[Any] = []
        context = {"componentid": "score", "stream->outputfields": streams, "source->stream->fields": {"spout": {"default": [*fields]}}}
        self.send({"conf": {}, "pidDir": str(folder), "context": context})

    def send(self, *messages: dict[str, Any]) -> None:
        self._messages.send(messages)

    def tuples(self, *records: Record, first: int = 0) -> list[str]:
        """Sends the records, all at once, and returns the ids of their tuples."""
        ids = [str(first + at) for at in range(len(records))]
        tuples = [[one.topic, one.partition, one.offset, _text(one.key), _text(one.value)] for one in records]
        self.send(*({"id": id, "comp": "spout", "stream": "default", "task": 3, "tuple": one} for id, one in zip(ids, tuples, strict=True)))
        return ids

    def read(self, until: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """Returns the messages up to the first time that `until` holds for them."""
        found: list[dict[str, Any]] = []
        while not until(found):
            if not self._read:
                self._read = self._messages.waiting()
            found.append(self._read.pop(0))
        return found

    def finished(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Returns the messages up to the one that acknowledges the last of the tuples."""
        return self.read(lambda found: {one["id"] for one in found if one["command"] in ("ack", "fail")} >= {*ids})

    def end(self) -> tuple[int, str]:
        """Closes the input, and returns the exit code and what the process wrote to standard error."""
        self.process.stdin.close()  # type: ignore[union-attr]
        said = self.process.stderr.read().decode()  # type: ignore[union-attr]
        code = self.process.wait(30)
        self.process.stdout.close()  # type: ignore[union-attr]
        self.process.stderr.close()  # type: ignore[union-attr]
        return code, said


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode(TEXT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("rides")
    (made / "schemas").mkdir()
    (made / "schemas/ride.avsc").write_text(json.dumps(SCHEMA))
    (made / "rides.yaml").write_text(RIDES)
    DirectoryRegistry(made / "models").publish("double", models.linear([2]))
    return made


@pytest.fixture(scope="module")
def storm(folder: Path) -> Iterator[Storm]:
    started = Storm(folder)
    assert started.read(bool) == [{"pid": started.process.pid}]
    yield started
    assert started.end() == (0, "")


def ride(offset: int, *, km: float = 1.5, partition: int = 0) -> Record:
    value = io.BytesIO()
    fastavro.schemaless_writer(value, SCHEMA, {"id": f"r{partition}-{offset}", "km": km})
    return Record("rides", value.getvalue(), b"\xff%d" % offset, partition=partition, offset=offset)


def note(offset: int, value: bytes | None) -> Record:
    return Record("notes", value, None, partition=2, offset=offset)


def emitted(messages: Sequence[dict[str, Any]], stream: str) -> list[tuple[str, bytes | None, bytes]]:
    """Returns topic, key and message of what was emitted to the stream."""
    found = [one["tuple"] for one in messages if one["command"] == "emit" and one["stream"] == stream]
    return [(topic, None if key is None else key.encode(TEXT), value.encode(TEXT)) for topic, key, value in found]


def test_outputs_and_keys_are_those_of_a_worker_byte_for_byte(storm: Storm, folder: Path) -> None:
    """Binary events and keys, sinks with a key of their own and without, two sources: as the delivery loop writes them."""
    rides = [ride(at, km=at / 3, partition=at % 2) for at in range(300)]
    notes = [note(at, b'{"id": "n%d", "km": %d}' % (at, at)) for at in range(3)]
    driver = TopologyDriver(folder / "rides.yaml", models=folder / "models", schemas=folder / "schemas", partitions=3)
    for source, records in (("rides", rides), ("notes", notes)):
        driver.send_records(source, records)
    found = emitted(storm.finished(storm.tuples(*rides, *notes)), "default")
    expected = [(one.topic, one.key, one.value) for sink in ("bills", "noted") for one in driver.records(sink)]
    assert sorted(found, key=repr) == sorted(expected, key=repr)
    assert len(found) == 303


def test_each_input_is_acknowledged_after_what_it_caused(storm: Storm) -> None:
    ids = storm.tuples(ride(1), note(2, b"no event"), ride(3))
    messages = storm.finished(ids)
    for id in ids:
        steps = [one["command"] for one in messages if id in (one.get("id"), *one.get("anchors", ()))]
        assert steps == ["emit", "ack"]
    assert all(not one["need_task_ids"] for one in messages if one["command"] == "emit")


def test_a_record_that_comes_twice_in_a_batch_is_scored_once(storm: Storm) -> None:
    messages = storm.finished(storm.tuples(ride(7), ride(7)))
    if len([one for one in messages if one["command"] == "emit"]) == 1:  # both had arrived when the batch was made
        assert messages[0]["anchors"] == ["0", "1"]
    assert [one["id"] for one in messages if one["command"] == "ack"] == ["0", "1"]


def test_failures_are_dead_letters_with_their_reason(storm: Storm) -> None:
    records = [
        note(4, b"no event"),
        note(5, None),
        note(6, b'{"id": "n", "km": 1}'),
        Record("rides", b"\xff\xfe", b"k", partition=1, offset=9),
    ]
    letters = emitted(storm.finished(storm.tuples(*records)), "dead_letter")
    found = {value["id"]: (topic, key, value) for topic, key, value in ((topic, key, json.loads(text)) for topic, key, text in letters)}
    assert found.keys() == {"notes:2:4", "notes:2:5", "rides:1:9"}
    topic, key, letter = found["notes:2:4"]
    assert (topic, key, letter["failed_at"], letter["value"]) == ("notes.dead-letter", None, "decode", "no event")
    assert letter["message"].startswith("JSON is malformed")
    assert found["rides:1:9"][1] == b"k"
    assert found["rides:1:9"][2]["base64"] == "//4="


def test_a_dead_letter_fits_into_kafka_whatever_its_event_holds(storm: Storm) -> None:
    """Each control character takes six in JSON. A letter that Kafka does not take would be emitted again for ever."""
    ((_, _, line),) = emitted(storm.finished(storm.tuples(note(1, b"\x01" * 900_000))), "dead_letter")
    letter = json.loads(line)
    assert len(line) <= LIMIT
    assert letter["truncated"].startswith("value=900000;")
    assert set(letter["value"]) == {"\x01"}


def test_heartbeats_and_ticks_are_answered(storm: Storm) -> None:
    storm.send({"id": "1", "comp": None, "stream": "__heartbeat", "task": -1, "tuple": []})
    storm.send({"id": "2", "comp": "__system", "stream": "__tick", "task": -1, "tuple": [1]})
    assert storm.read(lambda found: len(found) == 2) == [{"command": "sync"}, {"command": "ack", "id": "2"}]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"topology": "ride.yaml"}, "error: ride.yaml: cannot be read"),
        ({"streams": {"default": ["a"]}}, "error: score declares the streams {'default': ['a']}, and the bolt emits"),
    ],
)
def test_what_cannot_run_ends_before_it_answers(folder: Path, wrong: dict[str, Any], says: str) -> None:
    storm = Storm(folder, **wrong)
    with pytest.raises(EOFError):
        storm.read(bool)
    code, said = storm.end()
    assert code == 1
    assert says in said


def test_tuples_that_are_no_records_end_the_bolt_with_what_to_do(folder: Path) -> None:
    storm = Storm(folder, fields=["topic", "partition", "offset", "key", "body"])
    storm.read(bool)
    storm.tuples(ride(1))
    with pytest.raises(EOFError):
        storm.read(bool)
    code, said = storm.end()
    assert code == 1
    assert "spout emits topic, partition, offset, key, body, which is no record" in said
    assert "value.deserializer.encoding" in said


def test_a_topic_that_no_source_reads_ends_the_bolt(folder: Path) -> None:
    storm = Storm(folder)
    storm.read(bool)
    storm.tuples(Record("other", b"", b""))
    with pytest.raises(EOFError):
        storm.read(bool)
    assert storm.end() == (1, "error: the spout reads other, and the topology reads rides, notes\n")


def test_a_topology_that_reads_headers_is_refused(folder: Path) -> None:
    text = RIDES.replace("fields: {id: notes.id", "fields: {tenant: notes.header.x-tenant, id: notes.id")
    (folder / "headers.yaml").write_text(text)
    storm = Storm(folder, topology="headers.yaml")
    code, said = storm.end()
    assert code == 1
    assert "the source notes is read for header.x-tenant, and Storm's Kafka spout emits no headers" in said


def test_events_whose_schema_cannot_be_fetched_are_failed_and_the_bolt_goes_on(folder: Path) -> None:
    """Storm's spout emits them again. Of the same batch, what needs no registry is answered."""
    (folder / "schemas/framed/ids").mkdir(parents=True)
    for name in ("ride.avsc", "ids/1.avsc"):  # one that the bolt can start with
        (folder / "schemas/framed" / name).write_text(json.dumps(SCHEMA))
    text = RIDES.replace("schema: ride.avsc, format: avro,", "schema: framed/ride.avsc, format: avro-confluent,")
    (folder / "framed.yaml").write_text(text)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        storm = Storm(folder, topology="framed.yaml", PENSTOCK_SCHEMA_REGISTRY_URL=f"http://127.0.0.1:{closed.getsockname()[1]}")
        storm.read(bool)
        ids = storm.tuples(Record("rides", b"\0\0\0\0\x07rest", b"k"), note(1, b'{"id": "n", "km": 1}'))
        messages = [one for one in storm.finished(ids) if one["command"] != "log"]
    assert [one["command"] for one in messages if ids[0] in (one.get("id"), *one.get("anchors", ()))] == ["fail"]
    assert [one["command"] for one in messages if ids[1] in (one.get("id"), *one.get("anchors", ()))] == ["emit", "ack"]
    assert storm.end()[0] == 0


@given(st.lists(st.dictionaries(st.text(), st.text()), min_size=1), st.lists(st.integers(1, 40)))
def test_messages_are_read_whole_however_they_arrive(messages: list[dict[str, str]], sizes: list[int]) -> None:
    data = b"".join(msgspec.json.encode(one) + b"\nend\n" for one in messages)
    reads, writes = os.pipe()
    try:
        reading = Messages(reads, writes)
        found: list[Any] = []
        unread = b""
        for size in [*sizes, len(data)]:
            piece, data = data[:size], data[size:]
            unread += piece
            if piece:
                os.write(writes, piece)
            if b"\nend\n" in bytes(reading._arrived) + unread:  # otherwise it would wait
                found += reading.waiting()
                unread = b""
    finally:
        os.close(reads)
        os.close(writes)
    assert found == messages
