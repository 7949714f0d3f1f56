"""What the transport needs to know beyond Faust's own settings, carried by the app."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self, cast

from penstock.settings import Settings
from penstock.telemetry import Metrics
from penstock.transports.kafka.connection import aiokafka_arguments

__all__ = ["FAUST_LOGGER", "TransportOptions", "options_of"]


# What Faust says of each step of our services belongs with what it says of its own: heard from WARNING on.
FAUST_LOGGER: Final = logging.getLogger("faust.penstock")


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportOptions:
    """What the transport needs to know beyond Faust's own settings. Times in seconds, sizes in bytes.

    `connection` holds aiokafka's arguments for reaching the brokers (addresses, TLS, SASL, client id), `writes` the topics
    that will be written, `limits` the max.message.bytes of those that say. What has the name of a setting has no default here.
    """

    connection: Mapping[str, Any] = field(repr=False)  # holds the password
    writes: tuple[str, ...] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    start_from: str
    group_instance_id: str
    max_batch_rows: int
    max_in_flight_batches: int
    max_in_flight_bytes: int
    fetch_bytes: int
    fetch_wait_ms: int
    fetch_linger_ms: float
    batch_bytes: int = 1_000_000
    compression: str
    commit_interval: float
    drain_timeout: float
    session_timeout: float
    broker_timeout: float
    metrics: Metrics = field(default_factory=Metrics)
    before_reading: Callable[[], Awaitable[None]] | None = None  # awaited at each assignment, before its first fetch

    @property
    def rebalance_timeout(self) -> float:
        return max(self.drain_timeout * 2, self.session_timeout)

    @classmethod
    def of(cls, settings: Settings, **more: Any) -> Self:
        """The options that settings give; `more` are the others."""
        declared = {one.name for one in fields(Settings)}
        given = {one.name: getattr(settings, one.name) for one in fields(cls) if one.name in declared}
        return cls(**{"connection": aiokafka_arguments(settings), **given, **more})


def options_of(app: Any) -> TransportOptions:
    """The options that `transport.App` carries."""
    return cast(TransportOptions, app.penstock)
