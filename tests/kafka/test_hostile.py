"""Records that somebody else has written, on a real broker: a worker scores their neighbours, explains what it could not, and goes on."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import psutil
import pytest

from penstock.record import Record
from penstock.testing import Broker, end_offsets, produce, read_all, wait_for
from tests.kafka.operating import configure, penstock
from tests.kafka.running import Job, Running, make_job
from tests.memory import peak
from tests.raw import batch, inner, now_ms, produce_raw

pytestmark = pytest.mark.broker


def event(number: int) -> bytes:
    return json.dumps({"id": str(number), "x": number / 2}).encode()


def headers_of(record: Record) -> dict[str, bytes]:
    return {name: value or b"" for name, value in record.headers}


def letters(job: Job) -> list[dict[str, bytes]]:
    return [headers_of(one) for one in read_all(job.broker, job.dead)]


def finish(job: Job, worker: Running, expected: int, answers: int) -> None:
    """Waits until every position of the source is committed, and stops the worker."""
    assert sum(end_offsets(job.broker, job.source).values()) == expected
    job.wait_until_committed(expected, worker)
    assert worker.stop() == 0, worker.log
    assert sum(job.ids().values()) == answers


@pytest.mark.parametrize("codec", [0, 4])
def test_name_of_a_header_that_is_not_utf8(broker: Broker, tmp_path: Path, codec: int) -> None:
    job = make_job(broker, tmp_path, partitions=1)
    records = [inner(at, str(at).encode(), event(at), [(b"\xe9v\xff", b"x")] if at == 1 else ()) for at in range(3)]
    assert produce_raw(broker, job.source, batch(records, codec, first=now_ms())) == 0
    with job.run() as worker:
        finish(job, worker, 3, 3)
    assert job.ids() == Counter("012")
    assert not letters(job)


def test_bomb_is_passed_over_and_its_neighbours_are_scored(broker: Broker, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path, partitions=1)
    bomb = batch([inner(0, b"b", bytes(400_000_000))], 4, first=now_ms())
    assert len(bomb) < 100_000
    with job.run() as worker:
        job.send([0])
        job.wait_for_answers(1)
        before = psutil.Process(worker.process.pid).memory_info().rss
        assert produce_raw(broker, job.source, bomb) == 0
        job.send([1])
        job.wait_for_answers(2)
        most = peak(worker.process.pid)
        finish(job, worker, 3, 2)
    (letter,) = letters(job)
    message = letter["__streams.errors.message"].decode()
    assert "from offset 1 to 1" in message
    assert "max_unpacked_bytes" in message
    assert letter["penstock-stage"] == b"read"
    assert most - before < 150e6


def test_dead_letter_that_is_larger_than_its_topic_is_cut(broker: Broker, tmp_path: Path) -> None:
    """Records at the edge of their topic: a value that is no event, one that compresses well, and an event with a large header."""
    job = make_job(broker, tmp_path, partitions=1)
    edge = b'{"id":"b",' + b" " * 1_048_400
    large = b'{"id":"c","pad":"' + b" " * 3_000_000 + b'"}'
    bad = [edge, large]
    stamp = now_ms()
    with job.run() as worker:
        job.send([0])
        for value, codec in ((edge, 0), (large, 4)):
            assert produce_raw(broker, job.source, batch([inner(0, None, value)], codec, first=stamp)) == 0
        event_with_header = batch([inner(0, b"k", event(7), [(b"trace", b"x" * 1_048_420)])], first=stamp)
        assert produce_raw(broker, job.source, event_with_header) == 0
        job.send([1])
        finish(job, worker, 5, 2)
    found = read_all(broker, job.dead)
    assert len(found) == 3
    for letter, value in zip(found, bad, strict=False):
        said = dict(part.split("=") for part in headers_of(letter)["penstock-truncated"].decode().split(";"))
        assert (said["value"], said["sha256"]) == (str(len(value)), hashlib.sha256(value).hexdigest())
        assert value.startswith(letter.value or b"?")
        assert len(letter.value or b"") > 900_000
    assert found[2].value == event(7)
    assert "trace" not in headers_of(found[2])
    assert b"headers=1048" in headers_of(found[2])["penstock-truncated"]


def test_event_without_a_key_into_a_compacted_topic(broker: Broker, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path, partitions=1, sink_config={"cleanup.policy": "compact"})
    records = [inner(at, None if at == 5 else str(at).encode(), event(at)) for at in range(20)]
    assert produce_raw(broker, job.source, batch(records, first=now_ms())) == 0
    with job.run() as worker:
        wait_for(lambda: len(letters(job)) == 1, lambda: f"the dead letter\n{worker.log[-3000:]}", 40)
        job.send(range(20, 40))
        finish(job, worker, 40, 39)
        assert " records_out=39 dead_letters=1 " in worker.log
        assert f"dead letters: 1 (1 send EncodeError), the last one in {job.dead} for {job.source}:0:5" in worker.log
    assert set(job.ids().values()) == {1}
    (letter,) = letters(job)
    assert b"without a key" in letter["__streams.errors.message"]
    assert (letter["__streams.errors.offset"], letter["penstock-stage"]) == (b"5", b"send")
    assert [one.key for one in job.answers()] == [str(at).encode() for at in range(40) if at != 5], "the order is kept"


@pytest.mark.parametrize(
    ("source", "sink", "days"),
    [({"message.timestamp.after.max.ms": str(2**63 - 1)}, {}, 30), ({}, {"message.timestamp.before.max.ms": "604800000"}, -30)],
)
def test_timestamp_that_the_sink_refuses(broker: Broker, tmp_path: Path, source: dict[str, str], sink: dict[str, str], days: int) -> None:
    """The dead-letter topic, with the broker's defaults, may refuse the timestamp too: the letter then has the time of its writing."""
    job = make_job(broker, tmp_path, partitions=1, sink_config=sink, source_config=source)
    stamp = now_ms()
    odd = Record(job.source, event(7), b"7", timestamp=stamp + days * 86_400_000)
    with job.run() as worker:
        produce(broker, [*(job.reading(at)._replace(timestamp=stamp) for at in range(5)), odd, job.reading(5)._replace(timestamp=stamp)])
        finish(job, worker, 7, 6)
    (letter,) = read_all(broker, job.dead)
    assert letter.value == odd.value
    assert b"INVALID_TIMESTAMP" in headers_of(letter)["__streams.errors.message"]
    assert "penstock-truncated" not in headers_of(letter)
    assert abs(letter.timestamp - (odd.timestamp if days < 0 else stamp)) < 600_000


