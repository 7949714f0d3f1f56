"""The demo's client: sends departures at a chosen speed, receives predictions and judges them.

Each turn of the loop: 1. sends the due events, 2. receives predictions, 3. calls `tick` of the caller.
Events are sent in bursts of BURST_S seconds, which the client packs into one record batch per partition: the embedded broker
returns one batch per partition and fetch, and with single events it stopped at 1,000 per second. At most WINDOW events are
in flight. So a slow worker slows the replay down (in bursts of AT_ONCE), and the embedded broker, which keeps about 5 MB per
partition, never drops unread events.

Every event has the header RUN, which the worker copies, so that outputs of an earlier demo in a real Kafka are not counted.

`room` returns how many events may have been sent by now: some are kept for the time after a swap. When they run out during a
swap, the replay slows down but does not stop, so that events flow during the swap.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, cast

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from demo.tally import Prediction, Tally
from penstock.errors import DeliveryFailed, PenstockError, TransportUnavailable
from penstock.topology.spec import Topology, WindowNode

__all__ = ["WINDOW", "Departure", "Link", "Room", "replay"]

RUN: Final = "demo-run"
GENERATION: Final = "penstock-generation"
MODELS: Final = "penstock-models"
WINDOW: Final = 4_000
AT_ONCE: Final = 1_000
BURST_S: Final = 0.01
START_S: Final = 60.0
STALL_S: Final = 30.0
SLOWING_S: Final = 2.0  # a limit that would be reached within these seconds slows the replay down
TIMEOUT_S: Final = 15.0
PARTITION_UA: Final = -1  # librdkafka's name: the client chooses by the key

Arrivals = Mapping[str, tuple[float, int]]


class Room(NamedTuple):
    """How many events may have been sent by now, and whether the replay should slow down to make them last."""

    mark: int
    scarce: bool


class Departure(Protocol):
    """One event, as `examples/flights/events.py` makes it: `departed_at` in ms since the epoch, `value` the JSON that is sent."""

    @property
    def flight_id(self) -> str: ...
    @property
    def departed_at(self) -> int: ...
    @property
    def value(self) -> bytes: ...


class _Output(msgspec.Struct):
    """What the topologies of the demo write."""

    flight_id: str
    carrier: str
    dest: str
    score: float
    logistic: float | None  # where the topology joins, it may come too late
    trees: float


class Link:
    """A producer of departures and a consumer of their outputs. Use it as a context manager."""

    def __init__(self, client: Mapping[str, Any], topology: Topology, journals: Iterable[str] = ()) -> None:
        """`client` is librdkafka's configuration, `journals` are the topics of the releases, if there are any.

        Raises TransportUnavailable when the brokers do not answer or lack a topic.
        """
        source, sink = topology.sources[0], topology.sinks[0]
        self._departures, self._predictions, self._dead = source.topic, sink.topic, source.dead_letter
        # A window counts the events of its own partition: the flights have to meet in one.
        windowed = any(isinstance(node, WindowNode) for node in topology.nodes)
        self._partition = 0 if windowed else PARTITION_UA
        self._run: dict[str, str | bytes | None] = {RUN: uuid.uuid4().hex[:12].encode()}
        self._decode = msgspec.json.Decoder(_Output).decode
        self._sent_at: dict[str, float] = {}
        self._refused: KafkaError | None = None
        self._producer = Producer({**client, "linger.ms": 1, "enable.idempotence": False, "log_level": 2})
        self._consumer = Consumer(
            {**client, "group.id": "penstock-demo-screen", "enable.auto.commit": False, "fetch.wait.max.ms": 10, "log_level": 2}
        )
        try:
            # The embedded broker creates a topic at the first request for it, so the worker finds them all.
            partitions = {topic: self._partitions(topic) for topic in (source.topic, sink.topic, source.dead_letter, *journals)}
            read = [TopicPartition(topic, number) for topic in (sink.topic, source.dead_letter) for number in partitions[topic]]
            # Only new records count: the ends of the partitions are read before anything is sent.
            for partition in read:
                partition.offset = self._consumer.get_watermark_offsets(partition, TIMEOUT_S)[1]
            self._consumer.assign(read)
            self._read = read
        except KafkaException as error:
            self.close()
            raise TransportUnavailable(f"the topics at {client['bootstrap.servers']} cannot be used: {error}") from error

    def __enter__(self) -> Link:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Drops events that are not sent yet."""
        self._producer.purge()
        self._producer.close()
        self._consumer.close()

    def send(self, departure: Departure) -> None:
        """Sends one event, keyed by its flight. Raises DeliveryFailed when the broker refused an earlier one."""
        if self._refused is not None:
            raise DeliveryFailed(f"the broker refused an event: {self._refused}")
        self._sent_at[departure.flight_id] = time.perf_counter()
        self._producer.produce(
            self._departures, departure.value, departure.flight_id, self._partition, on_delivery=self._delivered, headers=self._run
        )

    def finish(self, tally: Tally, arrivals: Arrivals) -> None:
        """Reads the topics to their ends, where a second output of an event would be."""
        ends = [TopicPartition(one.topic, one.partition, self._consumer.get_watermark_offsets(one, TIMEOUT_S)[1]) for one in self._read]
        deadline = time.perf_counter() + TIMEOUT_S
        while any(have.offset < end.offset for have, end in zip(self._positions(), ends, strict=True)):
            if time.perf_counter() > deadline:
                raise TransportUnavailable(f"the predictions were not read to their ends within {TIMEOUT_S:g} s")
            self.receive(tally, arrivals, 0.05)

    def _positions(self) -> list[TopicPartition]:
        """Returns the next offsets to read; the start offsets where nothing was read yet."""
        told = self._consumer.position(self._read)
        return [begin if have.offset < 0 else have for have, begin in zip(told, self._read, strict=True)]

    def receive(self, tally: Tally, arrivals: Arrivals, wait: float, *, timed: bool = True) -> None:
        """Counts the received records; waits up to `wait` seconds for the first one."""
        self._producer.poll(0)
        first = self._consumer.poll(wait)
        if first is None:
            return
        now = time.perf_counter()
        for message in (first, *self._consumer.consume(AT_ONCE, 0)):
            if message.error() is not None:
                raise TransportUnavailable(f"predictions cannot be read: {message.error()}")
            headers = _headers(message)
            if headers.get(RUN) == self._run[RUN]:
                self._take(message, headers, tally, arrivals, now, timed)

    def unanswered(self) -> list[str]:
        """Returns the flights whose events have no output yet."""
        return list(self._sent_at)

    def _take(
        self, message: Message, headers: Mapping[str, bytes | None], tally: Tally, arrivals: Arrivals, now: float, timed: bool
    ) -> None:
        if message.topic() == self._dead:
            if self._sent_at.pop((message.key() or b"").decode(), None) is None:
                tally.doubled += 1
            else:
                tally.dead_letters += 1
                tally.first_dead_letter = tally.first_dead_letter or _reason(headers)
            return
        output = self._decode(message.value() or b"")
        sent = self._sent_at.pop(output.flight_id, None)
        if sent is None:  # a second output of an event, which at-least-once permits after a failure
            tally.doubled += 1
            return
        generation = int(headers[GENERATION] or 0)
        if generation not in tally.generations:
            tally.began(generation, _models(headers), now)
        scores = (math.nan if output.logistic is None else output.logistic, output.trees, output.score)
        prediction = Prediction(output.flight_id, output.carrier, output.dest, scores, generation)
        tally.predicted(prediction, now - sent if timed else None, arrivals.get(output.flight_id))

    def _delivered(self, error: KafkaError | None, _message: object) -> None:
        if error is not None and self._refused is None:
            self._refused = error

    def _partitions(self, topic: str) -> list[int]:
        found = self._producer.list_topics(topic, TIMEOUT_S).topics[topic]
        if found.error is not None:
            raise KafkaException(found.error)
        return sorted(found.partitions)


