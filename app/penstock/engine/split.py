"""A stage with a candidate beside its live plan: rows are divided between both, and come together again as the rows of one batch.

1. What no changed node feeds runs once, over all rows: it is the same in both plans. So do the nodes that remember.
2. From the first changed node on, the candidate runs over its rows and the live plan over the others.
3. A row that the candidate cannot score is answered by the live plan. So is one whose output cannot be written (`fall_back`).
4. The rows are in their order again, with the columns that outputs are made of.

Both plans fill these columns alike, or the candidate is refused before it runs (`divide`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, cast

import numpy as np

from penstock.batch import Array, Batch, Failure
from penstock.engine.execute import Execution, Tell
from penstock.engine.plan import Stage
from penstock.engine.router import Router
from penstock.errors import ModelMismatch, RecordError
from penstock.nodes import Node
from penstock.state import States
from penstock.topology.wiring import Part, Step

__all__ = ["ANSWERED", "FELL_BACK", "LIVE", "NO_UNIT", "Divided", "Split", "behind_of", "divide", "of_candidate", "remembers"]

# Of a row: assigned to the live plan; to the candidate, which has answered; or which could not; or not assigned, for it has no unit.
LIVE: Final = 0
ANSWERED: Final = 1
FELL_BACK: Final = 2
NO_UNIT: Final = -1

Decode = Callable[[Sequence[int]], Batch]


def of_candidate(node: str) -> str:
    """Returns how `Tell` names a node of the candidate."""
    return f"{node} (candidate)"


@dataclass(frozen=True, slots=True)
class Divided:
    """A stage of two plans. `before` has the steps that are the same in both, `live` and `candidate` the others.

    `merged` are the columns of the others that outputs are made of, and `reads` what they read themselves. `own` says that the candidate
    reads other columns of the event than the live plan: its rows are decoded for it once more. `unit` is the column of the router's units,
    None for the records' keys.
    """

    before: Stage
    live: Stage
    candidate: Stage
    merged: tuple[str, ...]
    reads: frozenset[str]
    router: Router
    own: bool
    unit: str | None


def divide(live: Stage, candidate: Stage, changed: Collection[str], router: Router) -> Divided | None:
    """Returns the stage of both plans, None where none of the `changed` nodes is in it: then both are the same.

    Raises ModelMismatch, with what to do, where the candidate cannot run beside the live plan.
    """
    if not any(node.name in changed for node in live.nodes):
        return None
    behind = behind_of(live.wired.steps, changed)
    for node in live.nodes:
        if node.stateful and node.name in behind:
            raise remembers(node.name)
    given = [column for one in live.wired.inputs for column in one.columns]
    own = given != [column for one in candidate.wired.inputs for column in one.columns]
    if own and (len(live.wired.inputs) > 1 or any(one.behind for one in live.wired.inputs)):
        raise ModelMismatch(f"the candidate reads other fields than the live versions, in a stage behind others: {_ADVICE}")
    unit = next((one.unit for one in live.wired.inputs), None)
    if router.unit and unit is None:
        raise ModelMismatch(f"the stage {live.wired.name} does not have the unit {router.unit} of the release: {_ADVICE}")
    made = {name for step in live.wired.steps if step.node.name in behind for name in step.columns}
    merged = tuple(name for name in _written(live) if name in made)
    _check_alike(live, candidate, merged)
    before, by_live, by_candidate = (
        _only(live, lambda name: name not in behind), _only(live, behind.__contains__), _only(candidate, behind.__contains__)
    )  # fmt: skip
    reads = frozenset(name for stage in (by_live, by_candidate) for step in stage.wired.steps for name in step.reads)
    return Divided(before, by_live, by_candidate, merged, reads, router, own, unit if router.unit else None)


_ADVICE: Final = "deploy it without a trial"


def remembers(node: str) -> ModelMismatch:
    """Returns the error of a node that would remember the answers of two versions."""
    return ModelMismatch(f"nodes.{node} remembers what changed nodes answer, and cannot do so for two versions: {_ADVICE}")


def behind_of(steps: Iterable[Step], changed: Collection[str]) -> set[str]:
    """Returns the changed nodes, and those that they feed."""
    behind, columns = set[str](), set[str]()
    for step in steps:
        if step.node.name in changed or not columns.isdisjoint(step.reads):
            behind.add(step.node.name)
            columns.update(step.columns)
    return behind


def _only(stage: Stage, chosen: Callable[[str], bool]) -> Stage:
    """Returns the stage with these of its steps."""
    pairs: list[tuple[Step, Node]] = [pair for pair in zip(stage.wired.steps, stage.nodes, strict=True) if chosen(pair[1].name)]
    return Stage(replace(stage.wired, steps=tuple(step for step, _ in pairs)), tuple(node for _, node in pairs), stage.outputs)


def _written(stage: Stage) -> list[str]:
    """Returns the columns that outputs are made of, each once."""
    found = dict.fromkeys(name for part, _ in _parts(stage) for name in _read(part))
    return [*found, *(emit.when for emit in stage.wired.emits if emit.when is not None and emit.when not in found)]


def _parts(stage: Stage) -> list[tuple[Part, object]]:
    """Returns what outputs are made of, each with what it becomes."""
    fields = [(field.part, field) for emit in stage.wired.emits for field in emit.fields]
    return [*fields, *((emit.key, "key") for emit in stage.wired.emits if emit.key is not None)]


def _read(part: Part) -> list[str]:
    return [part.column] if part.gap is None else [part.column, part.gap.when]


def _check_alike(live: Stage, candidate: Stage, merged: Sequence[str]) -> None:
    """Raises ModelMismatch where outputs are made otherwise of the candidate's columns than of the live plan's."""
    forms = [_forms(stage) for stage in (live, candidate)]
    for name in merged:
        before, after = (found[name] for found in forms)
        if before != after:
            node, _, output = name.partition(".")
            raise ModelMismatch(
                f"nodes.{node}: its output {output} is `{after}`, live it is `{before}`: both cannot answer side by side; {_ADVICE}"
            )
    open_axes = {name for step in live.wired.steps for tensor, name in zip(step.outputs, step.columns, strict=True) if None in tensor.shape}
    for part, _ in _parts(live):
        if part.column in merged and part.column in open_axes and part.index is None:
            raise ModelMismatch(f"{part.column} has an open axis, and is written whole: both cannot answer side by side; {_ADVICE}")
    made = [[pair for pair in _parts(stage) if not set(_read(pair[0])).isdisjoint(merged)] for stage in (live, candidate)]
    if made[0] != made[1]:
        raise ModelMismatch(
            f"the stage {live.wired.name} makes its outputs otherwise of the candidate than of the live versions: {_ADVICE}"
        )


def _forms(stage: Stage) -> dict[str, str]:
    return {name: str(tensor) for step in stage.wired.steps for tensor, name in zip(step.outputs, step.columns, strict=True)}


class Split:
    """A batch on its way through a divided stage; used as an `Execution`."""

    __slots__ = (
        "_candidate",
        "_decode",
        "_hopeless",
        "_live",
        "_pieces",
        "_units",
        "arms",
        "batch",
        "before",
        "divided",
        "errors",
        "states",
    )

    def __init__(
        self,
        divided: Divided,
        batch: Batch,
        rows: int,
        states: States | None = None,
        decode: Decode | None = None,
        *,
        hopeless: bool = False,
    ) -> None:
        """`rows` came in. `decode` returns rows, by their numbers, as the candidate reads them. A `hopeless` candidate is not asked.

        `arms` has of each row that came in which plan it is assigned to, and whether that has answered: int8 `[rows]`. `errors` says, by
        row number, why the candidate could not answer.
        """
        self.divided, self.batch, self.states = divided, batch, states
        self.before = Execution(divided.before, batch)
        self.arms: Array = np.full(rows, NO_UNIT, np.int8)
        self.errors: dict[int, RecordError] = {}
        self._decode, self._hopeless = decode, hopeless
        self._units: list[object] = []  # of the rows before the changed nodes
        self._candidate: Execution | None = None
        self._live: Execution | None = None
        self._pieces: list[Batch] = []  # what has answered

    @property
    def next(self) -> int:
        """How many nodes have run."""
        return self.before.next + sum(one.next for one in (self._candidate, self._live) if one is not None)

    @property
    def numbers(self) -> Array:
        """The numbers of the rows that go on, ascending."""
        return _numbers(self.batch)

    @property
    def by_live(self) -> Batch:
        """The rows that the live plan has answered. A column is taken when it is first read: observers read few."""
        batch, numbers = self.batch, self.numbers
        keep = np.flatnonzero(self.arms[numbers] != ANSWERED)
        return Batch(len(keep), _Taken(batch.columns, keep), numbers[keep], batch.failures, batch.origin)

    def run(self, *, isolate: bool = True, tell: Tell | None = None) -> Batch:
        """As `Execution.run`. `tell` gets the candidate's nodes by the names of `of_candidate`."""
        self.before.states = self.states
        batch = self.before.run(isolate=isolate, tell=tell)
        if self._candidate is None:
            self._candidate = self._begun(batch)
        if self._live is None:
            scored = self._candidate.run(isolate=isolate, tell=None if tell is None else partial(_told, tell))
            self._failed((one.row, one.error) for one in scored.failures)
            rest = self.arms[_numbers(batch)] != ANSWERED
            self._live = Execution(self.divided.live, _part(batch, rest, self.divided.reads), self.states)
        answered = self._live.run(isolate=isolate, tell=tell)
        self._pieces = [self._candidate.batch, answered]
        self._merge()
        return self.batch

    def fall_back(self, failures: Iterable[Failure]) -> bool:
        """Lets the live plan answer those of the rows that the candidate has answered. Returns whether there were any."""
        errors = {one.row: one.error for one in failures if self.arms[one.row] == ANSWERED}
        if not errors:
            return False
        self._failed(errors.items())
        first = self._pieces[0]
        kept = first.take(np.flatnonzero(self.arms[_numbers(first)] == ANSWERED))
        batch = self.before.batch
        rest = _part(batch, self.arms[_numbers(batch)] != ANSWERED, self.divided.reads)
        # All of its rows run again, in one piece: the axes of what a node gives depend on the rows that run together.
        self._pieces = [kept, Execution(self.divided.live, rest, self.states).run()]
        self._merge()
        return True

    def _begun(self, batch: Batch) -> Execution:
        """Divides the rows, and returns those of the candidate."""
        divided, numbers = self.divided, _numbers(batch)
        self._units = (batch.keys if divided.unit is None else batch.columns[divided.unit]).tolist() if batch.size else []
        chosen, without = divided.router.chosen(self._units)
        self.arms[numbers] = chosen  # true is ANSWERED, false LIVE
        if without.any():
            self.arms[numbers[without]] = NO_UNIT
        if self._hopeless:
            self.arms[numbers[chosen]] = FELL_BACK
            chosen = np.zeros(len(chosen), bool)
        part, errors = self._as_read(chosen)
        self._failed(errors)
        return Execution(divided.candidate, part, self.states)

    def by_candidate(self, rows: Sequence[int]) -> Batch:
        """Returns what the candidate makes of these rows, which the live plan has failed on: those that it does not fail on."""
        before = self.before.batch
        part, _ = self._as_read(np.isin(_numbers(before), rows))
        scored = Execution(self.divided.candidate, part, self.states).run()
        whole = _part(before, np.isin(_numbers(before), _numbers(scored)))
        return whole.with_columns({name: scored.columns[name] for name in self.divided.merged}) if whole.size else whole

    def units_of(self, rows: Collection[int]) -> set[object]:
        """Returns the units of these rows."""
        return {unit for row, unit in zip(_numbers(self.before.batch).tolist(), self._units, strict=True) if row in rows}

    def _as_read(self, chosen: Array) -> tuple[Batch, list[tuple[int, RecordError]]]:
        """Returns the chosen rows as the candidate reads them, and those that it cannot read."""
        part = _part(self.before.batch, chosen, None if self.divided.own else self.divided.reads)
        if not self.divided.own or not part.size or self._decode is None:
            return part, []
        read = self._decode(_numbers(part).tolist())
        part = _part(part, np.isin(_numbers(part), _numbers(read))).with_columns(read.columns)
        return part, [(one.row, one.error) for one in read.failures]

    def _failed(self, errors: Iterable[tuple[int, RecordError]]) -> None:
        for row, error in errors:
            self.arms[row] = FELL_BACK
            self.errors[row] = error

    def _merge(self) -> None:
        """Makes `batch` of what has answered, in the order of the rows."""
        pieces = [piece for piece in self._pieces if piece.size]
        before = self.before.batch
        failures = before.failures
        if late := [one for piece in self._pieces[1:] for one in piece.failures]:
            failures = tuple(sorted((*failures, *late), key=lambda one: one.row))
        if not pieces:
            self.batch = Batch(0, {}, np.empty(0, np.intp), failures, before.origin)
            return
        numbers = np.concatenate([_numbers(piece) for piece in pieces])
        order = np.argsort(numbers)
        made = {name: _together([piece.columns[name] for piece in pieces])[order] for name in self.divided.merged}
        whole = before if len(order) == before.size else before.take(np.searchsorted(_numbers(before), numbers[order]))
        self.batch = Batch(whole.size, {**whole.columns, **made}, whole.rows, failures, before.origin)