def test_very_many_empty_records(broker: Broker, tmp_path: Path) -> None:
    """Each is a small dead letter without a stack trace, and the event behind them is scored."""
    job = make_job(broker, tmp_path, partitions=1)
    count = 20_000
    assert produce_raw(broker, job.source, batch([inner(at, None, b"") for at in range(count)], 4, first=now_ms())) == 0
    job.send([1])
    with job.run() as worker:
        finish(job, worker, count + 1, 1)
    found = read_all(broker, job.dead)
    assert len(found) == count
    assert max(sum(len(name) + len(value or b"") for name, value in one.headers) for one in found) < 600
    assert not any("stacktrace" in name for name, _ in found[0].headers)


def test_control_and_status_topic_with_records_that_cannot_be_read(broker: Broker, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path, partitions=1)
    configure(job, unsigned_control=True)
    for topic in (job.releases.control, job.releases.status):
        for record in (inner(0, b"k", b"{}", [(b"\xff", b"x")]), inner(0, b"\xff", b"\xff"), inner(0, None, None)):
            code = produce_raw(broker, topic, batch([record], first=now_ms()))
            assert code in (0, 87), code  # a status topic is compacted: it takes no record without a key
    with job.run(unsigned_control="true") as worker:
        worker.wait_until_assigned()
        job.send([0])
        job.wait_for_answers(1)
        for command in ("status", "history"):
            done = penstock(job, command, str(job.file))
            assert done.code in (0, 1), done
            assert "bug" not in done.err
        assert worker.stop() == 0, worker.log
    assert "refused here: 2 malformed, 1 empty" in worker.log, worker.log
