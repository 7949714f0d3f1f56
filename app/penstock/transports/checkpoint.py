"""The checkpoint: how far a run over an input that has an end has come, in a file, so that a run that was ended goes on there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from penstock.errors import ConfigError, Problem
from penstock.host import write_whole
from penstock.transports.tracker import Partition

__all__ = ["Checkpoint"]


class _Kept(msgspec.Struct):
    """The content of a checkpoint file: what the run is; per TOPIC/PARTITION its position, end and finished records; output lengths."""

    about: dict[str, str]
    positions: dict[str, int]
    ends: dict[str, int]
    rows: dict[str, int]
    outputs: dict[str, int]


class _Flushed(Protocol):
    """Outputs that can be cut to a length, each topic's on its own."""

    def flush(self) -> dict[str, int]:
        """Writes everything to the disk. Returns the length of each topic's outputs, bytes."""


class Checkpoint:
    """The progress of a run, in a file beside its output; without `path`, in memory only.

    `about` says what the run is: its input, which part of it, with which models. `resume` takes up the progress of an earlier
    run. Raises ConfigError for a file that is not a checkpoint, and for one of a run with another `about`.
    """

    def __init__(self, path: Path | None = None, about: Mapping[str, str] | None = None, *, resume: bool = False) -> None:
        self.path = path
        self.outputs: dict[str, int] = {}
        self.sink: _Flushed | None = None  # the sink sets this; its outputs are written to the disk before a position is kept
        self._about = dict(about or {})
        self._positions: dict[str, int] = {}
        self._ends: dict[str, int] = {}
        self._rows: dict[str, int] = {}  # finished records
        self._taken: dict[str, dict[int, int]] = {}  # records before each position at which a span ends
        if resume and path is not None:
            try:
                data = path.read_bytes()
            except OSError as error:
                raise _not_one(str(path), error) from error
            self._load(data, str(path))

    def _load(self, data: bytes, where: str) -> None:
        """Takes up the progress of an earlier run."""
        try:
            kept = msgspec.json.decode(data, type=_Kept)
        except msgspec.DecodeError as error:
            raise _not_one(where, error) from error
        for name, value in self._about.items():
            if (before := kept.about.get(name, "")) != value:
                message = f"the run to resume has another {name}: {before or 'none'}, not {value or 'none'}"
                raise ConfigError(
                    Problem(where, 0, 0, message, "resume it with what it was started with, or begin anew with another --out")
                )
        self._positions, self._ends, self._rows, self.outputs = kept.positions, kept.ends, kept.rows, kept.outputs

    @property
    def rows(self) -> int:
        """The records that are finished, of all runs together."""
        return sum(self._rows.values())

    def start(self, partition: Partition) -> int | None:
        """Returns the position from which an earlier run goes on; None when there was none."""
        return self._positions.get(_name(partition))

    def end(self, partition: Partition, found: int) -> int:
        """Returns the end of the run's input: the one that an earlier run found, else `found`, which is kept."""
        return self._ends.setdefault(_name(partition), found)

    def before(self, partition: Partition, position: int) -> int:
        """Returns how many records lie before a position at which a span begins."""
        name = _name(partition)
        return self._taken.get(name, {}).get(position, self._rows.get(name, 0))

    def took(self, partition: Partition, start: int, end: int, rows: int) -> None:
        """`rows` records were taken between these positions."""
        self._taken.setdefault(_name(partition), {})[end] = self.before(partition, start) + rows

    def save(self, positions: Mapping[Partition, int] | None = None) -> None:
        """Writes the outputs to the disk, then the progress."""
        for partition, at in (positions or {}).items():
            name = _name(partition)
            self._positions[name] = at
            self._rows[name] = self.before(partition, at)
            self._taken[name] = {end: count for end, count in self._taken.get(name, {}).items() if end >= at}
        outputs = self.outputs if self.sink is None else self.sink.flush()
        self._write(msgspec.json.encode(_Kept(self._about, self._positions, self._ends, self._rows, outputs)))

    def _write(self, data: bytes) -> None:
        """Replaces the whole file."""
        if self.path is not None:
            write_whole(self.path, data, mode=0o644)

    def done(self) -> None:
        """Removes the file: the run has reached its end, and nothing is left to resume."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _not_one(where: str, error: Exception) -> ConfigError:
    return ConfigError(Problem(where, 0, 0, f"not a checkpoint: {error}", "remove it, and run without --resume"))


def _name(partition: Partition) -> str:
    return f"{partition[0]}/{partition[1]}"
