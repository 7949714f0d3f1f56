"""Guards what is on trial: a candidate that fails more often than the live plan is reported, and taken back by `on_invalid`.

No answer depends on it: a row that the candidate fails on is answered by the live plan. Units are counted on which one of the two has
failed, and the other has not. Every LOOK seconds the counts of this worker are compared (`evidence.counts`): the candidate is bad when it
has answered nothing of its first units, or when it fails more than `tolerated` times as often as the live plan. Of that, a worker is wrong
with a chance of at most ALPHA, although it looks again and again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from penstock.evidence.counts import FIRST, Failures
from penstock.pipeline import Candidate

__all__ = ["ALPHA", "TrialGuard"]

LOOK: Final = 0.5  # seconds between two looks
ALPHA: Final = 0.001  # of one worker: of ten, one in a hundred trials of a good candidate is reported
AGAIN: Final = 10.0  # seconds before an abort that did not happen is tried again


class TrialGuard:
    """Guards one trial after the other. `run` is a task of the worker's loop.

    `candidate` returns what is on trial now. `say` sets the problem in the status, "" for none. `act` is called with the reason when that
    is bad, and returns whether it is to be called again.
    """

    def __init__(
        self, candidate: Callable[[], Candidate | None], *, say: Callable[[str], None], act: Callable[[str], Awaitable[bool]]
    ) -> None:
        self._candidate, self._say, self._act = candidate, say, act
        self._now: Candidate | None = None
        self._before = Failures()  # of the generations before, of the same release
        self._answered = 0
        self._bad = False

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            why = self.look()
            if why and await self._act(why):
                await asyncio.sleep(AGAIN)

    def look(self) -> str:
        """Returns why what is on trial is bad, "" where it is not. `say` receives it once, although the counts go on."""
        found, before = self._candidate(), self._now
        if found is not before:
            if found is not None and before is not None and found.router.experiment == before.router.experiment:
                self._before, self._answered = self._failures(before), self._answered + before.tally.answered
            else:
                self._before, self._answered, self._bad = Failures(), 0, False
                self._say("")
            self._now = found
        why = "" if found is None else self._judged(found)
        if why and not self._bad:
            self._bad = True
            self._say(why)
        return why

    def _failures(self, of: Candidate) -> Failures:
        return self._before.add(of.router.share, of.tally.failed, of.tally.live_failed)

    def _judged(self, of: Candidate) -> str:
        failures, answered = self._failures(of), self._answered + of.tally.answered
        if not answered and failures.candidate >= FIRST:
            why = f"it has answered nothing of its first {failures.candidate} units, and the live plan has"
        elif failures.worse(ALPHA):
            why = f"it has failed on {failures.candidate} units where the live plan did not; the other way round, on {failures.live}"
        else:
            return ""
        return f"release {of.router.experiment}, which is on trial, is bad: {why}; the first: {of.tally.example}"
