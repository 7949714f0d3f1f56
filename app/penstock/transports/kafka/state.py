"""The state of a source, as values: the monitoring pages, the status topic and the watchdog are computed from it.

Taken when a caller asks, from the last answers of the brokers. It costs the loop nothing in between.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.transports.tracker import Partition

__all__ = ["PartitionState", "SourceState"]


@dataclass(frozen=True, slots=True)
class PartitionState:
    """One assigned partition. `position` is the next offset to take.

    `end` is the last stable offset: later records belong to transactions that have not ended, and cannot be read
    yet. `heard` and `newest` are seconds since the epoch: when a fetch was answered last, and the timestamp of the newest
    record that was taken. None: not known yet. `leader` is whether a broker leads the partition. `slowed`: too many of its records
    fail, so that it is kept to `dead_letter_rate`. `waits`: it is not read until others, with which it is joined, have
    caught up with it.
    """

    partition: Partition
    position: int
    end: int | None = None
    heard: float | None = None
    newest: float | None = None
    leader: bool = True
    slowed: bool = False
    waits: bool = False

    @property
    def backlog(self) -> int | None:
        """Returns how many offsets a read-committed reader has yet to read; None before the first answer."""
        return None if self.end is None else max(self.end - self.position, 0)

    def seconds_behind(self, now: float) -> float | None:
        """Returns the age of the newest record taken, 0 without a backlog; None when that is not known."""
        if self.backlog == 0:
            return 0.0
        return None if self.backlog is None or self.newest is None else max(now - self.newest, 0.0)


@dataclass(frozen=True, slots=True)
class SourceState:
    """The whole source. `settled`: an assignment is complete, and no rebalance has begun since.

    `room`: more may be taken; otherwise back-pressure waits for acknowledgements. `withheld`: why nothing is taken, scored or sent until a
    heartbeat or a commit has succeeded; empty otherwise. `answering`: the brokers answered when they were asked last. `missing` are
    topics to read, to write or of releases that the brokers do not have; `unled` are topics to write that have a partition without a
    leader.
    """

    settled: bool
    room: bool
    in_flight: int
    answering: bool
    missing: tuple[str, ...] = ()
    unled: tuple[str, ...] = ()
    partitions: tuple[PartitionState, ...] = ()
    withheld: str = ""
