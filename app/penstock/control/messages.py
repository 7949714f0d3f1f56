"""What is said on the control topic, as values: a release is announced, then activated or aborted.

A message is one JSON object of at most `MAX_BYTES`, inside a signature (`trust`). Its rules:

1. `version` says how to read it. Readers refuse a higher version than theirs; within a version, fields that they do not
   know are ignored, so a field may only be added if ignoring it is right.
2. `topology` and `cluster` say what it is for; elsewhere it means nothing, however well it is signed.
3. A release binds **every** node of its topology, so it can be read, audited and taken back to without what came before.
   A binding names a version by the digests of its files; the URI only says where to look for them.
4. The record's key is the release's id, a UUID of version 7 (RFC 9562), made by whoever announces it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, cast
from uuid import UUID

import msgspec

from penstock.errors import ControlError
from penstock.registry.names import NAME, VERSION
from penstock.topology.names import NAME as NODE

__all__ = ["MAX_BYTES", "Abort", "Activate", "Binding", "Message", "Release", "encode", "new_id", "parse", "same", "timestamp"]

_VERSION: Final = 1
MAX_BYTES: Final = 65_536

_UUID7: Final = r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
_URI: Final = f"^models:/{NAME.pattern}/{VERSION.pattern}$"

Id = Annotated[str, msgspec.Meta(pattern=_UUID7, description="The release, a UUID of version 7.")]
Digest = Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
Time = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$", description="RFC 3339, UTC.")]
Prose = Annotated[str, msgspec.Meta(max_length=1024)]
NodeName = Annotated[str, msgspec.Meta(pattern=NODE)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class Binding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The model version that a node runs: where to look for it, and what must be found there."""

    uri: Annotated[str, msgspec.Meta(pattern=_URI, description="models:/NAME/VERSION, in whatever registry the worker is allowed to ask.")]
    digest: Annotated[Digest, msgspec.Meta(description="Of model.onnx.")]
    manifest: Annotated[Digest, msgspec.Meta(description="Of model.toml, which names the digest of the golden records.")]
    parameters: Annotated[dict[str, Any], msgspec.Meta(description="Constants that feed input tensors of the model.")] = {}

    @property
    def name(self) -> str:
        return self.uri.split("/")[1]

    @property
    def version(self) -> str:
        return self.uri.split("/")[2]

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class _Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """What every message says."""

    id: Id
    topology: NodeName
    cluster: Annotated[str, msgspec.Meta(description="The id of the Kafka cluster.")]
    time: Time
    author: Annotated[str, msgspec.Meta(max_length=200, description="Who says so; who signed is proven by the signature.")]
    reason: Prose = ""
    version: Annotated[int, msgspec.Meta(ge=1)] = _VERSION


class Release(_Message, frozen=True, kw_only=True, omit_defaults=True, tag="release"):
    """Announces bindings of every node, to be put in force after generation `base` and no other."""

    base: Annotated[Count, msgspec.Meta(description="The generation that this release follows.")]
    bindings: Annotated[dict[NodeName, Binding], msgspec.Meta(min_length=1)]
    baseline: Annotated[
        dict[NodeName, Binding], msgspec.Meta(description="With base 0: what generation 0, the topology file's own, was bound to.")
    ] = {}
    restores: Annotated[Count | None, msgspec.Meta(description="The generation whose bindings these are, when it is a rollback.")] = None


class Activate(_Message, frozen=True, kw_only=True, omit_defaults=True, tag="activate"):
    """Puts an announced release in force."""


class Abort(_Message, frozen=True, kw_only=True, omit_defaults=True, tag="abort"):
    """Ends an announced release that was not put in force."""


Message = Release | Activate | Abort

_DECODER: Final = msgspec.json.Decoder(Message)
_ENCODER: Final = msgspec.json.Encoder(order="deterministic")


class _Versioned(msgspec.Struct):
    version: int


def encode(message: Message) -> bytes:
    """The message as JSON. Raises ControlError when it is larger than a reader takes."""
    fields = msgspec.to_builtins(message)
    data = _ENCODER.encode({"version": message.version, **fields})  # the version is always said, also where it is the default
    if len(data) > MAX_BYTES:
        raise ControlError(f"the message has {len(data):,} bytes, the limit is {MAX_BYTES:,}; a shorter reason, or fewer parameters?")
    return data


def parse(data: bytes) -> Message:
    """The message. Raises ControlError that says what is wrong with it; `.code` is `too-large`, `newer` or `malformed`."""
    if len(data) > MAX_BYTES:
        raise ControlError(f"a message of {len(data):,} bytes, the limit is {MAX_BYTES:,}", code="too-large")
    try:
        version = msgspec.json.decode(data, type=_Versioned).version
        if version > _VERSION:
            raise ControlError(f"a message of version {version}; this Penstock reads up to {_VERSION}: upgrade it", code="newer")
        return cast(Message, _DECODER.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # a ValidationError is a DecodeError
        raise ControlError(f"not a control message: {error}", code="malformed") from error


def new_id(*, ms: int | None = None, random: bytes | None = None) -> str:
    """A new UUID of version 7: 48 bits of Unix time in ms, then chance, so that ids sort by their time."""
    chance = random or os.urandom(10)
    bits = ((time.time_ns() // 1_000_000 if ms is None else ms) & (1 << 48) - 1) << 80 | int.from_bytes(chance)
    bits = bits & ~(0xF << 76) | 0x7 << 76
    return str(UUID(int=bits & ~(0x3 << 62) | 0x2 << 62))


def timestamp(seconds: float | None = None) -> str:
    """Unix time (now unless given) as messages write it."""
    return datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def same(one: Mapping[str, Binding], other: Mapping[str, Binding]) -> bool:
    """Whether both bind the same files with the same parameters; where they were found does not matter."""
    return {node: _identity(binding) for node, binding in one.items()} == {node: _identity(binding) for node, binding in other.items()}


def _identity(binding: Binding) -> tuple[str, str, str]:
    return binding.digest, binding.manifest, _ENCODER.encode(binding.parameters).decode()
