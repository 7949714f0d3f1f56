"""Compares what was sent with what came out: lost, doubled, out of order, from a generation that was over, with a wrong score. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

__all__ = ["Event", "Output", "Verdict", "judge"]


class Event(NamedTuple):
    """A record of the source topic."""

    id: int
    key: bytes
    partition: int
    poison: bool = False  # it has to become a dead letter


class Output(NamedTuple):
    """A record that a worker wrote: an answer, or a dead letter."""

    id: int
    partition: int
    letter: bool = False
    generation: int = 0
    model: str = ""
    factor: float = 0.0  # by which the model multiplied


@dataclass(frozen=True, slots=True)
class Verdict:
    """The ids of each kind of fault, each in the order in which it was found. One that was written n times is n - 1 times in `doubled`."""

    lost: tuple[int, ...] = ()  # without an output
    doubled: tuple[int, ...] = ()  # at least once allows some, so `wrong` leaves them out
    reordered: tuple[int, ...] = ()  # a reader that keeps the last answer per key would have kept an old one, or skipped one
    backwards: tuple[int, ...] = ()  # scored by an older generation than an answer before it in its partition
    strange: tuple[int, ...] = ()  # answered without having been sent
    misjudged: tuple[int, ...] = ()  # a good event as a dead letter, or a bad one with an answer
    misscored: tuple[int, ...] = ()  # not what the model named in the answer computes

    @property
    def wrong(self) -> Mapping[str, tuple[int, ...]]:
        """Returns what no delivery guarantee excuses, by kind."""
        found = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "doubled"}
        return {name: ids for name, ids in found.items() if ids}


def judge(events: Sequence[Event], outputs: Sequence[Output], factors: Mapping[str, float] | None = None) -> Verdict:
    """Judges the outputs of one run.

    `events` are in the order of the source and `outputs` in that of their topic, per partition. `factors` (model version -> factor),
    when given, holds what each version computes.
    """
    sent = {one.id: one for one in events}
    written = Counter(one.id for one in outputs)
    answers = [one for one in outputs if not one.letter]
    return Verdict(
        lost=tuple(id for id in sent if not written[id]),
        doubled=tuple(id for id, times in written.items() if id in sent for _ in range(times - 1)),
        reordered=tuple(_reordered(events, answers)),
        backwards=tuple(_backwards(answers)),
        strange=tuple(id for id in written if id not in sent),
        misjudged=tuple(one.id for one in outputs if one.id in sent and sent[one.id].poison != one.letter),
        misscored=() if factors is None else tuple(one.id for one in answers if factors.get(one.model) != one.factor),
    )


def _reordered(events: Iterable[Event], answers: Iterable[Output]) -> Iterable[int]:
    """A worker that takes over repeats from an earlier event on, and then repeats everything after it: an answer may go back any
    distance behind the answer before it, and forward by one event of its key. An answer that jumps over others came from a worker
    that was late. The last answer of a key belongs to its newest event.
    """
    answered = {one.id for one in answers}
    key_of: dict[int, bytes] = {}
    place: dict[int, int] = {}  # among the answered events of its key
    count: Counter[bytes] = Counter()
    for event in events:
        if event.id in answered and event.id not in place:
            key_of[event.id], place[event.id] = event.key, count[event.key]
            count[event.key] += 1
    last: dict[bytes, int] = defaultdict(lambda: -1)
    newest: dict[bytes, int] = {}
    for one in answers:
        if one.id in place:
            key = key_of[one.id]
            if place[one.id] > last[key] + 1:
                yield one.id
            last[key], newest[key] = place[one.id], one.id
    for key, id in newest.items():
        if last[key] != count[key] - 1:
            yield id


def _backwards(answers: Iterable[Output]) -> Iterable[int]:
    reached: dict[int, int] = defaultdict(int)
    for one in answers:
        if one.generation < reached[one.partition]:
            yield one.id
        reached[one.partition] = max(reached[one.partition], one.generation)