class _Taken(Mapping[str, Array]):
    """Some rows of columns."""

    def __init__(self, columns: Mapping[str, Array], keep: Array) -> None:
        self._columns, self._keep = columns, keep
        self._made: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name not in self._made:
            self._made[name] = self._columns[name][self._keep]
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def _together(columns: Sequence[Array]) -> Array:
    """Returns the rows of all. Where an open last axis differs, the shorter ones are filled up: only elements that all have are read."""
    longest = max(column.shape[-1] for column in columns)
    if columns[0].ndim > 1 and any(column.shape[-1] < longest for column in columns):
        fill = "" if columns[0].dtype.kind == "O" else 0
        rest = [(0, 0)] * (columns[0].ndim - 1)
        columns = [np.pad(one, [*rest, (0, longest - one.shape[-1])], constant_values=cast(Any, fill)) for one in columns]
    return np.concatenate(columns)


def _told(tell: Tell, node: str, rows: int, left: int) -> None:
    tell(of_candidate(node), rows, left)


def _numbers(batch: Batch) -> Array:
    return np.arange(batch.size) if batch.rows is None else batch.rows


def _part(batch: Batch, chosen: Array, reads: Collection[str] | None = None) -> Batch:
    """Returns the chosen rows (bool `[size]`), with the columns that are read, and without the failures of others."""
    at = np.flatnonzero(chosen)
    columns = batch.columns if reads is None else {name: batch.columns[name] for name in reads if name in batch.columns}
    return Batch(len(at), {name: column[at] for name, column in columns.items()}, _numbers(batch)[at], origin=batch.origin)
