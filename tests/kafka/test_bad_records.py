"""The promise about records of others, on a real broker: one of n is bad, in every way that Kafka holds, and the others are scored once.

What the broker refuses to hold, it refuses here too, and costs nothing: those kinds are counted, so that a broker that refuses all is seen.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count as numbers
from pathlib import Path
from typing import Final

import pytest
from aiokafka.record.util import calc_crc32c

from penstock.registry.directory import DirectoryRegistry
from penstock.testing import Broker, end_offsets, read_all
from penstock.testing import models as onnx_models
from tests.kafka.operating import configure, penstock, told_by, wait_until_ready
from tests.kafka.running import make_job
from tests.raw import DAMAGE, PACK, batch, inner, now_ms, produce_raw, sized, varint

pytestmark = pytest.mark.broker

DAY: Final = 86_400_000
NONE, ZSTD = 0, 4


def event(id: str, **more: object) -> bytes:
    return json.dumps({"id": id, "x": 1.5, **more}).encode()


def stamped(place: int, milliseconds: int, id: str) -> bytes:
    """A record with a timestamp of its own, relative to the batch's first."""
    return b"\0" + varint(milliseconds) + varint(place) + sized(b"k") + sized(event(id)) + varint(0)


# One bad record of a batch, by its place and id. Each may be scored or refused, but nothing else may change.
ONE: Final[dict[str, Callable[[int, str], bytes]]] = {
    "junk": lambda place, name: inner(place, b"k", b"\x00\xff junk"),
    "no value": lambda place, name: inner(place, b"k", None),
    "an empty value": lambda place, name: inner(place, b"k", b""),
    "a value that is not UTF-8": lambda place, name: inner(place, b"k", b'{"id":"\xff","x":1}'),
    "deep nesting": lambda place, name: inner(place, b"k", b"[" * 50_000),
    "a number out of range": lambda place, name: inner(place, b"k", b'{"id":"?","x":1e999}'),
    "a key that is not UTF-8": lambda place, name: inner(place, b"\xff\xfe", event(name)),
    "no key": lambda place, name: inner(place, None, event(name)),
    "a header name that is not UTF-8": lambda place, name: inner(place, b"k", event(name), [(b"\xe9v\xff", b"x")]),
    "a header without a value": lambda place, name: inner(place, b"k", event(name), [(b"name", None)]),
    "a header name without characters": lambda place, name: inner(place, b"k", event(name), [(b"", b"x")]),
    "a header name of ours": lambda place, name: inner(
        place, b"k", event(name), [(b"penstock-id", b"\xff"), (b"penstock-generation", b"x")]
    ),
    "many headers": lambda place, name: inner(place, b"k", event(name), [(b"n", b"v")] * 5000),
    "a hundred thousand headers": lambda place, name: inner(place, b"k", event(name), [(b"", b"")] * 100_000),
    "headers of 900 kB": lambda place, name: inner(place, b"k", event(name), [(b"n", b"v" * 900_000)]),
    "a key of 900 kB": lambda place, name: inner(place, b"k" * 900_000, event(name)),
    "a value of 900 kB": lambda place, name: inner(place, b"k", event(name, pad="v" * 900_000)),
    "junk of 900 kB": lambda place, name: inner(place, b"k", b"v" * 900_000),
    "a timestamp long ago": lambda place, name: stamped(place, -400 * DAY, name),
    "a timestamp before 1970": lambda place, name: stamped(place, -50_000 * DAY, name),
    "a timestamp in the year 292 million": lambda place, name: stamped(place, 1 << 62, name),
    "attributes": lambda place, name: b"\xff" + inner(place, b"k", event(name))[1:],
    **{f"damage: {kind}": lambda place, name, make=make: make(place) for kind, make in DAMAGE.items()},  # type: ignore[misc]
}


def changed(data: bytes, at: int, form: str, value: int, *, checksum: bool = True) -> bytes:
    """The batch with one field of its header replaced."""
    whole = bytearray(data)
    struct.pack_into(form, whole, at, value)
    if checksum:
        struct.pack_into(">I", whole, 17, calc_crc32c(bytes(whole[21:])))
    return bytes(whole)


