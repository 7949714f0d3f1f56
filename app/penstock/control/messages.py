"""The messages of the control topic, as values: a release is announced, then activated or aborted; one on trial is promoted or aborted.

A message is one JSON object of at most `MAX_BYTES`, inside a signature (`trust`). Its rules:

1. `version` decides how it is read. Readers refuse a higher version than theirs. Within a version they ignore unknown fields,
   so a field may be added only when ignoring it is correct. Kinds and strategies may be added within version 2:
   a reader refuses those that it does not know (`unknown-kind`, `unknown-strategy`).
2. `topology`, `cluster` and `control_topic` name its destination. In any other place it is refused, even with a valid signature.
3. A release binds **every** node of its topology, so it can be read, audited and restored without the messages before it.
   A binding names a version by the digests of its files; the URI is only the place to look for them.
4. The record's key is the release's id, a UUID of version 7 (RFC 9562), made by the process that announces the release.
5. A message that one reader accepts is accepted by all: no field twice, no deep nesting, no number beyond 64 bits, and nothing that
   depends on the reader's Python. Names and reasons are one line without control characters, since people read them on terminals.
6. `requested_by` is for people: what a message may do depends on its author, whose key has signed it. Readers that do not know the field
   ignore it.
7. Version 1 has neither `control_topic` nor `strategy`, and is malformed with one of them: readers of version 1 ignore the
   field, so they would activate such a release for every row. Read here, a release of version 1 has the strategy `single`.
   So it has no trials either: `promote` and `pause` are of version 2.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, cast
from uuid import UUID

import msgspec

from penstock.binding import END, LINE, Binding, Parameter
from penstock.control.strategy import SINGLE, Strategy, check_known
from penstock.errors import ControlError
from penstock.topology.names import NAME as NODE

__all__ = [
    "AHEAD",
    "MAX_BYTES",
    "NEWEST",
    "Abort",
    "Activate",
    "Message",
    "Pause",
    "Promote",
    "Release",
    "encode",
    "json_schema",
    "new_id",
    "parse",
    "timestamp",
]

NEWEST: Final = 2  # the version that is written; every version up to it is read
AHEAD: Final = ("newer", "unknown-kind", "unknown-strategy")  # the codes of messages that only a later Penstock reads
MAX_BYTES: Final = 65_536

_UUID7: Final = r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}" + END
_TIME: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z" + END
_MOST: Final = 2**53 - 1  # the largest whole number that every reader of JSON keeps exactly
_DEPTH: Final = 32

Id = Annotated[str, msgspec.Meta(pattern=_UUID7, description="The release, a UUID of version 7.")]
Time = Annotated[str, msgspec.Meta(pattern=_TIME, description="RFC 3339, UTC.")]
Prose = Annotated[str, msgspec.Meta(max_length=1024, pattern=LINE, description="One line.")]
Author = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=LINE, description="The author; when signed, the key's name.")]
Person = Annotated[
    str, msgspec.Meta(max_length=200, pattern=LINE, description="Whom it was made for, such as the caller of a service; not proven.")
]
Cluster = Annotated[str, msgspec.Meta(max_length=255, pattern=LINE, description="The id of the Kafka cluster.")]
ControlTopic = Annotated[
    str, msgspec.Meta(pattern=r"^[a-zA-Z0-9._-]{1,249}" + END, description="The Kafka topic that it is written to; since version 2.")
]
NodeName = Annotated[str, msgspec.Meta(pattern=NODE + r"(?!\n)")]
Count = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]
_Since2 = Annotated[int, msgspec.Meta(ge=2, le=NEWEST)]


class _Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """The fields of every message."""

    id: Id
    topology: NodeName
    cluster: Cluster
    time: Time
    author: Author
    reason: Prose = ""
    control_topic: ControlTopic = ""
    requested_by: Person = ""
    version: Annotated[int, msgspec.Meta(ge=1, le=NEWEST)] = NEWEST

    def __post_init__(self) -> None:
        if (self.version > 1) is not bool(self.control_topic):
            raise ValueError("from version 2 on, a message names its control topic; before, it does not")
        self.at_ms  # noqa: B018  rejects a 31st of June, which matches the pattern

    @property
    def at_ms(self) -> int:
        """`time` as Unix time in ms."""
        return int(datetime.fromisoformat(self.time).timestamp() * 1000)


class Release(_Message, frozen=True, kw_only=True, omit_defaults=True, tag="release"):
    """Announces bindings of every node, which may become active only directly after generation `base`."""

    base: Annotated[Count, msgspec.Meta(description="The generation that this release follows.")]
    bindings: Annotated[dict[NodeName, Binding], msgspec.Meta(min_length=1)]
    strategy: Annotated[Strategy, msgspec.Meta(description="How it replaces the live plan; since version 2.")] = SINGLE
    baseline: Annotated[
        dict[NodeName, Binding], msgspec.Meta(description="With base 0: what the topology file binds, which is generation 0.")
    ] = {}
    restores: Annotated[Count | None, msgspec.Meta(description="The generation whose bindings these are, when it is a rollback.")] = None
    aliases: Annotated[
        dict[NodeName, Parameter], msgspec.Meta(description="For each node that was requested as NAME@ALIAS: this text.")
    ] = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.baseline and self.base:
            raise ValueError("only a release with base 0 has a baseline")
        if self.restores is not None and self.restores > self.base:
            raise ValueError(f"generation {self.restores}, which it restores, comes after its base {self.base}")


class Activate(_Message, frozen=True, kw_only=True, omit_defaults=True, tag="activate"):
    """Makes an announced release active."""


class Abort(_Message, frozen=True, kw_only=True, omit_defaults=True, tag="abort"):
    """Ends an announced release that was not activated, or the trial of one."""


class Promote(_Message, frozen=True, kw_only=True, omit_defaults=True, tag="promote"):
    """Leads a release on trial to its next step, or makes it live, directly after generation `base`."""

    version: _Since2 = NEWEST
    base: Annotated[Count, msgspec.Meta(description="The generation that it was decided on.")]
    resume: Annotated[bool, msgspec.Meta(description="Also while the trial is paused.")] = False
    full: Annotated[bool, msgspec.Meta(description="Makes it live, whatever steps are left.")] = False


class Pause(_Message, frozen=True, kw_only=True, omit_defaults=True, tag="pause"):
    """Keeps a release on trial at its step: from then on, only a promotion that resumes it has an effect."""

    version: _Since2 = NEWEST


Message = Release | Activate | Abort | Promote | Pause

_DECODER: Final = msgspec.json.Decoder(Message)
_ENCODER: Final = msgspec.json.Encoder(order="deterministic")


_KINDS: Final = ("release", "activate", "abort", "promote", "pause")
_SINCE_2: Final = frozenset({"control_topic", "strategy"})


class _Versioned(msgspec.Struct):
    version: int


def encode(message: Message) -> bytes:
    """Returns the message as JSON. Raises ControlError when readers would refuse it: too large, or a malformed field."""
    fields = {"version": message.version, **msgspec.to_builtins(message)}  # written even when it is the default
    if isinstance(message, Release) and message.version > 1:
        fields["strategy"] = msgspec.to_builtins(message.strategy)  # likewise
    elif isinstance(message, Release) and message.strategy == SINGLE:
        fields.pop("strategy", None)  # version 1 implies it and has no such field
    data = _ENCODER.encode(fields)
    if len(data) > MAX_BYTES:
        raise ControlError(f"the message has {len(data):,} bytes, the limit is {MAX_BYTES:,}; shorten the reason, or set fewer parameters")
    try:
        parse(data)
    except ControlError as error:
        raise ControlError(f"every reader would refuse this message: {error}", code=error.code) from error
    return data


def parse(data: bytes) -> Message:
    """Returns the message. Raises ControlError with the defect; `.code` is `too-large`, `newer`, `malformed`, or one of rule 1."""
    if len(data) > MAX_BYTES:
        raise ControlError(f"a message of {len(data):,} bytes, the limit is {MAX_BYTES:,}", code="too-large")
    try:
        if _depth(data) > _DEPTH:  # the depth that a parser can reach depends on its caller
            raise ValueError(f"nested deeper than {_DEPTH}")
        version = msgspec.json.decode(data, type=_Versioned).version
        if version > NEWEST:
            raise ControlError(f"a message of version {version}; this Penstock reads up to {NEWEST}: upgrade it", code="newer")
        _check_version(version, json.loads(data, object_pairs_hook=_once))
        return cast(Message, _DECODER.decode(data))
    except (ValueError, RecursionError) as error:  # msgspec and json raise ValueErrors
        raise ControlError(f"not a control message: {error}", code="malformed") from error


def _check_version(version: int, fields: Mapping[str, Any]) -> None:
    """Checks rules 1 and 7 where the decoder ignores a field or fills in a default. Raises ControlError, or ValueError for `malformed`."""
    if version < 2:
        if later := sorted(_SINCE_2 & fields.keys()):
            raise ValueError(f"version 1 has no {' and no '.join(later)}; version 2 has")
        return
    kind = fields.get("kind")
    if isinstance(kind, str) and kind not in _KINDS:
        raise ControlError(f"a message of the kind {kind!r}; this Penstock knows {', '.join(_KINDS)}: upgrade it", code="unknown-kind")
    if kind == "release":
        if "strategy" not in fields:
            raise ValueError("from version 2 on, a release names its strategy")
        check_known(fields["strategy"])


# A whole string (an unclosed one up to the end, so that the scan is linear), or a bracket.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)


def _depth(data: bytes) -> int:
    """Returns the depth of the JSON, or 0 when it has too few brackets to be too deep."""
    if data.count(b"[") + data.count(b"{") <= _DEPTH:
        return 0
    depth = deepest = 0
    for token in _TOKEN.findall(data):
        if token in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token in b"]}":
            depth -= 1
    return deepest


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns a JSON object. Raises ValueError for a repeated name: two readers could take different values."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name appears twice in one object")
    return found


def json_schema() -> dict[str, Any]:
    """Returns the JSON Schema (draft 2020-12) of a message, published in `schemas/control.schema.json`."""
    (shape,), definitions = msgspec.json.schema_components([Message])
    for definition in definitions.values():
        properties = definition["properties"]
        if "version" in properties:
            later = sorted(_SINCE_2 & properties.keys())
            for name in ("version", *later):
                properties[name].pop("default", None)  # the default is for code that makes a message
            definition["required"].append("version")
            definition["if"] = {"properties": {"version": {"const": 1}}}
            definition["then"] = {"properties": dict.fromkeys(sorted(_SINCE_2), False)}
            definition["else"] = {"required": later}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Penstock control message",
        "description": "The value of a control topic's record, inside its signature (JWS).",
        **shape,
        "$defs": definitions,
    }


def new_id(*, ms: int | None = None, random: bytes | None = None) -> str:
    """Returns a new UUID of version 7: 48 bits of Unix time in ms, then random bits, so that ids sort by their time."""
    chance = random or os.urandom(10)
    bits = ((time.time_ns() // 1_000_000 if ms is None else ms) & (1 << 48) - 1) << 80 | int.from_bytes(chance)
    bits = bits & ~(0xF << 76) | 0x7 << 76
    return str(UUID(int=bits & ~(0x3 << 62) | 0x2 << 62))


def timestamp(seconds: float | None = None) -> str:
    """Returns a Unix time in seconds (default: now) as messages write it."""
    return datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
