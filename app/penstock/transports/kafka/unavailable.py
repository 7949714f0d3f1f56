"""One Penstock error for all that aiokafka raises when brokers do not answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiokafka.errors import KafkaError

from penstock.errors import PenstockError, TransportUnavailable

__all__ = ["as_ours", "unavailable"]


@contextmanager
def unavailable(what: str) -> Iterator[None]:
    """Raises TransportUnavailable, "`what`: the reason", for what aiokafka, the network or a timeout raises inside."""
    try:
        yield
    except (KafkaError, OSError, TimeoutError) as error:
        raise TransportUnavailable(f"{what}: {error!r}") from error


def as_ours(error: BaseException) -> BaseException:
    """Returns the error that ended a worker: as TransportUnavailable when the brokers caused it, any other unchanged."""
    if isinstance(error, PenstockError) or not isinstance(error, KafkaError | OSError):
        return error
    return TransportUnavailable(f"the brokers are not usable: {error!r}")
