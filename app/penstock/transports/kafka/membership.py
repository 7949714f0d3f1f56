"""A member of a consumer group that reads no partition: a process whose reports count, though it takes no records.

The brokers hold what it shows, and remove it when its heartbeats end, as they do for a worker.

Private parts of aiokafka 0.14.0 that are touched, all of them in this file: `AIOKafkaConsumer._coordinator`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.errors import KafkaError

from penstock.transports.kafka.journal import leave
from penstock.transports.kafka.metadata import steady

__all__ = ["Membership"]

logger = logging.getLogger(__name__)

YEAR_MS: Final = 365 * 24 * 3600 * 1000
PAUSE: Final = 5.0  # seconds before a group that could not be joined is joined again
LOOK: Final = 0.5


class Membership:
    """Keeps this process in `group`, where it shows a text. `topic` is one that it may describe: the protocol wants a subscription.

    `run` is a task of the process's loop; its end leaves the group. `say` gets why this process is no member, "" once it is.
    """

    def __init__(
        self, connection: Mapping[str, Any], group: str, topic: str, shown: str, *, session_timeout: float, say: Callable[[str], None]
    ) -> None:
        self.joined = False
        self.group = group
        self._connection, self._topic, self._say = connection, topic, say
        self._session_timeout = session_timeout
        self._assignor = _assignor(shown)

    async def run(self) -> None:
        while True:
            try:
                await self._be_member()
            except (KafkaError, OSError) as error:
                self._say(f"no member of the consumer group {self.group}, so no release waits for this process: {error!r}")
            self.joined = False
            await asyncio.sleep(PAUSE)

    async def _be_member(self) -> None:
        """Stays in the group until aiokafka gives up."""
        client = steady(
            AIOKafkaConsumer(
                self._topic,
                **self._connection,
                group_id=self.group,
                partition_assignment_strategy=[self._assignor],
                enable_auto_commit=False,
                max_poll_interval_ms=YEAR_MS,  # it never polls
                session_timeout_ms=int(self._session_timeout * 1000),
                heartbeat_interval_ms=int(min(1.0, self._session_timeout / 5) * 1000),
            )
        )
        try:
            await client.start()
            while True:
                coordinator: Any = client._coordinator
                coordinator.check_errors()
                if coordinator.member_id:
                    self._joined()
                await asyncio.sleep(LOOK)
        finally:
            await leave(client)

    def _joined(self) -> None:
        if not self.joined:
            self.joined = True
            self._say("")


def _assignor(shown: str) -> Any:
    """Returns an assignor of aiokafka's that shows a text, where Faust's members have theirs, and assigns no partition to anyone."""

    def metadata(topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        return ConsumerProtocolMemberMetadata(0, list(topics), json.dumps({"url": shown}).encode())

    def assign(_cluster: Any, members: Mapping[str, Any]) -> dict[str, ConsumerProtocolMemberAssignment]:
        return {member: ConsumerProtocolMemberAssignment(0, [], b"") for member in members}

    return SimpleNamespace(name="penstock-none", metadata=metadata, assign=assign, on_assignment=lambda _assignment: None)
