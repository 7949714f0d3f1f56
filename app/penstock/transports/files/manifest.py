"""The manifest of a run: what it reads, how far it has come, which parts it has written. A file beside the outputs, replaced whole.

While `complete` is false, only the parts that it names count: others are of a run that was ended, and are removed when it goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import msgspec

from penstock.errors import ConfigError, Problem
from penstock.transports.checkpoint import Part, Unit
from penstock.transports.files.places import Place

__all__ = ["Manifest"]


class Manifest(msgspec.Struct):
    """`about` says what the run is: its input, which part of it, with which models. `files` are those of the input, with their bytes."""

    about: dict[str, str]
    files: list[tuple[str, int]] = []
    units: list[Unit] = []
    parts: list[Part] = []
    complete: bool = False

    @classmethod
    def load(cls, place: Place) -> Self | None:
        """Returns what the file holds, None when there is no such file. Raises ConfigError for a file that is no manifest."""
        data = place.read()
        if data is None:
            return None
        try:
            return msgspec.json.decode(data, type=cls)
        except msgspec.DecodeError as error:
            raise ConfigError(
                Problem(str(place), 0, 0, f"not a manifest: {error}", "remove the output, and run without --resume")
            ) from error

    def check(self, place: Place, about: Mapping[str, str]) -> None:
        """Raises ConfigError for the manifest of a run that is another one."""
        for name, value in about.items():
            if (before := self.about.get(name, "")) != value:
                message = f"the run to resume has another {name}: {before or 'none'}, not {value or 'none'}"
                fix = "resume it with what it was started with, or begin anew with another --out"
                raise ConfigError(Problem(str(place), 0, 0, message, fix))

    def keep(self, units: Sequence[Unit], parts: Sequence[Part]) -> None:
        """Takes up the progress of some units, and the parts that they have caused."""
        known = {(one.topic, one.partition, one.start): at for at, one in enumerate(self.units)}
        for unit in units:
            at = known.get((unit.topic, unit.partition, unit.start))
            if at is None:
                self.units.append(unit)
            else:
                self.units[at] = unit
        self.parts += parts

    def renew(self, number: int, size: int) -> bool:
        """Takes a file as it is now, with `size` bytes. Returns False, and takes nothing, where rows of it are finished."""
        units = [at for at, one in enumerate(self.units) if one.partition == number]
        if any(self.units[at].rows or self.units[at].at > self.units[at].start for at in units):
            return False
        topic = self.units[units[0]].topic
        self.units = [Unit(topic, number) if at == units[0] else one for at, one in enumerate(self.units) if at not in units[1:]]
        self.files[number] = self.files[number][0], size
        return True

    def save(self, place: Place) -> None:
        """Replaces the file."""
        place.write(msgspec.json.format(msgspec.json.encode(self), indent=1))

    def sizes(self, unit: Unit) -> int:
        """Returns about how many bytes of its file a unit has; at least 1."""
        return max(self.files[unit.partition][1] // sum(one.partition == unit.partition for one in self.units), 1)

    @property
    def read(self) -> int:
        """The records that are finished."""
        return sum(one.rows for one in self.units)

    @property
    def written(self) -> int:
        """The outputs in all parts."""
        return sum(one.rows for one in self.parts if not one.dead)

    @property
    def failed(self) -> int:
        """The dead letters in all parts."""
        return sum(one.rows for one in self.parts if one.dead)
