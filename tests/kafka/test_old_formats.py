"""Messages of formats 0 and 1. Brokers from 4.0 on no longer accept them from producers, but keep those of older topics and return them."""

from __future__ import annotations

import json
import struct
from collections import Counter
from pathlib import Path

import pytest
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder

from penstock.testing import Broker, end_offsets
from penstock.testing.broker import JvmBroker
from tests.kafka.running import make_job
from tests.raw import now_ms

pytestmark = pytest.mark.broker("restart")

COUNT = 5
KINDS = [(format, codec) for format in (0, 1) for codec in (0, 1, 2)]  # lz4 has frames of another kind in format 0, and zstd is younger


def segment(format: int, codec: int, first: int) -> bytes:
    """`COUNT` events, the first with the id `first` and without a key, as a broker writes them at the beginning of a partition."""
    builder = LegacyRecordBatchBuilder(format, codec, 1 << 20)
    for place in range(COUNT):
        value = json.dumps({"id": str(first + place), "x": (first + place) / 2}).encode()
        builder.append(place, now_ms(), b"key" if place else None, value)
    built = bytearray(builder.build())
    if codec:
        built[:8] = struct.pack(">q", COUNT - 1)  # a compressed message has the position of the last one in it
    return bytes(built)


def test_a_topic_that_is_older_than_its_broker_is_scored(broker: Broker, tmp_path: Path) -> None:
    assert isinstance(broker, JvmBroker)
    # The builder gives a compressed message the time 0, which the broker would take for older than what it keeps.
    job = make_job(broker, tmp_path, partitions=len(KINDS), source_config={"retention.ms": "-1"})
    broker.kill()
    for partition, (format, codec) in enumerate(KINDS):
        log = broker.data / f"{job.source}-{partition}" / f"{0:020}.log"
        assert log.stat().st_size == 0
        log.write_bytes(segment(format, codec, partition * COUNT))
    broker.restart()
    old = COUNT * len(KINDS)
    assert end_offsets(broker, job.source) == dict.fromkeys(range(len(KINDS)), COUNT), broker.log[-3000:]
    job.send(range(old, old + len(KINDS)))  # in format 2, behind the old ones
    with job.run() as worker:
        job.wait_for_answers(old + len(KINDS))
        job.wait_until_committed(old + len(KINDS), worker)
        assert worker.stop() == 0, worker.log
    assert job.ids() == Counter(map(str, range(old + len(KINDS))))
    assert sum(one.key is None for one in job.answers()) == len(KINDS)
