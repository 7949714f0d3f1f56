"""A worker's identity in its consumer group, which distinguishes its reports from forged ones: a key that lives as long as the process.

1. A worker makes a key pair at its start, and shows the public key with its name in the metadata of its group membership. The brokers
   hold it, and describe it to those who may describe the group: a client that may only write to topics cannot add to it.
2. It signs each report with the private key (`jws`, detached: the record's value stays plain JSON, which older readers read).
3. A reader that can describe the group believes a report of a worker only with the signature of that member. Every other report is of no
   member: it is shown, and counts for nothing. So is a report with a number that was read before.

No key has to be made, kept or trusted by a person. It proves that a member of the group wrote a report, not that the member is honest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from penstock.control.trust.jws import attached, detached, key_named, sign, verify
from penstock.control.trust.keys import SigningKey, from_text, key_id, public_key, to_text

__all__ = ["Group", "Identity", "Shown"]

_TYPE: Final = "penstock-status+json"
_SCHEME: Final = "penstock://worker/"


class Shown(NamedTuple):
    """What a member of the group shows: its worker's name, and its public key."""

    worker: str
    public: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Returns what the text shows; None for any other text, such as an older Penstock shows."""
        name, _, public = text.removeprefix(_SCHEME).partition("/")
        try:
            public_key(public)
            return cls(from_text(name.encode()).decode(), public) if text.startswith(_SCHEME) else None
        except ValueError:
            return None

    def wrote(self, value: bytes, signature: bytes) -> bool:
        """Returns whether the signature over a report is this member's."""
        try:
            sealed = attached(signature, value)
            head, _, _ = sealed.split(b".")
            signed, _, last = sealed.rpartition(b".")
            return key_named(head, _TYPE) == key_id(self.public) and verify(public_key(self.public), signed, last)
        except ValueError:
            return False


class Group(NamedTuple):
    """The members of the consumer groups, by worker; `plain` counts workers that show no identity: of an older Penstock."""

    members: Mapping[str, Shown]
    plain: int = 0

    @classmethod
    def of(cls, texts: Sequence[str], services: Sequence[str] = ()) -> Self:
        """Returns the members that show these texts, of the group of workers and of that of services. No service has a worker's name."""
        shown = [Shown.parse(text) for text in texts]
        found = [*filter(None, map(Shown.parse, services)), *filter(None, shown)]
        return cls({one.worker: one for one in found}, shown.count(None))


@dataclass(frozen=True)
class Identity:
    """The own side: `shown` is the text for the group's metadata."""

    worker: str
    key: SigningKey

    @classmethod
    def new(cls, worker: str) -> Self:
        return cls(worker, SigningKey.new(worker))

    @property
    def shown(self) -> str:
        name = to_text(self.worker.encode(errors="replace")).decode()
        return f"{_SCHEME}{name}/{self.key.public}"

    def sign(self, value: bytes) -> bytes:
        """Returns the signature of a report, for the record's header."""
        return detached(sign(value, self.key, _TYPE))