# One field of a batch's header is wrong: the broker refuses it, or the batch is one that a worker may refuse as a whole.
WHOLE: Final[dict[str, Callable[[bytes], bytes]]] = {
    "the checksum": lambda data: changed(data, 17, ">I", 1, checksum=False),
    "the format": lambda data: changed(data, 16, ">b", 9),
    "an unknown codec": lambda data: changed(data, 21, ">h", 7),
    "another codec": lambda data: changed(data, 21, ">h", 3 if data[22] != 3 else 1),
    "a transaction that nobody began": lambda data: changed(data, 21, ">h", data[22] | 0x10),
    "the end of a transaction": lambda data: changed(data, 21, ">h", data[22] | 0x30),
    "the last offset": lambda data: changed(data, 23, ">i", 1000),
    "a negative last offset": lambda data: changed(data, 23, ">i", -1),
    "a timestamp before 1970": lambda data: changed(data, 27, ">q", -5),
    "the latest timestamp": lambda data: changed(data, 35, ">q", 0),
    "more records than there are": lambda data: changed(data, 57, ">i", 1000),
    "no records": lambda data: changed(data, 57, ">i", 0),
    "an unfinished length": lambda data: changed(data, 8, ">i", len(data) - 13, checksum=False),
}


def spoilt(first: int) -> Iterator[tuple[str, list[str], str, bytes]]:
    """(kind, ids of its good records, id of the bad one, bytes): every kind at every place, and in every codec."""
    ids = (str(number) for number in numbers())
    for codec in PACK:
        for kind, make in ONE.items():
            for place in (0, 1, 2) if codec == NONE else (1,):
                named = [next(ids) for _ in range(3)]
                records = [make(at, id) if at == place else inner(at, id.encode(), event(id)) for at, id in enumerate(named)]
                yield kind, [id for id in named if id != named[place]], named[place], batch(records, codec, first=first)
        for kind, change in WHOLE.items():
            named = [next(ids) for _ in range(3)]
            good = [inner(at, id.encode(), event(id)) for at, id in enumerate(named)]
            yield f"batch: {kind}", [], "", change(batch(good, codec, first=first))


def test_of_n_records_one_is_bad_and_the_others_are_scored_once(broker: Broker, tmp_path: Path) -> None:
    """Into a compacted topic that takes timestamps of a week: it refuses records for their key and for their timestamp."""
    sink = {"cleanup.policy": "compact", "min.compaction.lag.ms": str(DAY), "message.timestamp.before.max.ms": str(7 * DAY)}
    job = make_job(broker, tmp_path, partitions=1, sink_config=sink)
    held, refused, good = Counter[str](), Counter[str](), Counter[str]()
    with job.run() as worker:
        worker.wait_until_assigned()
        for kind, ids, _, data in spoilt(now_ms()):
            taken = produce_raw(broker, job.source, data) == 0
            (held if taken else refused)[kind] += 1
            good.update(ids if taken else ())
            assert worker.process.poll() is None, f"after {kind}:\n{worker.log}"
        job.send([-1])
        sent = sum(end_offsets(broker, job.source).values())
        job.wait_until_committed(sent, worker)
        assert worker.stop() == 0, worker.log
    print(f"held by the broker: {dict(held)}\nrefused: {dict(refused)}")
    scored = job.ids()
    assert not good - scored, "lost"
    assert max(scored.values()) == 1, "twice"
    assert scored["-1"] == 1
    assert min(held.values()) >= len(PACK), held
    assert len(held) > len(ONE) * 0.6, refused
    assert not held.keys() & {"batch: the checksum", "batch: the format"}
    letters = Counter(dict(one.headers)["penstock-stage"] for one in read_all(broker, job.dead))
    assert sum(scored.values()) + sum(letters.values()) == sent
    assert {b"decode", b"send"} <= letters.keys(), letters


def test_control_and_status_topics_that_hold_every_kind(broker: Broker, tmp_path: Path) -> None:
    """Between them a person deploys, asks for the status and the history, and a worker that starts after all of it serves the release."""
    job = make_job(broker, tmp_path, partitions=1)
    configure(job, unsigned_control=True)
    DirectoryRegistry(job.folder / "models").publish("double", onnx_models.linear([3.0]), version="2")
    held = Counter[str]()
    for _, _, _, data in spoilt(now_ms()):
        for topic in (job.releases.control, job.releases.status):
            held[topic] += produce_raw(broker, topic, data) == 0
    assert min(held.values()) > 100, held
    with job.run(unsigned_control="true") as worker:
        worker.wait_until_assigned()
        wait_until_ready(job, worker)
        deployed = penstock(job, "deploy", job.topology, "double=double@2", "--format", "json")
        assert deployed.code == 0, deployed
        assert told_by(job, worker)["refused"]
        history = penstock(job, "history", job.topology)
        assert (history.code, "bug" in history.err) == (0, False), history
        assert "double@2" in history.out
        assert worker.stop() == 0, worker.log
