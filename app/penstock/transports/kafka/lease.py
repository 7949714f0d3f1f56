"""The lease: how long a worker may act for its partitions, by the clock.

Kafka gives a member's partitions to others when it was silent for the session timeout. A process that was paused (SIGSTOP, a frozen
container, a suspended host) does not notice: it would go on from its old positions until its next heartbeat is refused. So a worker
acts only for as long as its session can last: for the session timeout after the last heartbeat that succeeded was *sent*. The broker
counts from a later moment, and so gives the partitions away only after the lease has ended here.

The lease is looked at before anything is taken, scored or sent. A pause between that look and the system call that follows it
cannot be noticed, and what the kernel has accepted is sent also while the process is paused. Neither is more than what was in flight: one
request per broker. The clock is the one that runs on while the host is suspended, where there is one. A hypervisor that stops all
clocks of its guest hides the pause from every clock; then the first refused heartbeat, half a second later, ends the lease.

Private parts of aiokafka 0.14.0 that are touched, all of them in this file: `AIOKafkaConsumer._coordinator`, and its `_send_req` and
`reset_generation` (called, and replaced by functions that also tell the lease).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import NoError, RebalanceInProgressError
from aiokafka.protocol.group import HeartbeatRequest, SyncGroupRequest

__all__ = ["Lease", "tell"]

_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_ALIVE: Final = (HeartbeatRequest, SyncGroupRequest)  # a session begins with the second


def clock() -> float:
    """Returns seconds that also count while the host is suspended."""
    return time.clock_gettime(_CLOCK)


class Lease:
    """Holds for `seconds` after the sending of the last heartbeat that succeeded. `changed` is called when it holds again or has ended."""

    def __init__(self, seconds: float, changed: Callable[[], None], clock: Callable[[], float] = clock) -> None:
        self.clock = clock
        self._seconds, self._changed = seconds, changed
        self._sent = -math.inf  # when the last heartbeat that succeeded was sent
        self.ended = True  # the group has no such member any more, or had none yet

    def holds(self) -> bool:
        """Returns whether the worker may act for its partitions now."""
        return not self.ended and self.clock() - self._sent < self._seconds

    def renew(self, sent: float) -> None:
        """The broker has answered a heartbeat that was sent then."""
        before = self.holds()
        self._sent, self.ended = max(self._sent, sent), False
        if not before:
            self._changed()

    def end(self) -> None:
        """The group has no such member any more."""
        self.ended, self._sent = True, -math.inf
        self._changed()

    def reason(self) -> str:
        """Returns why it does not hold, empty while it does."""
        if self.holds():
            return ""
        if self.ended:
            return "the group has removed this worker: it joins again"
        return (
            f"no heartbeat has succeeded for {self.clock() - self._sent:.0f} s: others may own its partitions, so nothing is taken or sent"
        )


def tell(lease: Lease, consumer: AIOKafkaConsumer) -> None:
    """Renews the lease with the heartbeats of a started consumer, and ends it when the group no longer knows the member."""
    coordinator = consumer._coordinator
    send, reset = coordinator._send_req, coordinator.reset_generation

    async def sending(request: Any) -> Any:
        sent = lease.clock()
        answer = await send(request)
        if isinstance(request, _ALIVE) and answer.error_code in (NoError.errno, RebalanceInProgressError.errno):
            lease.renew(sent)
        return answer

    def resetting() -> None:
        reset()
        lease.end()

    coordinator._send_req, coordinator.reset_generation = sending, resetting
