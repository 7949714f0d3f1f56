"""What a commit records beside the offset: the id of the topic, and how many partitions it had when the group began to read it.

Kafka names topics in its commits, so the offset of a topic that was deleted could be taken for one of a new topic of that name, and
records would be passed over. The id shows the difference. The number of partitions separates those that existed when the group
began, which `start_from` is for, from one that was added later and is read from its beginning, whichever worker finds it and whenever.

A commit of another program, such as kafka-consumer-groups, has no mark: its offset counts as it is.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Self

__all__ = ["Mark"]

_FORM: Final = re.compile(r"penstock topic=(?P<topic>[0-9a-f]*) partitions=(?P<partitions>\d{1,9})")


class Mark(NamedTuple):
    """`topic` is the topic's id, "" where brokers give none."""

    topic: str
    partitions: int

    def __str__(self) -> str:
        return f"penstock topic={self.topic} partitions={self.partitions}"

    @classmethod
    def read(cls, text: str | None) -> Self | None:
        """Returns the mark that a commit has; None without one."""
        found = _FORM.fullmatch(text or "")
        return None if found is None else cls(found["topic"], int(found["partitions"]))

    def of_another(self, topic: str) -> bool:
        """Returns whether it was made for another topic than the one with this id."""
        return bool(self.topic and topic and self.topic != topic)
