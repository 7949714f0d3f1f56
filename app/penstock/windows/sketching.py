"""Rows through the sketches of a key, beside its cells: what each row reads of the hops that it sees, and what the rows add to theirs.

`fold` goes before the cells are folded, whose rules it follows (`penstock.windows.rounds`), and `keep` goes after that, when each hop has
its tile. Windows with few values are read together, in columns; the others one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from penstock.batch import Array
from penstock.state.base import NEVER
from penstock.windows.definition import Sketch
from penstock.windows.partials import Layout
from penstock.windows.rings import Rings
from penstock.windows.rows import Mark, Rows
from penstock.windows.sketches import CELL, NOTHING, Kept, added, estimate, plain, read

__all__ = ["Change", "fold", "keep"]


@dataclass(slots=True)
class Change:
    """What a key holds of a look-back: the sketches of its hops by track, and the newest hop of its ring.

    `changed` are the hops whose sketches are new, `tiles` those that the ring has, `passed` those of hops that have left it.
    """

    slot: int
    back: int
    top: int = NEVER
    hops: dict[int, list[Kept]] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)
    tiles: dict[int, int] = field(default_factory=dict)
    passed: list[int] = field(default_factory=list)

    def advance(self, hop: int, places: int) -> None:
        """Moves the ring on to this hop."""
        self.top = hop
        for old in [one for one in self.hops if one <= hop - places]:
            del self.hops[old]
            self.changed.discard(old)
            if old in self.tiles:
                self.passed.append(self.tiles.pop(old))


@dataclass(slots=True)
class _Track:
    """A track with sketches, what is read of it (the place of each answer, and its q), and the windows that are read as they are.

    `cells` are the bytes of the rows' values, `takes` which rows it counts. `found` are values, `at` the row and look-back of each.
    """

    kind: Sketch
    readings: list[tuple[int, float]]
    cells: bytes
    takes: list[bool]
    found: list[bytes] = field(default_factory=list)
    at: list[int] = field(default_factory=list)

    def value(self, row: int) -> bytes:
        """Returns the bytes of a row's value, b"" where it has none."""
        return self.cells[row * CELL : row * CELL + CELL] if self.takes[row] else b""


def fold(rings: Rings, newest: Array, rows: Rows, into: Array, *, include_self: bool) -> list[Change]:
    """Sets what each row reads (`into`, float64 [N, look-backs, readings]), and returns what the rows that count change.

    `newest` int64 [slots] is the newest time of each key before these rows.
    """
    tracks = _tracks(rings.layout, rows)
    changes: list[Change] = []
    some: list[bool] = np.asarray(rows.takes.any(axis=0)).tolist()
    counts: list[bool] = (rows.marks & Mark.COUNTED != 0).tolist()
    members = _by_slot(rows)
    whole = _whole(newest, rows, counts, members)
    for back, (length, hops, places) in enumerate(rings.hops.tolist()):
        at_hop, horizon = rows.times // length, rows.latest // length - places + 1
        hop_of, horizon_of, low_of = at_hop.tolist(), horizon.tolist(), np.maximum(at_hop - hops, horizon).tolist()
        for slot, at in members:
            held = _held(rings, slot, back)
            for row in at:
                hop, low = hop_of[row], low_of[row]
                high = min(hop - whole[row], held.top)
                seen = [one for one in held.hops if low <= one <= high]
                for number, track in enumerate(tracks):
                    own = track.value(row) if include_self else b""
                    values = plain([held.hops[one][number] for one in seen])
                    if values is None:
                        before = [held.hops[one][number] for one in sorted(seen) if one < hop]
                        digest, recent = held.hops[hop][number] if hop in seen else NOTHING
                        answers = estimate(track.kind, before, Kept(digest, recent + own), [q for _, q in track.readings])
                        for (place, _), answer in zip(track.readings, answers, strict=True):
                            into[row, back, place] = answer
                    elif values or own:
                        track.found.append(values + own)
                        track.at.append(row * len(rings.hops) + back)
                if counts[row] and hop >= horizon_of[row]:
                    if hop > held.top:
                        held.advance(hop, places)
                    if some[row]:
                        _add(held, hop, row, tracks)
            if held.changed or held.passed:
                changes.append(held)
    _read(rings.layout, tracks, into)
    return changes


