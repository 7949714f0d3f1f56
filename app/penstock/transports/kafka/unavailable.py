"""What aiokafka raises when brokers do not answer, as one error of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiokafka.errors import KafkaError

from penstock.errors import TransportUnavailable

__all__ = ["unavailable"]


@contextmanager
def unavailable(what: str) -> Iterator[None]:
    """Raises TransportUnavailable, "`what`: the reason", for what aiokafka, the network or a timeout raises inside."""
    try:
        yield
    except (KafkaError, OSError, TimeoutError) as error:
        raise TransportUnavailable(f"{what}: {error!r}") from error
