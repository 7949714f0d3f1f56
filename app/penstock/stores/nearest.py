"""The answers of a generation by the numbers of their keys, in memory, to find the nearest one.

Fields with a scale are compared as numbers, each difference divided by its scale; the distance is the square root of the sum of their
squares. All other fields have to be equal. An index holds at most LIMIT answers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from penstock.batch import Array
from penstock.schema import Field
from penstock.stores.base import Entry
from penstock.stores.keys import canonical, scaled

__all__ = ["LIMIT", "Nearest", "Stored"]

LIMIT: Final = 100_000
logger = logging.getLogger(__name__)


class Stored(msgspec.Struct, omit_defaults=True):
    """An answer as a store keeps it: the fields of each sink (None: the sink's `when` left the event out), and the inputs that it is of.

    Inputs have their names: of a generation that was made with another key, some are other fields.
    """

    sinks: dict[str, dict[str, Any] | None]
    inputs: dict[str, Any] | None = None


class Space:
    """The fields of a key as a place: numbers with a scale, and the rest, which has to be equal."""

    def __init__(self, fields: Sequence[Field], decimals: Mapping[str, int], scale: Mapping[str, float]) -> None:
        self.names = [field.name for field in fields]
        axes = [at for at, field in enumerate(fields) if field.name in scale]
        self._axes = [(at, scaled(fields[at], decimals.get(fields[at].name, 0)), float(scale[fields[at].name])) for at in axes]
        self._others = [at for at in range(len(fields)) if at not in axes]
        self._same = canonical([fields[at] for at in self._others], decimals)

    def place(self, values: Sequence[Any]) -> tuple[str, list[float]] | None:
        """Returns what has to be equal, and the scaled numbers; None where one of them is null."""
        numbers = [None if values[at] is None else number(values[at]) / scale for at, number, scale in self._axes]
        return None if None in numbers else (self._same([values[at] for at in self._others]), numbers)  # type: ignore[return-value]  # none is None

    def place_of(self, inputs: Mapping[str, Any]) -> tuple[str, list[float]] | None:
        """Returns the place of an answer that was kept; None where its inputs are not the fields of the key."""
        if inputs.keys() != {*self.names}:
            return None
        try:
            return self.place([inputs[name] for name in self.names])
        except (TypeError, ValueError, OverflowError):
            return None  # of another type


class Nearest:
    """The index of generation `number`. `full` is whether it holds all of it: else it answers nothing."""

    def __init__(self, space: Space, number: int, entries: Iterable[Entry]) -> None:
        self.number = number
        self._space = space
        decode = msgspec.json.Decoder(Stored).decode
        groups: dict[str, tuple[list[list[float]], list[bytes]]] = {}
        count = 0
        for _, answer in entries:
            count += 1
            try:
                inputs = decode(answer).inputs
            except msgspec.DecodeError:
                continue  # not an answer
            if inputs is not None and (place := space.place_of(inputs)) is not None:
                numbers, answers = groups.setdefault(place[0], ([], []))
                numbers.append(place[1])
                answers.append(answer)
        self.full = count <= LIMIT
        if not self.full:
            logger.warning("generation %d has more than %d answers: no nearest one is looked for", number, LIMIT)
            groups.clear()
        self._groups: dict[str, tuple[Array, list[bytes]]] = {same: (np.array(some), answers) for same, (some, answers) in groups.items()}

    def find(self, values: Sequence[Any]) -> bytes | None:
        """Returns the answer at the least distance from these inputs, where that is at most 1."""
        place = self._space.place(values)
        group = None if place is None else self._groups.get(place[0])
        if place is None or group is None:
            return None
        distances = ((group[0] - np.array(place[1])) ** 2).sum(axis=1)
        at = int(distances.argmin())
        return group[1][at] if distances[at] <= 1 else None
