"""The lease of a worker over its partitions: by the clock, from the sending of its last heartbeat."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.errors import IllegalGenerationError, NoError, RebalanceInProgressError, UnknownMemberIdError
from aiokafka.protocol.group import HeartbeatRequest, LeaveGroupRequest

from penstock.transports.kafka.lease import Lease, tell
from tests.clock import Clock


class Coordinator:
    """What `tell` needs of aiokafka's: it answers a request after `takes` seconds with `error`."""

    def __init__(self, clock: Clock) -> None:
        self._coordinator = self
        self.clock = clock
        self.takes, self.error = 0.0, NoError.errno
        self.resets = 0

    async def _send_req(self, _: Any) -> Any:
        self.clock.now += self.takes
        self.error_code = self.error
        return self

    def reset_generation(self) -> None:
        self.resets += 1

    def beat(self, takes: float = 0.0, error: type = NoError, request: Any = None) -> None:
        self.takes, self.error = takes, error.errno  # type: ignore[attr-defined]  # aiokafka is untyped
        asyncio.run(self._send_req(request or HeartbeatRequest("group", 1, "member")))


def leased() -> tuple[Lease, Clock, Coordinator, list[bool]]:
    clock = Clock()
    changes: list[bool] = []
    lease = Lease(3.0, lambda: changes.append(lease.holds()), clock)
    coordinator = Coordinator(clock)
    tell(lease, coordinator)
    return lease, clock, coordinator, changes


def test_it_holds_for_the_session_timeout_after_a_heartbeat_and_again_after_the_next() -> None:
    lease, clock, coordinator, changes = leased()
    assert not lease.holds()
    coordinator.beat()
    clock.now += 2.9
    assert lease.holds()
    clock.now += 0.1
    assert not lease.holds()
    assert "no heartbeat has succeeded for 3 s" in lease.reason()
    coordinator.beat()
    assert lease.holds()
    assert lease.reason() == ""
    assert changes == [True, True]


def test_an_answer_that_is_read_after_a_pause_counts_from_its_request() -> None:
    """The heartbeat went out, the process was paused, the answer waited in the socket: it proves nothing about now."""
    lease, _, coordinator, _ = leased()
    coordinator.beat(takes=20.0)
    assert not lease.holds()


def test_a_rebalance_keeps_it_and_other_answers_do_not_renew_it() -> None:
    lease, clock, coordinator, _ = leased()
    coordinator.beat(error=RebalanceInProgressError)
    assert lease.holds()
    clock.now += 5
    for error in (UnknownMemberIdError, IllegalGenerationError):
        coordinator.beat(error=error)
    coordinator.beat(request=LeaveGroupRequest("group", "member"))
    assert not lease.holds()


def test_it_ends_at_once_when_the_group_has_removed_the_member() -> None:
    lease, _, coordinator, changes = leased()
    coordinator.beat()
    coordinator.reset_generation()
    assert not lease.holds()
    assert lease.ended
    assert coordinator.resets == 1
    assert changes == [True, False]
    coordinator.beat()
    assert lease.holds()
