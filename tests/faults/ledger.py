"""The load of a round: numbered events at a rate, what the brokers have acknowledged of them, and what came out at the other end."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from penstock.testing import Broker, end_offsets, unique, wait_for
from tests.faults.checker import Event, Output
from tests.faults.cluster import Cluster
from tests.kafka.running import Job
from tests.raw import batch, inner, now_ms, produce_raw

__all__ = ["Ledger", "outputs", "records", "source_events"]

TICK_S = 0.02
KEYS = 6  # per partition: few, so that each has many events whose order can be checked
BAD = (b"{not json %d", b'{"id": "%d", "x": "text"}', b'{"id": "%d", "x": 1e999}')
PATIENCE_S = 120.0


class Place(NamedTuple):
    """A position of the source."""

    partition: int
    offset: int


class Ledger:
    """Sends events from a thread at `rate` per second, acknowledged by all copies, and books what was acknowledged.

    Event n has the id n. One in a hundred is bad, and one in two hundred has a header name that is not UTF-8; which, the seed says.
    """

    def __init__(self, job: Job, cluster: Cluster, rate: int, seed: int) -> None:
        self.job, self.rate = job, rate
        self.sent = 0
        self.acknowledged: dict[int, Place] = {}
        self.poison: set[int] = set()
        self._cluster, self._chance = cluster, Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger")
        self._failure: BaseException | None = None
        self._refused: list[KafkaError] = []
        self._producer = Producer(
            {
                "bootstrap.servers": cluster.bootstrap,
                "acks": "all",
                "enable.idempotence": True,  # an event is in the source once, whatever fails
                "message.timeout.ms": int(PATIENCE_S * 1000),
                "linger.ms": 5,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )

    @contextmanager
    def flowing(self) -> Iterator[None]:
        """Events flow inside."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()
        self.check()

    def settle(self) -> None:
        """Returns when each event that was sent is acknowledged."""
        left = self._producer.flush(PATIENCE_S)
        assert not left, f"{left} events are not acknowledged"
        self._producer.close()
        self.check()

    def check(self) -> None:
        if self._failure is not None:
            raise self._failure
        assert not self._refused, f"the brokers refused {len(self._refused)} events, the first because: {self._refused[0]}"

    def wait_for(self, seconds: float) -> None:
        """Until so many seconds' load has been sent from now on."""
        count = self.sent + int(seconds * self.rate)
        wait_for(lambda: self.sent >= count or self._failure is not None, f"{count} events sent", 60 + 5 * seconds, TICK_S)
        self.check()

    def _run(self) -> None:
        try:
            began = time.monotonic()
            while not self._stop.wait(TICK_S):
                # A tick that comes late sends what is due, but no more than a quarter of a second's: a burst is no steady load.
                due = int((time.monotonic() - began) * self.rate)
                if due - self.sent > self.rate // 4:
                    began += (due - self.sent - self.rate // 4) / self.rate
                    due = self.sent + self.rate // 4
                for number in range(self.sent, due):
                    self._send(number)
                self.sent = max(due, self.sent)
                self._producer.poll(0)
        except BaseException as error:  # noqa: BLE001  raised where the load is waited for
            self._failure = error

    def _send(self, number: int) -> None:
        partition = self._chance.randrange(self.job.partitions)
        key = b"%d.%d" % (partition, self._chance.randrange(KEYS))
        value = json.dumps({"id": str(number), "x": float(number + 1)}).encode()
        draw = self._chance.random()
        if draw < 0.01:
            self.poison.add(number)
            value = self._chance.choice(BAD) % number
        elif draw < 0.015 and self._sent_raw(partition, key, value):
            return
        self._producer.produce(self.job.source, value, key, partition, self._delivered(number))

    def _delivered(self, number: int) -> Callable[[KafkaError | None, Message], None]:
        def called(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self._refused.append(error)
            else:
                self.acknowledged[number] = Place(message.partition() or 0, message.offset() or 0)

        return called

    def _sent_raw(self, partition: int, key: bytes, value: bytes) -> bool:
        """Whether it was sent past the client, which cannot write such a name. Not while a broker fails: that may write it twice."""
        if self._cluster.ailing:
            return False
        record = batch([inner(0, key, value, [(b"\xe9\xff", b"x")])], first=now_ms())
        try:
            leader = Broker(self._cluster.address(self._cluster.leader(self.job.source, partition)))
            produce_raw(leader, self.job.source, record, partition=partition)
        except (OSError, KafkaException):
            pass  # it may have been written all the same, so never again
        return True


# -- what is on the topics -----------------------------------------------------------------------------------------------


def source_events(ledger: Ledger) -> list[Event]:
    """What the source holds, which is the truth: an event that was not acknowledged may be there, and one that was must be."""
    found = [(_number(one.value()), one) for one in records(ledger.job.broker, ledger.job.source)]
    places = {number: Place(one.partition() or 0, one.offset() or 0) for number, one in found}
    missing = [number for number, place in ledger.acknowledged.items() if places.get(number) != place]
    assert not missing, f"the brokers have lost {len(missing)} acknowledged events, which no worker can help: {missing[:5]}"
    assert len(places) == len(found), "an event is in the source twice, which no worker can help"
    return [Event(number, one.key() or b"", one.partition() or 0, number in ledger.poison) for number, one in found]


def outputs(job: Job) -> list[Output]:
    """Answers and dead letters, each in the order of its topic."""
    return [*map(_answer, records(job.broker, job.sink)), *(_letter(one) for one in records(job.broker, job.dead))]


def _answer(message: Message) -> Output:
    event, headers = json.loads(message.value() or b""), dict[str, Any](message.headers() or [])
    number = int(event["id"])
    factor = float(event["y"]) / (number + 1)
    generation, model = int(headers["penstock-generation"]), headers["penstock-models"].decode().removeprefix("double=")
    return Output(number, message.partition() or 0, False, generation, model, factor)


def _letter(message: Message) -> Output:
    return Output(_number(message.value()), message.partition() or 0, letter=True)


def _number(value: bytes | None) -> int:
    found = re.search(rb"\d+", value or b"")
    assert found, value
    return int(found[0])


def records(broker: Broker, topic: str) -> Iterator[Message]:
    """Every committed record, by partition; headers are decoded only where they are asked for."""
    ends = end_offsets(broker, topic)
    options = {"bootstrap.servers": broker.bootstrap, "group.id": unique("reader"), "enable.auto.commit": False, "fetch.wait.max.ms": 10}
    consumer = Consumer({**options, "isolation.level": "read_committed", "enable.partition.eof": True})
    try:
        for partition in sorted(ends):
            consumer.assign([TopicPartition(topic, partition, 0)])
            while True:
                message = consumer.poll(PATIENCE_S)
                assert message is not None, f"nothing more of {topic} {partition}"
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    break
                else:
                    raise KafkaException(error)
    finally:
        consumer.close()