def replay(
    link: Link, departures: Iterator[Departure], arrivals: Arrivals, tally: Tally, speed: float, tick: Callable[[], None],
    room: Callable[[], Room],
) -> None:  # fmt: skip
    """Sends the departures, `speed` per second, until all have outputs. Calls `tick` every turn; it updates the view, and raises to stop.

    The first event is sent alone: its output shows that the worker is ready, and its latency is not counted.
    Raises PenstockError when outputs do not arrive.
    """
    _send(link, departures, tally, 1)
    _settle(link, arrivals, tally, tick, START_S, "the worker did not score its first event", timed=False)
    tally.started = last = progress = time.perf_counter()
    due, moved = 0.0, (0, 0)
    while tally.sent < tally.total:
        now, (mark, scarce) = time.perf_counter(), room()
        pace = min(speed, (mark - tally.sent) / SLOWING_S) if scarce else speed
        # Lost time is not caught up: after a pause, the replay continues at its speed.
        due, last = min(due + (now - last) * pace, AT_ONCE), now
        if due >= max(1.0, min(pace * BURST_S, AT_ONCE)) and tally.outstanding <= WINDOW - AT_ONCE:
            due -= _send(link, departures, tally, min(int(due), mark - tally.sent))
        link.receive(tally, arrivals, 0.001)
        tick()
        if (tally.sent, tally.answered) != moved or not tally.outstanding:
            progress, moved = now, (tally.sent, tally.answered)
        elif now - progress > STALL_S:
            raise _silence(link, tally, STALL_S, "the worker has stopped answering")
    _settle(link, arrivals, tally, tick, STALL_S, "predictions are missing")
    tally.ended = time.perf_counter()
    link.finish(tally, arrivals)
    tally.land_all()


