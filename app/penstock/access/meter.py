"""How much a caller may send: a token bucket of requests and one of rows, and the largest request.

A bucket is full at the start, holds what arrives in one second (but at least one request, and one request of the largest size), and
fills at its rate. So in any `t` seconds a caller is admitted for at most `capacity + rate * t`, and every request that is not too
large succeeds at some time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from penstock.errors import RateLimited, TooLarge

__all__ = ["NO_LIMITS", "Limits", "Meter"]

_ROUNDING: Final = 1e-9  # of a capacity: a request after exactly `retry_after` is admitted


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests and rows per second, and the most rows of one request; None: no limit."""

    requests: float | None = None
    rows: float | None = None
    request_rows: int | None = None


NO_LIMITS: Final = Limits()


class Meter:
    """What one caller has left. `spend` takes from both buckets or from none."""

    __slots__ = ("_at", "_caller", "_requests", "_rows", "limits")

    def __init__(self, caller: str, limits: Limits, now: float) -> None:
        self._caller = caller
        self.limits = limits
        self._at = now
        self._requests, self._rows = _capacities(limits)

    def spend(self, rows: int, now: float) -> None:
        """Takes one request of so many rows.

        Raises TooLarge, or RateLimited with the seconds until it can succeed; then nothing is taken. A clock that goes back fills nothing.
        """
        limits = self.limits
        if limits.request_rows is not None and rows > limits.request_rows:
            raise TooLarge(f"{rows} rows in one request; {self._caller} may send {limits.request_rows}: split it")
        if limits.requests is None and limits.rows is None:
            return
        most_requests, most_rows = _capacities(limits)
        if limits.rows is not None and rows > most_rows:
            raise TooLarge(f"{rows} rows in one request; {self._caller} may send {most_rows:g}: split it")
        passed, self._at = max(0.0, now - self._at), now
        wait = 0.0
        if limits.requests is not None:
            self._requests = min(most_requests, self._requests + passed * limits.requests)
            wait = _wait(1, self._requests, limits.requests, most_requests)
        if limits.rows is not None:
            self._rows = min(most_rows, self._rows + passed * limits.rows)
            wait = max(wait, _wait(rows, self._rows, limits.rows, most_rows))
        if wait:
            raise RateLimited(f"{self._caller} has sent too much; again in {wait:.3g} s", retry_after=wait)
        self._requests -= 1
        self._rows -= rows

    def limited_to(self, limits: Limits) -> None:
        """Takes other limits from now on; what is spent stays spent."""
        if limits != self.limits:
            before, now = _capacities(self.limits), _capacities(limits)
            spent_requests, spent_rows = before[0] - self._requests, before[1] - self._rows
            self._requests, self._rows = max(0.0, now[0] - spent_requests), max(0.0, now[1] - spent_rows)
            self.limits = limits


def _capacities(limits: Limits) -> tuple[float, float]:
    return max(1.0, limits.requests or 0.0), max(1.0, limits.rows or 0.0, limits.request_rows or 0)


def _wait(amount: float, level: float, rate: float, capacity: float) -> float:
    return 0.0 if amount <= level + capacity * _ROUNDING else (amount - level) / rate
