"""The demo's end of the stream: departures go out at a chosen speed, predictions come back and are judged.

Each turn of the loop: 1. sends what is due, 2. takes what has come, 3. lets the caller look (`tick`).
Events go out in bursts of BURST_S seconds, which the client packs into one record batch a partition: the embedded broker hands
out one batch a partition and fetch, however small, and with single events it came to a standstill at 1,000 a second. No
more than WINDOW events are on their way at a time. So a slow worker slows the replay down (in bursts of AT_ONCE), and the embedded
broker, which keeps about 5 MB of a partition, never drops what was not read yet.

Every event carries the header RUN, which the worker passes on: what an earlier demo left in the topics of a real Kafka is not counted.

`room` says how many events may have been sent by now: some are kept for what comes after a swap. While one is under way and they
run out, the replay slows down rather than stops, so that there is a stream to swap under.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, cast

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from demo.tally import Prediction, Tally
from penstock.errors import DeliveryFailed, PenstockError, TransportUnavailable
from penstock.topology.spec import Topology

__all__ = ["WINDOW", "Departure", "Link", "Room", "replay"]

RUN: Final = "demo-run"
GENERATION: Final = "penstock-generation"
MODELS: Final = "penstock-models"
WINDOW: Final = 4_000
AT_ONCE: Final = 1_000
BURST_S: Final = 0.01
START_S: Final = 60.0
STALL_S: Final = 30.0
SLOWING_S: Final = 2.0  # a mark that would be reached within so many seconds slows the replay down
TIMEOUT_S: Final = 15.0

Arrivals = Mapping[str, tuple[float, int]]


class Room(NamedTuple):
    """How many events may have been sent by now, and whether they are to be made to last."""

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
    """What topologies/flights.yaml writes."""

    flight_id: str
    carrier: str
    dest: str
    score: float
    logistic: float
    trees: float


class Link:
    """A producer of departures and a consumer of what comes of them. Use it as a context manager."""

    def __init__(self, client: Mapping[str, Any], topology: Topology, journals: Iterable[str] = ()) -> None:
        """`client` is librdkafka's configuration, `journals` are the topics of the releases, if there will be any.

        Raises TransportUnavailable when the brokers do not answer or lack a topic.
        """
        source, sink = topology.sources[0], topology.sinks[0]
        self._departures, self._predictions, self._dead = source.topic, sink.topic, source.dead_letter
        self._run: dict[str, str | bytes | None] = {RUN: uuid.uuid4().hex[:12].encode()}
        self._decode = msgspec.json.Decoder(_Output).decode
        self._sent_at: dict[str, float] = {}
        self._refused: KafkaError | None = None
        self._producer = Producer({**client, "linger.ms": 1, "enable.idempotence": False, "log_level": 2})
        self._consumer = Consumer(
            {**client, "group.id": "penstock-demo-screen", "enable.auto.commit": False, "fetch.wait.max.ms": 10, "log_level": 2}
        )
        try:
            # The embedded broker makes a topic when it is first asked for, so the worker finds them all.
            partitions = {topic: self._partitions(topic) for topic in (source.topic, sink.topic, source.dead_letter, *journals)}
            read = [TopicPartition(topic, number) for topic in (sink.topic, source.dead_letter) for number in partitions[topic]]
            # What comes from now on: the ends of the partitions are asked for before anything is sent.
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
        """Drops what has not been sent yet."""
        self._producer.purge()
        self._producer.close()
        self._consumer.close()

    def send(self, departure: Departure) -> None:
        """Sends one event, keyed by its flight. Raises DeliveryFailed when an earlier one was refused."""
        if self._refused is not None:
            raise DeliveryFailed(f"the broker refused an event: {self._refused}")
        self._sent_at[departure.flight_id] = time.perf_counter()
        self._producer.produce(self._departures, departure.value, departure.flight_id, on_delivery=self._delivered, headers=self._run)

    def finish(self, tally: Tally, arrivals: Arrivals) -> None:
        """Takes what stands in the topics behind the last answer: an event that was answered twice shows there."""
        ends = [TopicPartition(one.topic, one.partition, self._consumer.get_watermark_offsets(one, TIMEOUT_S)[1]) for one in self._read]
        deadline = time.perf_counter() + TIMEOUT_S
        while any(have.offset < end.offset for have, end in zip(self._positions(), ends, strict=True)):
            if time.perf_counter() > deadline:
                raise TransportUnavailable(f"the predictions were not read to their ends within {TIMEOUT_S:g} s")
            self.receive(tally, arrivals, 0.05)

    def _positions(self) -> list[TopicPartition]:
        """The next offsets to read; those that the consumer starts at, where it has read nothing yet."""
        told = self._consumer.position(self._read)
        return [begin if have.offset < 0 else have for have, begin in zip(told, self._read, strict=True)]

    def receive(self, tally: Tally, arrivals: Arrivals, wait: float, *, timed: bool = True) -> None:
        """Counts what has come, waiting `wait` seconds for the first of it."""
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
        """The flights whose events were sent and not answered."""
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
        if sent is None:  # the worker's second answer to an event, as at-least-once allows after a failure
            tally.doubled += 1
            return
        generation = int(headers[GENERATION] or 0)
        if generation not in tally.generations:
            tally.began(generation, _models(headers), now)
        scores = (output.logistic, output.trees, output.score)
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
    """Sends the departures, `speed` a second, until all are answered. `tick` is called every turn: it shows, and raises to stop.

    The first event goes alone: its answer says that the worker is ready, and its latency is not counted.
    Raises PenstockError when answers stay out.
    """
    _send(link, departures, tally, 1)
    _settle(link, arrivals, tally, tick, START_S, "the worker did not score its first event", timed=False)
    tally.started = last = progress = time.perf_counter()
    due, moved = 0.0, (0, 0)
    while tally.sent < tally.total:
        now, (mark, scarce) = time.perf_counter(), room()
        pace = min(speed, (mark - tally.sent) / SLOWING_S) if scarce else speed
        # Time that was lost is not made up for: after a pause the replay goes on at its speed.
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
    """Sends up to `most` events and says how many there were."""
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
    """Until everything sent is answered; PenstockError when nothing has come for `within` seconds."""
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
        f"{what}: of {tally.sent:,} events sent {len(missing):,} were not answered, and nothing has come for {seconds:g} s; "
        f"the first is {missing[0]}"
    )


def _headers(message: Message) -> dict[str, bytes | None]:
    return dict(cast(list[tuple[str, bytes | None]], message.headers() or []))  # what is declared is what may be sent


def _models(headers: Mapping[str, bytes | None]) -> dict[str, str]:
    """name@version by node, as the worker says what it scored with."""
    said = (headers.get(MODELS) or b"").decode()
    return dict(pair.split("=", 1) for pair in said.split(",") if pair)


def _reason(headers: Mapping[str, bytes | None]) -> str:
    """Why the worker could not score it, in its own words."""
    said = headers.get("__streams.errors.message") or headers.get("__streams.errors.exception") or b"it does not say why"
    return said.decode(errors="replace")
