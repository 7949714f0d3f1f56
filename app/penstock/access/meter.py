"""How much a caller may send: a token bucket of requests and one of rows, and the largest request.

A bucket is full at the start, holds what arrives in one second (but at least one request, and one request of the largest size), and
fills at its rate. So in any `t` seconds a caller is admitted for at most `capacity + rate * t`, and every request that is not too
large succeeds at some time.

A `Ledger` holds what is spent: a table of fixed size, in memory that the processes of one service can share.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from penstock.errors import RateLimited, TooLarge

__all__ = ["NO_LIMITS", "Ledger", "Limits", "Meter", "Spent"]

_ROUNDING: Final = 1e-9  # of a capacity: a request after exactly `retry_after` is admitted


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests and rows per second, and the most rows of one request; None: no limit."""

    requests: float | None = None
    rows: float | None = None
    request_rows: int | None = None


NO_LIMITS: Final = Limits()


class Spent(NamedTuple):
    """What is missing from the buckets of a caller, at a time (Unix, s)."""

    at: float
    requests: float
    rows: float


class Ledger:
    """What callers have spent: ROWS times WAYS entries. Where a row is full, the entry that was used least recently is dropped.

    With a path, every process that opens it sees the same entries, and a file lock on a row keeps two of them apart.
    """

    ROWS: Final = 4096
    WAYS: Final = 4

    def __init__(self, path: Path | None = None) -> None:
        size = self.ROWS * self.WAYS * _ENTRY.size
        self._file = -1
        if path is not None:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            os.ftruncate(self._file, size)
        self._table = mmap.mmap(self._file, size)

    def change(self, name: bytes, by: Callable[[Spent | None], Spent]) -> None:
        """Replaces the entry of this name (NAME bytes) by what `by` makes of it, or of None where it is missing."""
        row = int.from_bytes(name[:4]) % self.ROWS
        if self._file >= 0:
            fcntl.lockf(self._file, fcntl.LOCK_EX, 1, row)
        try:
            start = row * self.WAYS * _ENTRY.size
            entries = [_ENTRY.unpack_from(self._table, start + way * _ENTRY.size) for way in range(self.WAYS)]
            way = next((way for way, entry in enumerate(entries) if entry[0] == name), None)
            made = by(None if way is None else Spent(*entries[way][1:]))
            if way is None:
                way = min(range(self.WAYS), key=lambda one: entries[one][1])
            _ENTRY.pack_into(self._table, start + way * _ENTRY.size, name, *made)
        finally:
            if self._file >= 0:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, row)

    def close(self) -> None:
        self._table.close()
        if self._file >= 0:
            os.close(self._file)


NAME: Final = 16  # bytes of a name in a ledger
_ENTRY: Final = struct.Struct(f"<{NAME}sddd")  # the name, and what is spent


class Meter:
    """What one caller may send. `spend` takes from both buckets or from none."""

    __slots__ = ("_caller", "_ledger", "_name", "limits")

    def __init__(self, caller: str, limits: Limits, ledger: Ledger, *owner: str) -> None:
        """`owner` are further parts of the name under which the ledger has it: whose token it was, for example."""
        self.limits = limits
        self._caller, self._ledger = caller, ledger
        parts = "\x00".join((caller, *owner)).encode("utf-8", "surrogatepass")
        self._name = hashlib.blake2b(parts, digest_size=NAME).digest()

    @property
    def largest(self) -> float:
        """The most rows of one request: `request_rows`, else the rows of one second."""
        rows, request_rows = self.limits.rows, self.limits.request_rows
        if request_rows is not None:
            return request_rows
        return math.inf if rows is None else max(1.0, rows)

    @property
    def part(self) -> float:
        """The rows of a request for which a caller that sends one after the other waits a second at most."""
        return min(self.largest, max(1.0, self.limits.rows or math.inf))

    def spend(self, rows: int, now: float) -> None:
        """Takes one request of so many rows.

        Raises TooLarge, or RateLimited with the seconds until it can succeed; then nothing is taken. A clock that goes back fills nothing.
        """
        limits = self.limits
        most_requests, most_rows = max(1.0, limits.requests or 0.0), max(1.0, limits.rows or 0.0, limits.request_rows or 0)
        if rows > self.largest:
            limit = "`rows`, per second" if limits.request_rows is None else "`request_rows`"
            raise TooLarge(f"{rows} rows in one request; {self._caller} may send {self.largest:g} (its {limit}): split it")
        if limits.requests is None and limits.rows is None:
            return

        wait = 0.0

        def take(before: Spent | None) -> Spent:
            nonlocal wait
            left = before or Spent(now, 0.0, 0.0)
            passed = max(0.0, now - left.at)
            requests = spent = 0.0
            if limits.requests is not None:
                requests = max(0.0, left.requests - passed * limits.requests)
                wait = _wait(1, most_requests, requests, limits.requests)
            if limits.rows is not None:
                spent = max(0.0, left.rows - passed * limits.rows)
                wait = max(wait, _wait(rows, most_rows, spent, limits.rows))
            return Spent(now, requests, spent) if wait else Spent(now, requests + 1, spent + rows)

        self._ledger.change(self._name, take)
        if wait:
            raise RateLimited(f"{self._caller} has sent too much; again in {wait:.3g} s", retry_after=wait)


def _wait(amount: float, capacity: float, spent: float, rate: float) -> float:
    """Returns the seconds until this amount is in the bucket, 0 where it is."""
    return 0.0 if amount <= capacity * (1 + _ROUNDING) - spent else (amount - capacity + spent) / rate
