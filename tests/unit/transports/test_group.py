"""What members of a consumer group show, and what a coordinator says while the group changes."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import AccessRefused, TransportUnavailable
from penstock.transports.kafka.group import Described, GroupView, _shown


def metadata(shown: Any) -> bytes:
    data: bytes = ConsumerProtocolMemberMetadata(0, ["numbers", "übrige"], json.dumps(shown).encode()).encode()
    return data


class Coordinator:
    """The edge: a client that answers with the members that it is given."""

    def __init__(self) -> None:
        self.members: list[tuple[str, bytes]] = []
        self.state = "Stable"
        self.code = 0
        self.looked_up = 0

    async def coordinator_lookup(self, _kind: int, _group: str) -> int:
        self.looked_up += 1
        return 1

    async def force_metadata_update(self) -> None:
        """Nothing changes."""

    async def send(self, _node: int, _request: object) -> Any:
        members = [(id, "client", "/host", data, b"") for id, data in self.members]
        return SimpleNamespace(groups=[(self.code, "g", self.state, "consumer", "", members)])


def test_members_are_described_and_remembered_while_others_join() -> None:
    async def act() -> None:
        coordinator = Coordinator()
        view = GroupView(coordinator, "g")
        coordinator.members = [("a", metadata({"url": "penstock://worker/a"})), ("b", metadata({"url": 7}))]
        assert await view.describe() == Described(["penstock://worker/a", ""])
        coordinator.state, coordinator.members = "PreparingRebalance", [("a", b""), ("c", b"")]
        assert await view.describe() == Described(["penstock://worker/a"], 1)
        coordinator.state, coordinator.members = "Stable", [("c", metadata({}))]
        assert await view.describe() == Described([""])
        assert coordinator.looked_up == 1

    asyncio.run(act())


@pytest.mark.parametrize(
    ("error", "raised"), [(errors.GroupAuthorizationFailedError, AccessRefused), (errors.NotCoordinatorForGroupError, TransportUnavailable)]
)
def test_refusal_is_told_from_an_answer_that_may_come_later(error: Any, raised: type[Exception]) -> None:
    async def act() -> None:
        coordinator = Coordinator()
        coordinator.code = error.errno
        view = GroupView(coordinator, "g")
        for _ in range(2):
            with pytest.raises(raised, match="the consumer group g"):
                await view.describe()
        assert coordinator.looked_up == (1 if raised is AccessRefused else 2), "another broker may coordinate it"

    asyncio.run(act())


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda end: b"\0\0" + end) | st.recursive(
    st.none() | st.text(), lambda inner: st.dictionaries(st.sampled_from(["url", "x"]), inner)).map(metadata))  # fmt: skip
def test_any_metadata_shows_a_text_and_ends(data: bytes) -> None:
    assert isinstance(_shown(data), str)
    assert _shown(b"\0\0\x7f\xff\xff\xff" + b"\xff\xfe\xff\xfe" * 30) == ""
