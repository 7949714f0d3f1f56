"""Sends the events of events.ndjson to Kafka and prints the predictions that a running worker makes of them.

python send.py                   to the brokers of PENSTOCK_BROKERS, else of penstock.toml
python send.py HOST:PORT         to other brokers
"""

from __future__ import annotations

import json
import os
import sys
import time
import tomllib
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

EVENTS = "newproject.payments"
PREDICTIONS = "newproject.predictions"
PATIENCE_S = 30.0


def main(brokers: str) -> int:
    """Exit code 0 when every event was answered, else 1."""
    events = Path(__file__).with_name("events.ndjson").read_text(encoding="utf-8").splitlines()
    reader = at_the_end(brokers, PREDICTIONS)  # before anything is sent, so that no answer can be missed
    send(brokers, EVENTS, events)
    waiting = {json.loads(event)["id"] for event in events}
    deadline = time.monotonic() + PATIENCE_S
    while waiting and time.monotonic() < deadline:
        message = reader.poll(1.0)
        if message is None or message.error() or not (value := message.value()):
            continue
        prediction = json.loads(value)
        print(json.dumps(prediction))
        waiting.discard(prediction["id"])
    reader.close()
    if waiting:
        print(f"no prediction for {', '.join(sorted(waiting))} within {PATIENCE_S:g} s: is `penstock run` running?", file=sys.stderr)
    return 1 if waiting else 0


def configured() -> str:
    """The brokers that the commands of Penstock use here."""
    if named := os.environ.get("PENSTOCK_BROKERS"):
        return named
    settings = tomllib.loads(Path(__file__).with_name("penstock.toml").read_text(encoding="utf-8"))
    return str(settings["brokers"])


def at_the_end(brokers: str, topic: str) -> Consumer:
    """A consumer that reads what comes after now, from every partition."""
    reader = Consumer({"bootstrap.servers": brokers, "group.id": f"{topic}.send", "enable.auto.commit": False, "log_level": 2})
    partitions = [TopicPartition(topic, number) for number in reader.list_topics(topic, 10).topics[topic].partitions]
    for partition in partitions:
        partition.offset = reader.get_watermark_offsets(partition, 10)[1]
    reader.assign(partitions)
    return reader


def send(brokers: str, topic: str, events: list[str]) -> None:
    """Sends each event with its id as the key."""
    producer = Producer({"bootstrap.servers": brokers, "log_level": 2})
    for event in events:
        producer.produce(topic, event, json.loads(event)["id"])
    if left := producer.flush(PATIENCE_S):
        sys.exit(f"{left} events could not be sent to {brokers}")


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:] or [configured()]))
    except KafkaException as error:
        asked = " ".join(sys.argv[1:]) or configured()
        sys.exit(f"no answer from {asked}: {error.args[0].str()}; do these brokers run, and are they the ones that you meant?")
