"""What the transport needs to know beyond Faust's own settings, carried by the app."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from penstock.telemetry import Metrics

__all__ = ["FAUST_LOGGER", "TransportOptions", "options_of"]


# What Faust says of each step of our services belongs with what it says of its own: heard from WARNING on.
FAUST_LOGGER: Final = logging.getLogger("faust.penstock")


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """What the transport needs to know beyond Faust's own settings. Times in seconds, sizes in bytes.

    `connection` holds aiokafka's arguments for reaching the brokers (addresses, TLS, SASL, client id), `writes` the topics
    that will be written, `limits` the max.message.bytes of those that say.
    """

    connection: Mapping[str, Any] = field(repr=False)  # holds the password
    writes: tuple[str, ...] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    start_from: str = "earliest"
    group_instance_id: str = ""
    max_batch_rows: int = 4096
    max_in_flight_batches: int = 16
    max_in_flight_bytes: int = 33_554_432
    fetch_bytes: int = 1_048_576
    fetch_wait_ms: int = 500
    fetch_linger_ms: float = 1.0
    batch_bytes: int = 1_000_000
    compression: str = "none"
    commit_interval: float = 1.0
    drain_timeout: float = 30.0
    session_timeout: float = 10.0
    rebalance_timeout: float = 60.0
    broker_timeout: float = 60.0
    metrics: Metrics = field(default_factory=Metrics)
    before_reading: Callable[[], Awaitable[None]] | None = None  # awaited at each assignment, before its first fetch


def options_of(app: Any) -> TransportOptions:
    """The options that `transport.App` carries."""
    return cast(TransportOptions, app.penstock)
