"""What names may look like, and which known name a mistyped one probably means."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final

from penstock.topology.spec import Mark, Ref

__all__ = ["FIELD", "FIELD_PATH", "MODEL", "NAME", "REF", "RULE", "TOPIC", "any_of", "did_you_mean", "ref", "topic_problem"]

NAME: Final = r"^[A-Za-z_][A-Za-z0-9_-]{0,99}$"
FIELD: Final = r"^[A-Za-z_][A-Za-z0-9_]{0,199}(\.[A-Za-z_][A-Za-z0-9_]{0,199}){0,20}$"
RULE: Final = r"^[A-Za-z_][A-Za-z0-9_-]{0,99}\??$"  # that of a condition is its owner's name with a question mark
MODEL: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}@[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
LONGEST: Final = 200  # characters of a name that is compared with others: what callers send can have megabytes
TOPIC: Final = r"^[A-Za-z0-9._-]{1,249}$"
_INDEX: Final = r"\[[0-9]{1,6}\]"
FIELD_PATH: Final = rf"^[A-Za-z_][A-Za-z0-9_]{{0,199}}(\.[^\s\[\].]+|{_INDEX})*$"
# The part after a dot may come from any exporter (`dense/BiasAdd:0`), so only blanks, brackets and dots end it, or quotes around it.
REF: Final = rf'^[A-Za-z_][A-Za-z0-9_-]*(\.("[^"]+"|[^\s\[\]."]+)|{_INDEX})*$'
_HEAD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_LAST: Final = re.compile(r"\[([0-9]{1,6})\]$")


def ref(text: str, mark: Mark) -> Ref | None:
    """Splits `text` into a Ref; returns None when it is not a reference."""
    head = _HEAD.match(text)
    if head is None or not re.fullmatch(REF, text):
        return None
    last = _LAST.search(text)
    body = text[: last.start()] if last else text
    tail = body[head.end() :].removeprefix(".").replace('"', "")
    return Ref(text, head[0], tail or None, int(last[1]) if last else None, mark)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a fix for an unknown name: the closest known name, or all of them when they are few."""
    choices = list(dict.fromkeys(known))
    if len(name) <= LONGEST and (close := difflib.get_close_matches(name, choices, n=1)):
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(choices)}" if 0 < len(choices) <= 12 else ""


def any_of(names: Iterable[str]) -> str:
    return " or ".join(repr(name) for name in names)


def topic_problem(topic: str) -> str:
    """Returns why Kafka refuses `topic` as a name, or "" when it accepts it."""
    if topic in {".", ".."}:
        return f"{topic!r} is not a topic name"
    if topic.startswith("__"):
        return f"the topic {topic!r} is reserved: Kafka uses names that begin with two underscores"
    if len(topic) > 249:
        return f"the topic name {topic[:40]!r}... has {len(topic)} characters, Kafka allows 249"
    return "" if re.fullmatch(TOPIC, topic) else f"the topic {topic!r} has characters that Kafka does not allow"
