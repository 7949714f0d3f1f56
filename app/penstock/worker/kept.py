"""What a reading program keeps of the control log on disk: with it, and with the cache of models, it starts while the brokers are away.

1. The file has the admitted entries as the brokers returned them, with their signatures. A start folds them again, by the keys that are
   trusted then: a message of a key that was revoked before it was sent is refused, as it would be on the log itself.
2. It is written whole or not at all, in a folder that only this user may write to, with a checksum: a damaged file is not used.
3. The file's time is when the brokers last confirmed that the log was read to its end.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path
from typing import Final

import msgspec

from penstock.binding import Binding
from penstock.errors import ControlError
from penstock.host import private_folder, read_regular, write_whole
from penstock.transports.kafka.journal import Entry

__all__ = ["Keeper", "Kept"]

VERSION: Final = 1
LIMIT: Final = 256 * 1024**2  # bytes of the file
TOUCH: Final = 10.0  # seconds between two changes of the file's time


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The log of one topic of one cluster up to `position`; `id` is the topic's, "" where brokers give none.

    `file` is generation 0, by node: what the topology file named, and the version in the cache that this was.
    """

    cluster: str
    topic: str
    id: str = ""
    position: int
    entries: tuple[Entry, ...]
    file: dict[str, tuple[str, Binding]] = {}
    version: int = VERSION


class Keeper:
    """The file of one control topic, in the folder `cache`. Raises SettingsError when other users may write there."""

    def __init__(self, cache: Path, brokers: str, topic: str) -> None:
        self._topic = topic
        self._touched = 0.0
        name = hashlib.sha256(f"{brokers}\n{topic}".encode()).hexdigest()[:32]
        self.file = private_folder(cache.expanduser() / "control") / f"{name}.json"

    def load(self) -> Kept | None:
        """Returns what was kept last; None before anything was. Raises ControlError for a file that cannot be used."""
        try:
            digest, _, body = read_regular(self.file, LIMIT).partition(b"\n")
            if digest != _digest(body):
                raise ControlError(f"{self.file} is damaged: its content has another checksum")
            found = msgspec.json.decode(body, type=Kept)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ControlError(f"{self.file} cannot be used: {error}") from error
        if found.topic != self._topic or found.version != VERSION:
            raise ControlError(f"{self.file} is of the topic {found.topic} in version {found.version}")
        return found

    def save(self, kept: Kept) -> None:
        """Replaces what was kept. Raises OSError."""
        body = msgspec.json.encode(kept)
        write_whole(self.file, _digest(body) + b"\n" + body)

    def confirm(self) -> None:
        """Notes that what was kept last is the whole log now."""
        if time.monotonic() - self._touched > TOUCH:
            self._touched = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self.file)

    def age(self) -> float:
        """Returns the seconds since the log was confirmed last, by this host's clock. Raises OSError."""
        return max(time.time() - self.file.stat().st_mtime, 0.0)


def _digest(body: bytes) -> bytes:
    return f"sha256:{hashlib.sha256(body).hexdigest()}".encode()
