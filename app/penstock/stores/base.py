"""The contract of a store of answers, by topology and key.

1. Answers are written into a **generation**: `begin` makes one, `activate` makes it the live one. Until then no reader sees it.
2. One read sees one generation: that which was live at some moment of the read. `activate` is one atomic change, also for readers that
   are reading; after it returned, no read begun later sees the former generation.
3. At most one generation per topology is being built. `begin` takes over: what another run builds is removed, and its next `write`,
   `keep` or `activate` raises Superseded. So two runs at once cannot mix.
4. Writing the same key again replaces its answer; a repeated write changes nothing.
5. An answer with an age limit is not read after it. Limits are in whole seconds from the write.
6. `keep` stores the progress of the run that builds a generation, and returns once everything written before is stored, too.
7. `read` and `add` never wait longer than the timeout that the store was opened with, up to a factor of its round trips.
8. Errors: TransportUnavailable when the store is away, AccessRefused for a login, ConfigError for what a person has to set up. A store
   in which nothing was ever computed is no error: there is no live generation.

Every method may be called from any thread. Names of topologies and keys are text without null characters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from penstock.errors import ControlError

__all__ = ["MISSES", "Building", "Entry", "Generation", "Read", "Store", "Superseded"]

MISSES: Final = 10_000  # that a store keeps per topology; further ones are not recorded
Entry = tuple[str, bytes]  # key, answer


class Generation(msgspec.Struct, frozen=True):
    """A set of answers: its number, what computed it (`about`, see `answers.About`), when it became live (s since the epoch), and the
    age limit of its answers in seconds (0: none).
    """

    number: int
    about: str
    since: float = 0.0
    ttl: int = 0


class Building(NamedTuple):
    """A generation that is being built: its number, what it is, and the progress of its run, as `keep` was given it last."""

    number: int
    about: str
    progress: bytes


class Read(NamedTuple):
    """The live generation (None: nothing was computed yet), and the answer of each key, or None."""

    live: Generation | None
    answers: Sequence[bytes | None]


class Superseded(ControlError):
    """Another run has begun to build a generation of this topology, or has made a newer one live."""

    def __init__(self, topology: str, number: int) -> None:
        super().__init__(
            f"another run computes answers of {topology}: what generation {number} held is removed, and the live one stays",
            code="superseded",
        )


class Store(Protocol):
    """Where answers are kept; see the rules above. `where` is its address, without a password."""

    where: str

    def begin(self, topology: str, about: str) -> int:
        """Returns the number of a new generation, greater than all before; tables are made where they are missing."""

    def building(self, topology: str) -> Building | None:
        """Returns the generation that is being built."""

    def write(self, topology: str, number: int, entries: Sequence[Entry], ttl: int = 0) -> None:
        """Writes answers into the generation that is being built. Raises Superseded."""

    def keep(self, topology: str, number: int, progress: bytes) -> None:
        """Stores the progress of the run. Raises Superseded."""

    def activate(self, topology: str, number: int, *, since: float, ttl: int = 0) -> None:
        """Makes the generation that is being built the live one, then removes all older ones. Raises Superseded."""

    def live(self, topology: str) -> Generation | None:
        """Returns the live generation."""

    def read(self, topology: str, keys: Sequence[str]) -> Read:
        """Returns the answers of these keys in the live generation, in one round trip where the store can."""

    def add(self, topology: str, number: int, entries: Sequence[Entry], ttl: int = 0) -> bool:
        """Adds answers to the live generation. Returns False, and adds nothing, when another one is live."""

    def scan(self, topology: str, number: int, limit: int) -> Iterator[Entry]:
        """Yields answers of a generation, at most `limit`, in no order."""

    def miss(self, topology: str, events: Mapping[str, bytes]) -> None:
        """Records events, by key, that had no answer: each key once, and at most about MISSES of them."""

    def misses(self, topology: str) -> dict[str, bytes]:
        """Returns the recorded events, by key."""

    def forget(self, topology: str, keys: Sequence[str]) -> None:
        """Removes recorded events."""

    def close(self) -> None:
        """Ends the connections."""
