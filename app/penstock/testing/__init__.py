"""What our tests use and users' tests may: a broker for one run, topics to fill and read, contract checks, tiny models."""

from penstock.testing.broker import Broker, MockBroker, open_broker
from penstock.testing.topics import committed, create_topics, end_offsets, produce, read_all, unique, wait_for

__all__ = ["Broker", "MockBroker", "committed", "create_topics", "end_offsets", "open_broker", "produce", "read_all", "unique", "wait_for"]
