"""The keyed state of one partition: many keys, each with bytes that its owner packs, and the standing of the whole.

1. Each key has the source offset up to which its bytes count. A row at or below it was counted, so a replay counts it once.
2. A checkpoint is one record per touched key, a tombstone per removed key, and then the standing. If it is cut off, the standing is that
   of the checkpoint before, and the keys that were written say for themselves what they count.
3. The standing holds the newest event time, from which the watermark follows. It moves only with the standing's offset: a replay makes
   the same decisions about late rows as the run before it.
4. A worker that was frozen may write a checkpoint after its successor has written later ones: of two values of a key the one that counts
   more is taken, and a standing behind the one before takes nothing back, nor do the tombstones before it remove anything. Only a standing
   that counts nothing does: the source has begun again, and nothing before it holds.
5. The name of a state says how its bytes are read. Another definition, or another format, is another name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final, NamedTuple, Protocol

from penstock.batch import Array

__all__ = ["KEY", "NEVER", "STANDING", "Entry", "Keyed", "Standing", "counted", "folded", "standing_entry"]

Entry = tuple[bytes, bytes | None]  # a record of the changelog: its key, and its value, None to remove the key

NEVER: Final = -(2**62)  # ms: before every event
STANDING: Final = b"\0"  # the changelog's key of the standing
KEY: Final = b"\1"  # the changelog's key of a key begins with it
_STANDING: Final = struct.Struct("<qq")


class Standing(NamedTuple):
    """All rows up to the source offset `offset` count; the newest event time among them is `latest`, ms since the epoch, UTC."""

    offset: int = -1
    latest: int = NEVER


class Keyed(Protocol):
    """The state of one partition, as the changelog and the local snapshot see it."""

    @property
    def name(self) -> str:
        """The name of the state: another one for another definition or format."""

    @property
    def standing(self) -> Standing: ...

    def __len__(self) -> int:
        """Returns how many keys it has."""

    def checkpoint(self, *, whole: bool = False) -> Iterator[Entry]:
        """Yields the records of what changed since the last time, the standing behind the keys; `whole`: of all keys.

        Take all of them before any other call. Those that are not taken come again the next time.
        """

    def reset(self) -> None:
        """Forgets all keys, with tombstones in the next checkpoint, and the standing: the source has begun again."""

    def restore(self, entries: Iterable[Entry]) -> None:
        """Applies records of the changelog, in their order. Raises ValueError for bytes that this state cannot have written."""

    def columns(self) -> Mapping[str, Array]:
        """Returns everything as arrays of numbers, not copied. Raises ValueError when a checkpoint is due: both must say the same."""

    def load(self, columns: Mapping[str, Array]) -> None:
        """Takes the arrays in place of everything, and keeps them. Raises ValueError for arrays that this state cannot have given."""


def standing_entry(standing: Standing) -> Entry:
    """Returns the last record of a checkpoint."""
    return STANDING, _STANDING.pack(*standing)


def counted(value: bytes) -> int:
    """Returns the source offset up to which the bytes of a key count, with which they begin."""
    return int.from_bytes(value[:8], "little", signed=True)


def folded(entries: Iterable[Entry], size: int, standing: Standing) -> Iterator[tuple[dict[bytes, bytes | None], Standing | None]]:
    """Yields what up to `size` records at a time leave: keys with their newest value, None where they are removed, and the last standing.

    `standing` is the one before them. Where the yielded one counts nothing, everything is forgotten, and there are no keys beside it.
    Raises ValueError for a record that no checkpoint has.
    """
    left = iter(entries)
    gone: dict[bytes, bytes | None] = {}  # until the standing of their checkpoint is known
    while some := [*islice(left, size)]:
        taken: dict[bytes, bytes | None] = {}
        newest: Standing | None = None
        for key, value in some:
            if key == STANDING:
                found = _read(value)
                if found.offset < 0:
                    taken, newest, standing = {}, None, found
                    yield {}, found
                elif found.offset >= standing.offset:
                    taken |= gone
                    newest = standing = found
                gone = {}
            elif not key.startswith(KEY):
                raise ValueError("a record of another topic")
            elif value is None:
                gone[key[1:]] = None
            else:
                name = key[1:]
                gone.pop(name, None)
                before = taken.get(name)
                if before is None or value[:8] == before[:8] or counted(value) >= counted(before):
                    taken[name] = value
        yield taken, newest
    if gone:
        yield gone, None


def _read(value: bytes | None) -> Standing:
    if value is None or len(value) != _STANDING.size:
        raise ValueError("the standing has another size")
    return Standing(*_STANDING.unpack(value))
