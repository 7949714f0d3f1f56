"""Test support for Penstock and its users: a topology without a broker, a broker for one run, contract checks, tiny models.

`TopologyDriver` needs the model runtime, so it is imported at its first use.
"""

from typing import TYPE_CHECKING, Any

from penstock.testing.broker import Broker, MockBroker, open_broker
from penstock.testing.topics import committed, create_release_topics, create_topics, end_offsets, produce, read_all, unique, wait_for

if TYPE_CHECKING:
    from penstock.testing.driver import TopologyDriver

__all__ = [
    "Broker",
    "MockBroker",
    "TopologyDriver",
    "committed",
    "create_release_topics",
    "create_topics",
    "end_offsets",
    "open_broker",
    "produce",
    "read_all",
    "unique",
    "wait_for",
]


def __getattr__(name: str) -> Any:
    if name != "TopologyDriver":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from penstock.testing.driver import TopologyDriver

    return TopologyDriver
