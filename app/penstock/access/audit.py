"""The audit log of the service: one JSON object per line, about who did what; never a payload, a key or a token.

1. A line has at most LINE bytes, ASCII only: texts of callers are cut, and control characters are escapes. So one line is one event,
   and one write, which no other process's write to the file can split.
2. The file is appended to. It is opened again when its name leads to another file, as after a rotation by the system.
3. A call that changes releases has a line before it, with the outcome BEGUN. When that cannot be written (a full disk), the call is not
   made: `wrote` raises AuditLost. Other lines that are lost are counted, and logged at most every QUIET seconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Final, Self

from penstock.control.rights import RELEASES
from penstock.errors import AuditLost, ConfigError, Problem

__all__ = ["BEGUN", "LINE", "Audit"]

logger = logging.getLogger(__name__)

BEGUN: Final = "begun"  # the outcome of a call that is about to be made
LINE: Final = 4096  # bytes, with the line end
LOOK: Final = 1.0  # seconds between two looks at where the name leads
QUIET: Final = 10.0  # least seconds between two log records about lost lines
_TEXT: Final = 340  # bytes of one text on the line: ten of them, and the rest, fit into LINE


class Audit:
    """An audit log that is open. `lost` counts the lines that could not be written. `clock` returns Unix time in seconds."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self.path = path
        self.lost = 0
        self._clock = clock
        self._file = -1
        self._looked = clock()
        self._told = -QUIET
        self._torn = False
        self._second = (-1, "")

    @classmethod
    def open(cls, path: Path, clock: Callable[[], float]) -> Self:
        """Opens the file, which only this user can read where it is made. Raises ConfigError when it cannot be written."""
        audit = cls(path.expanduser(), clock)
        try:
            audit._open()
        except OSError as error:
            problem = f"the audit log cannot be written: {error.strerror}"
            raise ConfigError(Problem(str(path), 0, 0, problem, "name another file with audit")) from None
        return audit

    def wrote(
        self, *, caller: str, call: str, outcome: str, subject: str = "", proof: str = "", topology: str = "", model: str = "",
        version: str = "", generation: int | None = None, rows: int | None = None, request: str = "", address: str = "",
    ) -> None:  # fmt: skip
        """Writes one line. `call` is a right (`control.rights`); `outcome` is `ok`, or the code of the error that was answered.

        For a call that changes releases, write one line with the outcome BEGUN before it: when the file cannot be written this raises
        AuditLost, and the call must not be made.
        """
        now = self._clock()
        texts = {
            "time": self._time(now), "caller": caller, "subject": subject, "proof": proof, "call": call, "topology": topology,
            "model": model, "version": version, "outcome": outcome, "request": request, "address": address,
        }  # fmt: skip
        fields = [f'"{name}":{_text(value)}' for name, value in texts.items() if value]
        fields += [f'"{name}":{number:d}' for name, number in (("generation", generation), ("rows", rows)) if number is not None]
        line = f"{{{','.join(fields)}}}\n".encode("ascii")
        matters = call in RELEASES
        try:
            self._write(line, now, matters)
        except OSError as error:
            self._lose(error, now)
            if matters and outcome == BEGUN:
                raise AuditLost(f"the audit log cannot be written ({error.strerror}), so this call is not made") from None

    def reopen(self) -> None:
        """Opens the file again at the next line: for a signal after a rotation."""
        self._looked = -LOOK

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _write(self, line: bytes, now: float, matters: bool) -> None:
        if self._file < 0 or matters or not 0 <= now - self._looked < LOOK:
            self._looked = now
            self._follow()
        data = b"\n" + line if self._torn else line
        written = os.write(self._file, data)
        if written < len(data):  # the disk is full: what is there of the line is ended before the next one
            self._torn = True
            written += os.write(self._file, data[written:])
        self._torn = written < len(data)
        if self._torn:
            raise OSError(28, "No space left on device")
        if matters:
            os.fsync(self._file)

    def _follow(self) -> None:
        """Opens the file that the name leads to, unless it is open. One that was renamed is left: it may be deleted next."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                there, here = os.stat(self.path), os.fstat(self._file)
                if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
                    return
            self.close()
        self._open()

    def _open(self) -> None:
        opened = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            os.close(opened)
            raise OSError(22, "it is no regular file")
        self.close()
        self._file = opened
        self._torn = False

    def _time(self, now: float) -> str:
        """Returns the time as ISO 8601, UTC. Most lines have the same second as the one before."""
        second = int(now)
        if second != self._second[0]:
            self._second = (second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)))
        return f"{self._second[1]}.{int((now - second) * 1000):03d}Z"

    def _lose(self, error: OSError, now: float) -> None:
        self.lost += 1
        if not 0 <= now - self._told < QUIET:
            self._told = now
            logger.error("the audit log %s cannot be written (%s); %d lines are lost so far", self.path, error.strerror, self.lost)


def _text(value: str) -> str:
    """Returns a JSON string of at most _TEXT bytes, in ASCII."""
    text = encode_basestring_ascii(value[:_TEXT]).replace("\x7f", "\\u007f")
    if len(text) <= _TEXT:
        return text
    kept = value[: _TEXT // 12 - 1]  # a character takes 12 bytes at most, as two escapes
    return encode_basestring_ascii(kept + "...").replace("\x7f", "\\u007f")