def keep(rings: Rings, changes: Sequence[Change]) -> None:
    """Takes the changes, when the cells are folded."""
    assert rings.sketches is not None, "what is folded is kept"
    for held in changes:
        rings.sketches.clear(held.passed)
    changed = [(held.slot, held.back, hop) for held in changes for hop in held.changed]
    slots, backs, hops = np.array(changed, np.int64).reshape(-1, 3).T
    tiles = rings.ring[slots, rings.begins[backs] + hops % rings.hops[backs, 2]].tolist()
    for tile, sketches in zip(tiles, (held.hops[hop] for held in changes for hop in held.changed), strict=True):
        rings.sketches.put(tile, sketches)


def _tracks(layout: Layout, rows: Rows) -> list[_Track]:
    made: dict[int, _Track] = {}
    for place, (track, kind, q) in enumerate(layout.readings):
        if track not in made:
            values, takes = rows.values[layout.tracks[track].column], rows.takes[track]
            made[track] = _Track(kind, [], values.astype("<f8").tobytes(), takes.tolist())
        made[track].readings.append((place, q))
    return [*made.values()]


def _by_slot(rows: Rows) -> list[tuple[int, list[int]]]:
    """Returns the rows of each slot, in their order, without those of the future; rows of keys without a state are at slot -1."""
    seen = np.flatnonzero(rows.marks & Mark.FUTURE == 0)
    order = seen[np.argsort(rows.slots[seen], kind="stable")]
    slots = rows.slots[order]
    ends = [*(np.flatnonzero(slots[1:] != slots[:-1]) + 1).tolist(), len(order)] if len(order) else []
    return [(int(slots[begin]), order[begin:end].tolist()) for begin, end in pairwise([0, *ends])]


def _whole(newest: Array, rows: Rows, counts: Sequence[bool], members: Sequence[tuple[int, Sequence[int]]]) -> list[bool]:
    """Returns which rows see whole hops only: replays, and those behind a later row of their key."""
    whole: list[bool] = (rows.marks & Mark.REPLAYED != 0).tolist()
    times = rows.times.tolist()
    for slot, at in members:
        latest = int(newest[slot]) if slot >= 0 else NEVER
        for row in at:
            whole[row] |= times[row] < latest
            latest = max(latest, times[row]) if counts[row] else latest
    return whole


def _held(rings: Rings, slot: int, back: int) -> Change:
    """Returns what the key at the slot holds; nothing at slot -1."""
    held = Change(slot, back)
    if slot >= 0 and rings.sketches is not None:
        begin, places, held.top = int(rings.begins[back]), int(rings.hops[back, 2]), int(rings.top[slot, back])
        for place, tile in enumerate(rings.ring[slot, begin : begin + places].tolist()):
            if tile:
                hop = held.top - (held.top - place) % places
                held.tiles[hop], held.hops[hop] = tile, rings.sketches.at(tile)
    return held


def _add(held: Change, hop: int, row: int, tracks: Sequence[_Track]) -> None:
    """Adds the values of a row to its hop. A hop that is new is kept in any case: its tile may have been that of another."""
    sketches = held.hops.setdefault(hop, [NOTHING] * len(tracks))
    held.changed.add(hop)
    for number, track in enumerate(tracks):
        if track.takes[row]:
            sketches[number] = added(track.kind, sketches[number], track.value(row))


def _read(layout: Layout, tracks: Sequence[_Track], into: Array) -> None:
    """Sets what is read of values as they are."""
    for track in tracks:
        values = np.frombuffer(b"".join(track.found), "<f8")
        at = np.repeat(np.array(track.at, np.int64), [len(one) // CELL for one in track.found])
        for place, _ in track.readings:
            answers = into[:, :, place].reshape(-1)
            read(layout.readings[place], values, at, answers)
            into[:, :, place] = answers.reshape(into.shape[:2])
