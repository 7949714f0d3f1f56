"""Measures joins by event id: how many ids one thread answers per second, for several numbers of members.

Each member has every event once, in batches of ROWS rows with six columns, in an order of its own: an event is up to SPREAD places away
from its place, so that some hundred groups wait at any time. All ids are new, and each member has texts of its own, as decoders make
them. A turn is a batch of each member, one call of `due`, and the acknowledgement of what was answered. Decoding, models and Kafka are
left out. Time is CPU time of the thread; the cyclic collector is off, as in a worker.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from benchmarks.measure import Progress
from benchmarks.micro import no_collector
from benchmarks.report import Sheet
from penstock.batch import Array
from penstock.joins import END, Quorum
from penstock.joins.groups import Decided, Groups
from penstock.joins.rows import Rows
from penstock.schema import Column

MEMBERS = (2, 3, 5)
ROWS = 256
SPREAD = 1_000  # places
RATE = 100  # events per ms, by their timestamps
MISSING = 0.05  # of the records of each member
SHARED = ("id", "label")
COLUMNS = [
    Column("id", "id", "string"), Column("score", "score", "float32"), Column("margin", "margin", "float64"),
    Column("votes", "votes", "int64"), Column("classes", "classes", "float32", (4,)), Column("label", "label", "string"),
]  # fmt: skip


class Piece(NamedTuple):
    """A batch of one member."""

    ids: Sequence[str]
    stamps: Array
    offsets: Array
    columns: Mapping[str, Array]


class Spent(NamedTuple):
    """The answers of a run, the groups that failed, and the seconds of each part."""

    fired: int
    failed: int
    groups: float
    rows: float


def measure(ids: int, rounds: int, progress: Progress) -> Sheet:
    """A table of ids per second and CPU µs per id, by number of members and quorum: medians of the rounds."""
    spent: dict[tuple[str, int], list[Spent]] = {}
    for turn, count, gaps in itertools.product(range(rounds), MEMBERS, (False, True)):
        kind = f"all but one, {MISSING:.0%} missing" if gaps else "all"
        progress(f"{count} members, {kind}", turn, rounds)
        topics = [[*batches(ids, f"{turn}-{count}", member, MISSING if gaps else 0.0)] for member in range(count)]
        with no_collector():
            found = run(Quorum(tuple(f"m{member}" for member in range(count)), count - gaps, 40, retain=100), topics)
        spent.setdefault((kind, count), []).append(found)
    lines = []
    for (kind, count), runs in sorted(spent.items(), key=lambda case: (case[0][1], case[0][0])):
        fired, failed = runs[0].fired, runs[0].failed
        groups, rows = (statistics.median(times) / (fired + failed) * 1e6 for times in zip(*(one[2:] for one in runs), strict=True))
        figures = f"{fired:,}", f"{failed:,}", f"{groups:.2f}", f"{rows:.2f}", f"{1e6 / (groups + rows):,.0f}"
        lines.append((f"{count}", kind, *figures))
    title = f"Joined ids per CPU second of one thread, batches of {ROWS} rows"
    return Sheet(title, ("members", "needed", "fired", "failed", "groups µs/id", "rows µs/id", "ids/s"), tuple(lines))


def _columns(member: int) -> list[Column]:
    return [one if one.name in SHARED else replace(one, name=f"m{member}.{one.name}") for one in COLUMNS]


def batches(ids: int, prefix: str, member: int, missing: float) -> Iterator[Piece]:
    """Yields the topic of a member."""
    chance = np.random.default_rng(member)
    order = np.argsort(np.arange(ids) + chance.uniform(0, SPREAD, ids))
    order = order[chance.random(ids) >= missing]
    labels = np.array(["late", "on time", "diverted"], object)
    for at in range(0, len(order), ROWS):
        those = order[at : at + ROWS]
        names = [f"{prefix}-flight-{number:08d}" for number in those.tolist()]
        size = len(names)
        columns = {
            "id": np.array(names, object), "score": chance.random(size, "f4"), "margin": chance.random(size),
            "votes": chance.integers(0, 100, size), "classes": chance.random((size, 4), "f4"), "label": labels[those % 3],
        }  # fmt: skip
        named = {own.name: columns[one.name] for one, own in zip(COLUMNS, _columns(member), strict=True)}
        yield Piece(names, np.arange(at, at + size) // RATE, np.arange(at, at + size), named)


def run(quorum: Quorum, topics: Sequence[Sequence[Piece]]) -> Spent:
    """Joins the topics to their ends."""
    groups, rows, now = Groups(quorum), Rows(quorum, [_columns(member) for member in range(len(topics))]), time.thread_time
    in_groups = in_rows = 0.0
    fired = failed = 0
    for pieces in itertools.zip_longest(*topics):
        clock = max(int(piece.stamps[-1]) for piece in pieces if piece is not None)
        decided: list[Decided] = []
        for member, piece in enumerate(pieces):
            if piece is None:
                continue
            t0 = now()
            added = groups.add(member, piece.ids, piece.stamps, piece.offsets, clock)
            t1 = now()
            rows.put(member, added.rows, added.slots, piece.columns)
            fired += rows.take(added.fired).size if added.fired else 0
            in_groups, in_rows = in_groups + t1 - t0, in_rows + now() - t1
            decided.append(added.fired)
        t0 = now()
        given = groups.due(clock, [END] * len(topics))
        t1 = now()
        failed += len(rows.take(given).failures) if given else 0
        t2 = now()
        for one in (*decided, given):
            groups.acknowledge(one.tickets)
        groups.freed()
        in_groups, in_rows = in_groups + t1 - t0 + now() - t2, in_rows + t2 - t1
    return Spent(fired, failed, in_groups, in_rows)
