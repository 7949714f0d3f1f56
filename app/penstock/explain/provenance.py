"""The content of the headers that a worker writes: the origin of a prediction, or the failure of a dead letter.

`pipeline` writes these headers. Any client that may write to the topic can write them too, so they are not proof.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from penstock.errors import Untraceable
from penstock.pipeline.letters import CANDIDATE, EVENT, EXPERIMENT, JOIN, OWN, SOURCE, STAGES, TRUNCATED, VARIANT
from penstock.record import Position, Record
from penstock.registry.names import NAME as MODEL
from penstock.registry.names import VERSION
from penstock.topology.names import NAME, RULE
from penstock.topology.spec import ModelRef

__all__ = ["DeadLetter", "Origin", "provenance"]

_STREAMS: Final = "__streams.errors."


@dataclass(frozen=True, slots=True)
class Origin:
    """What made a record: the topology and generation that made it, the exact version of each node, and the position of its event.

    Of a topology that is cut, `stages` has the generation of each stage that it has passed, and `read` is the position that the last of
    them has read. `rules` are the labels of the nodes that the topology itself computes: `rule:` and the beginning of their graph's digest.
    `missing` are the nodes whose outputs a join did without. `candidate` is the release on trial that has answered, "" for what is live.
    """

    topology: str
    generation: int
    models: Mapping[str, ModelRef]
    source: Position
    rules: Mapping[str, str] = field(default_factory=dict)
    stages: Mapping[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    read: Position | None = None
    candidate: str = ""

    @property
    def last(self) -> Position:
        """The position that the last stage has read."""
        return self.read or self.source


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be processed: the record as it came, where it failed (read, decode, a node, encode or send), and why.

    `origin` is what failed on it; None in a letter of an older version. `truncated`: the letter does not hold the whole record.
    """

    input: Record
    where: str
    message: str
    origin: Origin | None = None
    truncated: bool = False


def provenance(record: Record) -> Origin | DeadLetter:
    """Parses the headers. Raises Untraceable for a record without our headers, or with malformed ones."""
    said = {name: (value or b"").decode(errors="replace") for name, value in record.headers}
    try:
        if f"{OWN}stage" in said:  # a prediction never has it: headers of the input are not copied
            return _dead_letter(record, said)
        return _origin(said)
    except KeyError as error:
        raise Untraceable(f"{record.position}: no worker of Penstock wrote this record: it has no header {error.args[0]}") from None
    except ValueError as error:
        raise Untraceable(f"{record.position}: its headers are not as a worker of Penstock writes them: {error}") from None


def _dead_letter(record: Record, said: Mapping[str, str]) -> DeadLetter:
    names = [name for name, _ in record.headers]
    ours = max(at for at, name in enumerate(names) if name == f"{_STREAMS}exception")  # ours begin there; earlier ones belong to the input
    came = Position.parse("/".join(said[f"{_STREAMS}{part}"] for part in ("topic", "partition", "offset")), "/")
    there = Record(came.topic, record.value, record.key, record.headers[:ours], record.timestamp, came.partition, came.offset)
    origin = _origin(said, came) if f"{OWN}topology" in names[ours:] else None
    return DeadLetter(there, said[f"{OWN}stage"], said[f"{_STREAMS}message"], origin, TRUNCATED in names[ours:])


def _origin(said: Mapping[str, str], source: Position | None = None) -> Origin:
    topology = _matched(NAME, said[f"{OWN}topology"])  # the first that is missed: records of others have none of these
    made = [_version(one) for one in said[f"{OWN}models"].split(",") if one]  # windows have no versions
    return Origin(
        topology=topology,
        generation=int(_matched("[0-9]{1,15}", said.get(f"{OWN}generation", "0"))),
        models={node: version for node, version in made if isinstance(version, ModelRef)},
        source=source or Position.parse(said.get(EVENT) or said[SOURCE], "/"),
        rules={node: version for node, version in made if isinstance(version, str)},
        stages=dict(_stage(one) for one in said.get(STAGES, "").split(",") if one),
        read=Position.parse(said[SOURCE], "/") if source is None and EVENT in said else None,
        missing=_missing(said.get(JOIN, "")),
        candidate=said.get(EXPERIMENT, "") if said.get(VARIANT) == CANDIDATE else "",
    )


def _stage(text: str) -> tuple[str, int]:
    name, _, generation = text.partition("=")
    return _matched(NAME, name), int(_matched("[0-9]{1,15}", generation))


def _missing(text: str) -> tuple[str, ...]:
    """Returns the members that the joins of an event did without; there is a decision of each, with spaces between them."""
    parts = (part.partition("=")[::2] for decision in text.split(" ") for part in decision.split(";"))
    return tuple(_matched(NAME, one) for name, members in parts if name == "missing" for one in members.split(",") if one)


def _version(text: str) -> tuple[str, ModelRef | str]:
    node, _, reference = text.partition("=")
    if reference.startswith(("rule:", "window:", "lookup:")):
        return _matched(RULE, node), _matched("(rule|window|lookup):[0-9a-f]{12}", reference)
    name, _, version = reference.partition("@")
    return _matched(NAME, node), ModelRef(_matched(MODEL.pattern, name), _matched(VERSION.pattern, version))


def _matched(pattern: str, text: str) -> str:
    if re.fullmatch(pattern, text) is None:
        raise ValueError(f"{text[:100]!r}")
    return text
