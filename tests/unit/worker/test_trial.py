"""The guard of a trial: when a candidate is bad, by the counts of one worker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock.engine import Plan, Router
from penstock.pipeline import Candidate, Program
from penstock.pipeline.trial import Tally
from penstock.worker.trial import TrialGuard

NOTHING = Program(Plan("flights", {}, {}), {})


def candidate(share: float = 0.05, *, release: str = "r1", **counts: Any) -> Candidate:
    return Candidate(NOTHING, frozenset(["trees"]), Router(release, share), Tally(**counts, example="flights:0:7: trees: too large"))


class Guarded:
    """A guard, what it has said last, and what it has taken back."""

    def __init__(self) -> None:
        self.now: Candidate | None = None
        self.said = ""
        self.taken: list[str] = []
        self.guard = TrialGuard(lambda: self.now, say=self._say, act=self._act)

    def look(self, now: Candidate | None) -> str:
        self.now = now
        return self.guard.look()

    def _say(self, what: str) -> None:
        self.said = what

    async def _act(self, why: str) -> bool:
        self.taken.append(why)
        return False


@pytest.mark.parametrize(
    ("counts", "bad"),
    [
        ({}, ""),
        ({"failed": 4}, ""),
        ({"failed": 20}, "it has answered nothing of its first 20 units, and the live plan has"),
        ({"answered": 1, "failed": 4}, ""),
        ({"answered": 980, "failed": 20}, "it has failed on 20 units where the live plan did not; the other way round, on 0"),
        ({"answered": 980, "failed": 20, "live_failed": 380}, ""),  # as often as the live plan
        ({"answered": 900, "failed": 100, "live_failed": 380}, "it has failed on 100 units"),
        ({"live_failed": 10_000}, ""),
    ],
)
def test_a_candidate_is_bad_that_fails_more_often_than_the_live_plan(counts: dict[str, Any], bad: str) -> None:
    guarded = Guarded()
    why = guarded.look(candidate(0.05, **counts))
    assert bool(why) == bool(bad)
    assert bad in why
    assert guarded.said == why
    if why:
        assert why.startswith("release r1, which is on trial, is bad: ")
        assert why.endswith("; the first: flights:0:7: trees: too large")


def test_failures_of_the_steps_before_count_at_their_shares() -> None:
    """Otherwise a ramp would make a good candidate of a bad one."""
    guarded, first = Guarded(), candidate(0.05, answered=500, failed=4)
    assert not guarded.look(first)
    assert guarded.look(candidate(0.25, answered=500, failed=6))
    alone = Guarded()
    assert not alone.look(candidate(0.25, answered=500, failed=4))


def test_another_release_begins_anew_and_what_ended_is_not_said_any_more() -> None:
    guarded = Guarded()
    assert guarded.look(candidate(failed=20))
    assert not guarded.look(candidate(release="r2", failed=4))
    assert guarded.said == ""
    assert guarded.look(candidate(failed=20))
    assert not guarded.look(None)
    assert guarded.said == ""


def test_what_is_bad_is_taken_back() -> None:
    async def act() -> list[str]:
        guarded = Guarded()
        guarded.now = candidate(failed=20)
        task = asyncio.create_task(guarded.guard.run())
        async with asyncio.timeout(10):
            while not guarded.taken:  # noqa: ASYNC110  a look has no event
                await asyncio.sleep(0.01)
        task.cancel()
        return guarded.taken

    (why,) = asyncio.run(act())
    assert why.startswith("release r1, which is on trial, is bad")


def test_what_is_bad_is_said_once() -> None:
    """Each word is a record of the status topic."""
    words: list[str] = []
    now = candidate(failed=20)
    guard = TrialGuard(lambda: now, say=words.append, act=Guarded()._act)
    for _ in range(3):
        assert guard.look()
        now.tally.failed += 1
    assert len(words) == 2, "that nothing is known, and that it is bad"
