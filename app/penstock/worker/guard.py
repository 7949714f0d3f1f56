"""Guards a new generation over its first rows: a row on which it fails is given to the previous plan, which is still loaded.

1. `begin`, at a switch: the observer (`recent`) counts the rows of the generation from here on, and keeps those on which it fails.
2. Every LOOK seconds the failing rows run over the previous plan: in a thread, over twins of its models, in slices, a bounded number.
   Scoring waits for none of this, and the rows are dead letters as always.
3. `evidence.guard` decides. A generation that is bad is a problem in the status; what else happens, the topology's `on_invalid`
   decides: `act` is called then. While it asks for that, it is called again every AGAIN seconds until the generation ends.

A worker that starts with a generation has no previous plan, so it guards nothing: others that switched do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from itertools import groupby
from typing import Final

import numpy as np

from penstock.evidence.guard import Counts, Rule, Verdict
from penstock.pipeline import Chunk, Served
from penstock.telemetry import Metrics
from penstock.transports.base import Sink
from penstock.worker.proof import Trial, slices
from penstock.worker.recent import Failing, Recent, Watched

__all__ = ["Guard"]

logger = logging.getLogger(__name__)

LOOK: Final = 0.5  # seconds between two looks at the rows that failed
AT_ONCE: Final = 256  # failing rows of one look
SECONDS: Final = 2.0  # of one look: what it did not try counts as unchecked, and so does what live runs leave no memory for
AGAIN: Final = 10.0  # seconds before a rollback that did not happen is tried again


class Guard:
    """Guards one generation after the other. `run` is a task of the worker's loop.

    `say` sets the problem in the status, "" for none, and whether it is that the generation is bad. `act` is then called with the
    generation and the reason, and returns whether it is to be called again. `sink` returns what knows the size limits of the topics.
    """

    def __init__(
        self,
        recent: Recent,
        rule: Rule,
        *,
        say: Callable[[str, bool], None],
        act: Callable[[int, str], Awaitable[bool]],
        sink: Callable[[], Sink | None],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._recent, self._rule = recent, rule
        self._say, self._act, self._sink, self._metrics, self._clock = say, act, sink, metrics, clock
        self._changed = asyncio.Event()
        self._now: _Case | None = None

    def begin(self, generation: int, previous: Served) -> None:
        """Guards `generation` from its next row on; the guard of an earlier one ends."""
        self._now = _Case(generation, previous, self._clock())
        self._recent.watched = self._now.watched
        self._say("", False)
        self._changed.set()

    async def run(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            case = self._now
            while case is not None and case is self._now:
                await asyncio.sleep(LOOK)
                if await self._look(case) is not Verdict.WAIT:
                    break

    async def _look(self, case: _Case) -> Verdict:
        failing = case.watched.take(AT_ONCE)
        found = await asyncio.to_thread(case.check, failing, self._sink()) if failing else {}
        if case is not self._now:
            return Verdict.WAIT
        for decoded, some in found.items():
            self._metrics.guard_failures.inc(some.new)
            case.checked[decoded] += some
        counts = case.counts
        verdict = self._rule.verdict(counts, self._clock() - case.began)
        doubt = verdict is Verdict.WAIT and counts.unchecked > 0
        if doubt is not case.doubt:
            case.doubt = doubt
            self._say(f"generation {case.generation} is not judged yet: it fails on rows that could not be checked" if doubt else "", False)
        if verdict is not Verdict.WAIT:
            self._recent.watched = None
            shown = f"{counts.new} of {counts.judged} rows fail in it and not in generation {case.previous.generation}"
            if verdict is Verdict.GOOD:
                logger.info("generation %d has passed its guard: %s", case.generation, shown)
            else:
                allowed = f"{counts.share:.2%}, more than the {self._rule.share:.2%} of the setting failing_share"
                await self._bad(case, f"generation {case.generation} is bad: {shown} ({allowed}); the first: {case.example}")
        return verdict

    async def _bad(self, case: _Case, why: str) -> None:
        self._say(why, True)
        while case is self._now and await self._act(case.generation, why):
            try:
                async with asyncio.timeout(AGAIN):
                    await self._changed.wait()
            except TimeoutError:
                continue
            return


class _Case:
    """A generation under guard."""

    def __init__(self, generation: int, previous: Served, began: float) -> None:
        self.generation, self.previous, self.began = generation, previous, began
        self.watched = Watched(generation)
        self.checked = {decoded: Counts() for decoded in (True, False)}
        self.example = ""
        self.doubt = False

    @property
    def counts(self) -> Counts:
        kinds = [(some + Counts(unchecked=self.watched.unchecked(decoded))).resolved() for decoded, some in self.checked.items()]
        return sum(kinds, Counts(ok=self.watched.ok))

    def check(self, failing: list[Failing], sink: Sink | None) -> dict[bool, Counts]:
        """Runs the previous plan over the rows and returns their counts, of those that were decoded and of the others. Blocks."""

        def kind(one: Failing) -> tuple[bool, str, list[str]]:
            return one.decoded, one.stage, sorted(one.row.recalled)

        failing.sort(key=kind)
        found: dict[bool, Counts] = {}
        for (decoded, stage, _), those in groupby(failing, key=kind):
            counts = self._check(Trial(self.previous.program, stage, sink), [*those])
            found[decoded] = found.get(decoded, Counts()) + counts
        return found

    def _check(self, trial: Trial, failing: list[Failing]) -> Counts:
        rows = Chunk(
            [one.row.records[0] for one in failing],
            tuple(one.row.places[0] for one in failing),
            {name: np.concatenate([one.row.recalled[name] for one in failing]) for name in failing[0].row.recalled},
        )
        new = both = 0
        for _, start, piece in slices([rows], SECONDS):
            scored = trial.run(piece)
            if scored is None:
                continue
            good = [row for row in range(piece.rows) if row not in scored.failures]
            if good and not self.example:
                first = failing[start + good[0]]
                self.example = f"{first.row.position(0)}: {first.error.where}: {first.error}"
            new += len(good)
            both += piece.rows - len(good)
        return Counts(new=new, both=both, unchecked=len(failing) - new - both)
