"""A clock for code that takes one."""

from __future__ import annotations

__all__ = ["Clock"]


class Clock:
    """Seconds that pass when a test adds them to `now`."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
