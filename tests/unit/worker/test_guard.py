"""A new generation is guarded: a row counts against it only when the previous plan, which is still loaded, scores it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from penstock.engine.observe import Observers
from penstock.evidence.guard import Rule
from penstock.pipeline import Fixed, Pipeline, Program
from penstock.telemetry import Metrics
from penstock.testing import models
from penstock.transports.memory import Memory, MemorySink
from penstock.worker import guard as module
from penstock.worker.guard import Guard
from penstock.worker.recent import Recent
from tests.unit.worker.conftest import HEAVY, STAGE, Make, chunk, crowded, small_pool

ROWS = 100


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK", 0.001)
    monkeypatch.setattr(module, "AGAIN", 0.01)


@dataclass
class Guarding:
    """A guard, the generation that scores, and what came of it."""

    guard: Guard
    recent: Recent
    new: Program
    old: Program
    metrics: Metrics = field(default_factory=Metrics)
    said: list[str] = field(default_factory=list)
    acts: list[int] = field(default_factory=list)
    now: float = 0.0

    def score(self, xs: Sequence[float | None], generation: int = 1) -> None:
        sink = MemorySink(Memory(1))
        Pipeline(self.new, STAGE, sink=sink, generation=generation, observers=Observers([self.recent])).process(chunk(xs))

    def begin(self, generation: int = 1) -> None:
        self.guard.begin(generation, Fixed(self.old, generation - 1))


Act = Callable[[Guarding], Awaitable[None]]


@pytest.fixture
def programs(make: Make) -> tuple[Program, Program]:
    """The old one scores up to 1000, the new one up to 100."""
    return make(models.up_to(1000.0))[1], make(models.up_to(100.0))[1]


def guarding(programs: tuple[Program, Program], act: Act, *, again: bool = False) -> Guarding:
    async def run() -> Guarding:
        recent, said = Recent(0), list[str]()

        async def bad(generation: int, why: str) -> bool:
            it.acts.append(generation)
            return again

        made = Guard(
            recent,
            Rule(share=0.05, rows=ROWS, seconds=60),
            say=lambda what, bad: said.append(f"BAD {what}" if bad else what),
            act=bad,
            sink=lambda: None,
            metrics=metrics,
            clock=lambda: it.now,
        )
        it = Guarding(made, recent, programs[1], programs[0], metrics, said)
        task = asyncio.create_task(made.run())
        try:
            async with asyncio.timeout(30):
                await act(it)
        finally:
            task.cancel()
        return it

    metrics = Metrics()
    return asyncio.run(run())


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  bounded by the timeout around it
        await asyncio.sleep(0.001)


def test_generation_that_fails_where_the_one_before_scores_is_bad(programs: tuple[Program, Program]) -> None:
    async def act(it: Guarding) -> None:
        it.begin()
        it.score([1.0] * 50 + [500.0] * 50)
        await until(lambda: bool(it.acts))

    it = guarding(programs, act)
    assert it.acts == [1]
    assert it.said[0] == "", "the problem of the generation before is over"
    assert it.said[1].startswith("BAD generation 1 is bad: 50 of 100 rows fail in it and not in generation 0 (50.00%, more than the 5.00%")
    assert "the first: readings:0:50: double: field 'y' is not a finite number" in it.said[1]
    assert it.metrics.guard_failures.value == 50
    assert it.recent.watched is None


def test_rows_that_neither_scores_and_rows_of_other_generations_do_not_count(programs: tuple[Program, Program]) -> None:
    async def act(it: Guarding) -> None:
        it.begin()
        it.score([500.0] * ROWS, generation=0)
        it.score([None, 5000.0] * ROWS)
        it.score([1.0] * ROWS)
        it.now = 61.0
        await until(lambda: it.recent.watched is None)

    it = guarding(programs, act)
    assert (it.acts, it.said) == ([], [""])
    assert it.metrics.guard_failures.value == 0


def test_flood_of_bad_records_hides_no_rows_that_only_the_new_one_fails_on(programs: tuple[Program, Program]) -> None:
    """Neither those before, which wait to be checked, nor those after."""

    async def act(it: Guarding) -> None:
        it.begin()
        for _ in range(20):
            it.score([None] * 250)
        it.score([1.0] * 50 + [500.0] * 50)
        await until(lambda: bool(it.acts))

    it = guarding(programs, act)
    assert it.said[1].startswith("BAD generation 1 is bad: 50 of 100 rows fail in it and not in generation 0 (50.00%")


def test_flood_of_bad_records_does_not_multiply_the_few_that_count(programs: tuple[Program, Program]) -> None:
    async def act(it: Guarding) -> None:
        it.begin()
        for _ in range(20):
            it.score([None] * 250)
        it.score([1.0] * ROWS + [500.0])
        it.now = 61.0
        await until(lambda: it.recent.watched is None)

    it = guarding(programs, act)
    assert (it.acts, it.metrics.guard_failures.value) == ([], 1)


def test_few_rows_decide_nothing(programs: tuple[Program, Program]) -> None:
    """Five of five are five percent of the window: not more than what is allowed."""

    async def act(it: Guarding) -> None:
        it.begin()
        it.score([500.0] * 5)
        await until(lambda: it.metrics.guard_failures.value == 5)
        assert it.acts == []
        it.score([500.0])
        await until(lambda: bool(it.acts))

    guarding(programs, act)


@small_pool
def test_bad_generation_is_not_good_because_its_rows_found_no_memory_beside_live_runs(make: Make) -> None:
    """They are no rows that neither plan scores: the guard goes on, says so, and finds the generation bad when it has checked some."""

    async def act(it: Guarding) -> None:
        with crowded():
            it.begin()
            it.score([1.0] * ROWS)
            it.score([HEAVY] * 20)
            it.now = 61.0
            await until(lambda: len(it.said) > 1)
            assert it.said[1] == "generation 1 is not judged yet: it fails on rows that could not be checked"
            assert it.recent.watched is not None
        it.score([HEAVY])
        await until(lambda: bool(it.acts))

    it = guarding((make(models.growing())[1], make(models.up_to(100.0))[1]), act)
    assert it.said[-1].startswith("BAD generation 1 is bad: 21 of 121 rows fail in it and not in generation 0")


def test_action_is_repeated_until_the_generation_ends(programs: tuple[Program, Program]) -> None:
    async def act(it: Guarding) -> None:
        it.begin()
        it.score([500.0] * ROWS)
        await until(lambda: len(it.acts) >= 3)
        it.begin(2)
        await until(lambda: it.said[-1] == "")
        it.score([500.0] * ROWS, generation=2)
        await until(lambda: 2 in it.acts)

    it = guarding(programs, act, again=True)
    assert sorted(it.acts) == it.acts
