"""The bounded runner: reads an input that has an end and writes to a sink, through the same delivery loop as the stream.

`penstock test` and `penstock batch` run on it. It reports its progress and stores its position from time to time. When it
is stopped early, it finishes and stores the work in progress, and the next run resumes there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from penstock.engine.observe import Observers
from penstock.pipeline import AtLeastOnce, Delivery, Fixed, Pace, Program
from penstock.state import States
from penstock.telemetry import Metrics
from penstock.transports.base import Sink, Source, by_topic
from penstock.transports.tracker import Span

__all__ = ["Bounded", "Ran", "run"]

PATIENCE = 60.0  # seconds at the end for the acknowledgement of the work in progress


class Bounded(Source, Protocol):
    """A source that has an end, and reports its progress: `done` of `total`, in the source's unit."""

    @property
    def total(self) -> int: ...
    @property
    def done(self) -> int: ...


class Ran(NamedTuple):
    """The result of a run: the records taken, the outputs, the dead letters, and whether the input's end was reached."""

    read: int
    written: int
    failed: int
    complete: bool


async def run(
    program: Program,
    source: Source,
    sink: Sink,
    *,
    stages: Mapping[str, str],
    pace: Pace | None = None,
    progress: Callable[[Ran], None] = lambda _: None,
    stopped: asyncio.Event | None = None,
    observers: Observers | None = None,
    states: States | None = None,
) -> Ran:
    """Runs every record of the source through the program; `stages` names the stage that reads each topic.

    `states` are what its nodes remember of earlier runs; without them they begin with nothing.
    Setting `stopped` ends the run after the current group. Raises TransportError when the source, or the sink, fails.
    """
    metrics = Metrics()
    problems: list[BaseException] = []

    def fail(error: BaseException) -> None:
        problems.append(error)
        delivery.terminate()  # nothing waits for an acknowledgement that will not come

    delivery = Delivery(
        source,
        sink,
        AtLeastOnce(source),
        stages=stages,
        serving=Fixed(program),
        fail=fail,
        pace=pace or Pace(),
        metrics=metrics,
        observers=observers,
        states=None if states is None else lambda: states,
    )
    complete = False
    while await delivery.room() and not (stopped is not None and stopped.is_set()):
        spans = await _taken(source, delivery.rows, stopped)
        if spans is None:
            break
        if not spans:
            complete = True
            break
        for of_one_topic in by_topic(spans):
            await delivery.submit(of_one_topic)
        progress(_ran(metrics, False))
        await delivery.poll()  # what is stored, and when, is for the source to decide
        await asyncio.sleep(0)  # signals are handled here
    if problems:
        raise problems[0]
    await delivery.close(PATIENCE)
    if problems:
        raise problems[0]
    return _ran(metrics, complete)


async def _taken(source: Source, rows: int, stopped: asyncio.Event | None) -> Sequence[Span] | None:
    """Returns what the source yields; None when `stopped` is set first: a pipe may be silent for hours."""
    if stopped is None:
        return await source.take(rows)
    take, stop = asyncio.ensure_future(source.take(rows)), asyncio.ensure_future(stopped.wait())
    await asyncio.wait((take, stop), return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if not take.done():
        take.cancel()
        await asyncio.wait((take,))
        return None
    return take.result()


def _ran(metrics: Metrics, complete: bool) -> Ran:
    return Ran(int(metrics.records_in.value), int(metrics.records_out.value), int(metrics.dead_letters.value), complete)
