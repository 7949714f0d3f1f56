"""The members of a consumer group, as its coordinator describes them, with the text that each shows in its metadata.

The coordinator shows the metadata of members only while the group is stable, so what a member has shown is remembered by its id.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from aiokafka import errors
from aiokafka.client import CoordinationType
from aiokafka.protocol.admin import DescribeGroupsRequest

from penstock.errors import AccessRefused, TransportUnavailable

__all__ = ["Described", "GroupView"]

PATIENCE: Final = 3.0  # seconds for one answer; the caller asks again
_LIMIT: Final = 1 << 20  # bytes of a member's metadata that are looked at
_REFUSED: Final = (errors.GroupAuthorizationFailedError, errors.IncompatibleBrokerVersion, errors.UnsupportedVersionError)


class Described(NamedTuple):
    """What each member shows: "" when it shows nothing. `unknown` counts those that have just joined, and are not described yet."""

    shown: Sequence[str]
    unknown: int = 0


class GroupView:
    """Describes one group by a client's connections."""

    def __init__(self, client: Any, group: str) -> None:
        """`client` is aiokafka's, inside a started consumer."""
        self._client, self._group = client, group
        self._known: dict[str, str] = {}
        self._coordinator: int | None = None

    async def describe(self, patience: float = PATIENCE) -> Described:
        """Returns the members now. Waits at most `patience` seconds, and never longer than `PATIENCE`.

        Raises AccessRefused when the group may not be described, or these brokers cannot do it; TransportUnavailable when no answer comes.
        """
        try:
            async with asyncio.timeout(min(patience, PATIENCE)):
                if self._coordinator is None:
                    self._coordinator = await self._client.coordinator_lookup(CoordinationType.GROUP, self._group)
                    await self._client.force_metadata_update()
                answer = await self._client.send(self._coordinator, DescribeGroupsRequest([self._group]))
            code, _, state, _, _, members = answer.groups[0][:6]
            if code:
                raise errors.for_code(code)()
        except _REFUSED as error:
            raise AccessRefused(f"the consumer group {self._group} cannot be described: {type(error).__name__}") from error
        except (errors.KafkaError, OSError, TimeoutError) as error:
            self._coordinator = None
            raise TransportUnavailable(f"the consumer group {self._group} is not described: {error!r}") from error
        ids = {member[0] for member in members}
        fresh = {member[0]: _shown(member[3]) for member in members if member[3] or state == "Stable"}
        self._known = {id: text for id, text in (self._known | fresh).items() if id in ids}
        return Described([*self._known.values()], len(ids - self._known.keys()))


def _shown(metadata: bytes) -> str:
    """Returns the text in the metadata that Faust's assignor writes, where other members of Faust have the address of their pages."""
    try:
        (topics,) = struct.unpack_from(">i", metadata, 2)
        at = 6
        for _ in range(topics):
            (name,) = struct.unpack_from(">H", metadata, at)  # a negative length is a large one, and so beyond the end
            at += 2 + name
        (length,) = struct.unpack_from(">i", metadata, at)
        found = json.loads(metadata[at + 4 : at + 4 + min(max(length, 0), _LIMIT)])
        url = found.get("url", "") if isinstance(found, dict) else ""
        return url if isinstance(url, str) else ""
    except (struct.error, ValueError, RecursionError):
        return ""