def _send(link: Link, departures: Iterator[Departure], tally: Tally, most: int) -> int:
    """Sends up to `most` events and returns their number."""
    count = 0
    while count < most and (departure := next(departures, None)) is not None:
        link.send(departure)
        tally.event_time = departure.departed_at
        count += 1
    tally.sent += count
    return count


def _settle(
    link: Link, arrivals: Arrivals, tally: Tally, tick: Callable[[], None], within: float, what: str, *, timed: bool = True
) -> None:
    """Waits until every sent event has an output. Raises PenstockError when nothing arrives for `within` seconds."""
    progress, left = time.perf_counter(), tally.outstanding
    while tally.outstanding:
        link.receive(tally, arrivals, 0.05, timed=timed)
        tick()
        if tally.outstanding != left:
            progress, left = time.perf_counter(), tally.outstanding
        elif time.perf_counter() - progress > within:
            raise _silence(link, tally, within, what)


def _silence(link: Link, tally: Tally, seconds: float, what: str) -> PenstockError:
    missing = link.unanswered()
    return PenstockError(
        f"{what}: of {tally.sent:,} events sent {len(missing):,} have no output, and nothing has arrived for {seconds:g} s; "
        f"the first is {missing[0]}"
    )


def _headers(message: Message) -> dict[str, bytes | None]:
    return dict(cast(list[tuple[str, bytes | None]], message.headers() or []))  # the declared type is the one for sending


def _models(headers: Mapping[str, bytes | None]) -> dict[str, str]:
    """Returns name@version by node, from the worker's headers."""
    text = (headers.get(MODELS) or b"").decode()
    return dict(pair.split("=", 1) for pair in text.split(",") if pair)


def _reason(headers: Mapping[str, bytes | None]) -> str:
    """Returns the worker's reason why it could not score the event."""
    text = headers.get("__streams.errors.message") or headers.get("__streams.errors.exception") or b"no reason is given"
    return text.decode(errors="replace")
