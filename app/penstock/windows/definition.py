"""What a window node computes, as a value: the keys, the aggregates, and the look-backs over which each of them is taken.

1. A feature of an event is an aggregate over the events of its key that came before it: their time is not after its time, and their
   offset is lower. So equal times are ordered by offset, and the features do not depend on how the input was cut into batches.
2. A look-back reaches back at least its length. Its end is exact and its begin lies on a multiple of the hop since the epoch, so it is
   less than one hop longer: a sawtooth window. With `exact`, it reaches back by its length, and every event is kept.
3. An event that arrives after a later one of its key sees whole hops only, those before its own: never the future.
4. A value that is not finite is null, and null is not counted.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

__all__ = ["Aggregate", "Definition", "Kind", "Late", "LookBack", "Part", "Sketch", "Track"]

Kind = Literal["count", "sum", "mean", "min", "max", "variance", "first", "last", "last_k", "rate", "since", "distinct", "quantile"]
Late = Literal["drop", "update"]
Sketch = Literal["distinct", "quantile"]
Part = Literal["sum", "m2", "min", "max", "first"] | Sketch  # those of Sketch have no cells: see penstock.windows.sketches

FORMAT: Final = 1  # of the bytes of a key: it goes into the name of the state
MOST_LAST: Final = 64
MOST_HOPS: Final = 4096

# What each kind reads of a partial, beside the number of its values. Those in _NEWEST read its newest values.
_READS: Final[dict[Kind, frozenset[Part]]] = {
    "count": frozenset(),
    "rate": frozenset(),
    "sum": frozenset({"sum"}),
    "mean": frozenset({"sum"}),
    "variance": frozenset({"sum", "m2"}),
    "min": frozenset({"min"}),
    "max": frozenset({"max"}),
    "first": frozenset({"first"}),
    "last": frozenset(),
    "last_k": frozenset(),
    "since": frozenset(),
    "distinct": frozenset({"distinct"}),
    "quantile": frozenset({"quantile"}),
}
_NEWEST: Final = frozenset({"last", "last_k", "since"})
_OF_EVENTS: Final = frozenset({"count", "rate", "since"})


@dataclass(frozen=True, slots=True)
class Aggregate:
    """An aggregate `kind` of the column `value`; of the events themselves where `value` is "". Only events with `where` count.

    `value` and `where` name float64 and bool columns. An expression is its own name, so that another expression is another state. The
    column of `distinct` is its own, of text, whole numbers, bool or floats: the different ones are counted. `quantile` is the number
    below which a share of `q` of the values lies.
    `variance` is that of a population. `last_k` are the newest `k` values, newest first. `rate` is in events per second, `since` are the
    seconds from the newest event to this one. Raises ValueError for what cannot be computed.
    """

    name: str
    kind: Kind
    value: str = ""
    where: str = ""
    k: int = 1
    q: float | None = None

    def __post_init__(self) -> None:
        if not self.value and self.kind not in _OF_EVENTS:
            raise ValueError(f"{self.name}: {self.kind} needs a value")
        if not 1 <= self.k <= MOST_LAST or (self.k != 1 and self.kind != "last_k"):
            raise ValueError(f"{self.name}: k is for last_k, from 1 to {MOST_LAST}")
        if (self.kind == "quantile") != (self.q is not None) or not 0 <= (self.q or 0) <= 1:
            raise ValueError(f"{self.name}: q is for quantile, from 0 to 1")


@dataclass(frozen=True, slots=True)
class LookBack:
    """The last `length` ms, in `hops` hops of equal length. Raises ValueError when they do not divide it."""

    name: str
    length: int
    hops: int = 12

    def __post_init__(self) -> None:
        if self.length < 1 or not 1 <= self.hops <= MOST_HOPS or self.length % self.hops:
            raise ValueError(f"{self.name}: {self.length} ms cannot be {self.hops} hops: from 1 to {MOST_HOPS}, each of whole milliseconds")

    @property
    def hop(self) -> int:
        """The length of a hop, ms."""
        return self.length // self.hops


@dataclass(frozen=True, slots=True, order=True)
class Track:
    """The values of one column under one filter, with the parts of a partial that the aggregates of them read, and the newest `last`."""

    value: str
    where: str
    parts: frozenset[Part]
    last: int


@dataclass(frozen=True, slots=True)
class Definition:
    """The features of a window node: `aggregates` over `look_backs`, by the fields `by`. Raises ValueError for what cannot be computed.

    An event is late when it is `lateness` ms behind the newest of its partition. It then gets the features that are still kept. Others
    see it only if `late` is `update`. An event is from the future when it is
    more than `ahead` ms after the caller's clock: it has no features, and nothing counts it. With `include_self`, an event's features
    include its own values. `about` is what else decides which rows there are, and when. When there are more keys than `cap`,
    those seen longest ago are removed until 1/32 of the room is free.
    """

    by: tuple[str, ...]
    aggregates: tuple[Aggregate, ...]
    look_backs: tuple[LookBack, ...]
    exact: bool = False
    include_self: bool = False
    late: Late = "drop"
    lateness: int = 0
    ahead: int = 3_600_000
    cap: int = 10_000_000
    about: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [self.feature(one, back) for one in self.aggregates for back in self.look_backs]
        if not self.by or not names:
            raise ValueError("a window needs keys, aggregates and look-backs")
        if len(set(names)) < len(names):
            raise ValueError("two features have one name")
        if {one.value for one in self.aggregates if one.kind == "distinct"} & {
            one.value for one in self.aggregates if one.kind != "distinct"
        }:
            raise ValueError("the column of a distinct count is of no other aggregate")
        if min(self.lateness, self.ahead) < 0 or self.cap < 1:
            raise ValueError("lateness and ahead are no less than 0, cap is at least 1")

    @staticmethod
    def feature(aggregate: Aggregate, back: LookBack) -> str:
        """Returns the name of a feature's column: `spent_5m`."""
        return f"{aggregate.name}_{back.name}"

    @property
    def tracks(self) -> tuple[Track, ...]:
        """What is kept, sorted, so that the order of the aggregates does not matter."""
        parts: dict[tuple[str, str], frozenset[Part]] = {}
        last: dict[tuple[str, str], int] = {}
        for one in self.aggregates:
            of = one.value, one.where
            parts[of] = parts.get(of, frozenset()) | _READS[one.kind]
            last[of] = max(last.get(of, 0), one.k if one.kind in _NEWEST else 0)
        return tuple(Track(*of, parts[of], last[of]) for of in sorted(parts))

    @property
    def state(self) -> str:
        """The name of the state: a digest of what its bytes depend on. A definition that keeps something else has another state."""
        tracks = [(one.value, one.where, sorted(one.parts), one.last) for one in self.tracks]
        backs = [(one.length, one.hops) for one in self.look_backs]
        kept = (FORMAT, self.by, tracks, backs, self.exact, self.late == "update", self.lateness, self.about)
        return hashlib.sha256(msgspec.json.encode(kept)).hexdigest()[:16]

    def ring(self, back: LookBack) -> int:
        """Returns how many hops of a look-back are kept: those that an event which is not late can see."""
        return back.hops + 1 + -(-self.lateness // back.hop)
