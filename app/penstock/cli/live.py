"""The live view on a terminal: one screen for the demo and for a worker, and what it is drawn with.

A worker's view is drawn from its pages (`/metrics`, `/readyz`), as an operator or a scraper reads them: it needs no access to
the worker's parts, and can be drawn by another process. Several workers have one view, of their pages joined.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from penstock import telemetry
from penstock.settings import Settings
from penstock.telemetry.families import Labels
from penstock.telemetry.health import Pages

__all__ = [
    "BAR", "NARROW", "Reading", "Screen", "Shown", "bar", "drawable", "facts", "fitting", "frame", "opened", "pairs", "read", "watching",
]  # fmt: skip

logger = logging.getLogger(__name__)

FRAME_S: Final = 0.25
LINE_S: Final = 3.0
NARROW: Final = 100  # columns; below, the bars are shorter
BAR: Final = 20
PAGE_S: Final = 0.5  # between two looks at a worker's pages
WINDOW_S: Final = 5.0  # of the rates and latencies that are shown
PAST: Final = 60  # looks that the line of past throughput has
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_HEIGHTS: Final = " ▁▂▃▄▅▆▇█"


class Screen:
    """Shows a frame now and then where there is a terminal, else a line."""

    def __init__(self, console: Console, live: Live | None) -> None:
        self._console, self._live = console, live
        self._every = LINE_S if live is None else FRAME_S
        self._next, self._news = 0.0, None

    def due(self, now: float, news: object = None) -> bool:
        """Whether it is time to show something. In a log, each change of `news` has a separate line."""
        return now >= self._next or (self._live is None and news != self._news)

    def show(self, now: float, frame: Callable[[], RenderableType], line: Callable[[], str], news: Any = None) -> None:
        """Shows what `frame` or `line` returns."""
        self._next, self._news = now + self._every, news
        if self._live is None:
            self._console.print(line(), markup=False)
        else:
            self._live.update(frame(), refresh=True)


@contextmanager
def opened(console: Console, head: Callable[[], RenderableType]) -> Iterator[Screen]:
    """Draws a live screen when the console is a terminal, which is gone at the end; else prints the head once, and then lines."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield Screen(console, live)
    else:
        console.print(head())
        yield Screen(console, None)


def fitting(console: Console, *choices: Sequence[RenderableType]) -> RenderableType:
    """Returns the first choice that fits on the console, else the last one. They come with the most to show first."""
    for parts in choices:
        if len(console.render_lines(Group(*parts))) <= console.height:
            break
    return Group(*parts)


def facts(warned: Sequence[str] = (), **values: str) -> Text:
    """Returns one line per entry: its name and its text; that of the `warned` is yellow."""
    text = Text()
    for name, value in values.items():
        text.append(f"{name.replace('_', ' '):<14}", style="dim")
        text.append(f"{value}\n", style="yellow" if name in warned else "")
    text.right_crop(1)
    return text


def pairs() -> Table:
    """Returns a table without lines for names and values."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column()
    return rows


def bar(share: float, width: int = BAR) -> str:
    """`share` (0..1) of `width` cells, to an eighth of a cell."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    return ("█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")).ljust(width)


# -- a worker ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reading:
    """The numbers of a worker's page at a moment. `at` is monotonic, in s; `nodes` are rows, failures and seconds by node and version;
    `lag` is records and seconds behind by topic and partition; `batches` counts them up to each bound in seconds.
    """

    at: float
    taken: float = 0
    written: float = 0
    generation: int = 0
    flight: int = 0
    letters: Mapping[Labels, float] = field(default_factory=dict)
    nodes: Mapping[Labels, tuple[float, float, float]] = field(default_factory=dict)
    lag: Mapping[Labels, tuple[float, float]] = field(default_factory=dict)
    batches: Mapping[float, float] = field(default_factory=dict)


def read(page: str, at: float) -> Reading:
    """Returns the numbers of a page of metrics."""
    from penstock.telemetry.export import samples  # slow to import, and only needed here

    found = samples(page)

    def by(name: str, *labels: str) -> dict[Labels, float]:
        counts: dict[Labels, float] = {}
        for named, value in found.get(name, ()):
            key = tuple(named.get(label, "") for label in labels)
            counts[key] = counts.get(key, 0.0) + value
        return counts

    def total(name: str) -> float:
        return sum(by(name).values())

    node = ("node", "model", "version")
    failures, seconds = by("node_failures_total", *node), by("node_seconds_sum", *node)
    backlog, behind = by("backlog_records", "topic", "partition"), by("seconds_behind", "topic", "partition")
    return Reading(
        at,
        taken=total("records_in_total"),
        written=total("records_out_total"),
        generation=int(max((value for _, value in found.get("generation", ())), default=0)),
        flight=int(total("in_flight_batches")),
        letters=by("dead_letters_total", "step", "reason"),
        nodes={one: (rows, failures.get(one, 0.0), seconds.get(one, 0.0)) for one, rows in by("node_rows_total", *node).items()},
        lag={one: (records, behind.get(one, 0.0)) for one, records in backlog.items()},
        batches={float(bound): count for (bound,), count in by("batch_seconds_bucket", "le").items()},
    )


class Shown:
    """What a worker's view shows: the last reading, those before it, and whether it is ready."""

    def __init__(self, **about: str) -> None:
        self.about = about
        self.missing: Sequence[str] = ()
        self._past: deque[Reading] = deque()
        self._rates: deque[float] = deque(maxlen=PAST)

    def add(self, reading: Reading, missing: Sequence[str]) -> None:
        """Takes the next reading, and the reasons why the worker is not ready."""
        if self._past:
            before = self._past[-1]
            # A worker that was started again counts from 0.
            self._rates.append(max(reading.taken - before.taken, 0.0) / max(reading.at - before.at, 1e-9))
        self._past.append(reading)
        while len(self._past) > 2 and self._past[1].at <= reading.at - WINDOW_S:
            self._past.popleft()
        self.missing = missing

    @property
    def now(self) -> Reading:
        return self._past[-1]

    @property
    def then(self) -> Reading:
        return self._past[0]

    def per_second(self, value: Callable[[Reading], float]) -> float:
        """Returns by how much a counter has grown per second of the window."""
        return max(value(self.now) - value(self.then), 0.0) / max(self.now.at - self.then.at, 1e-9)

    def quantile(self, share: float) -> float | None:
        """Returns the time in ms within which this share of the window's batches was acknowledged, between the bounds of the histogram."""
        counts = [(bound, count - self.then.batches.get(bound, 0)) for bound, count in sorted(self.now.batches.items())]
        if not counts or not counts[-1][1]:
            return None
        wanted, low, below = counts[-1][1] * share, 0.0, 0.0
        for bound, count in counts:
            if count >= wanted:
                return 1000 * (low if math.isinf(bound) else low + (bound - low) * (wanted - below) / max(count - below, 1e-9))
            low, below = bound, count
        return None

    def history(self, width: int) -> str:
        """Returns the throughput of the last looks, one column each."""
        rates = list(self._rates)[-width:]
        top = max([*rates, 1.0])
        return "".join(_HEIGHTS[math.ceil(rate / top * 8)] for rate in rates)


def frame(console: Console, shown: Shown) -> RenderableType:
    """Returns the view of a worker: what fits on the console, without the least important parts."""
    head = Panel(_head(shown), title="[bold]penstock run[/]", title_align="left", border_style="cyan")
    end = Text("Ctrl-C stops, after finishing what is in flight", style="dim")
    stream, nodes, lag = _stream(shown, console.width), _nodes(shown), _lag(shown)
    letters = [Text(), _letters(shown)] if any(shown.now.letters.values()) else []
    return fitting(
        console,
        [head, stream, Text(), nodes, *letters, Text(), lag, end],
        [head, stream, nodes, *letters[1:], lag, end],
        [head, stream, nodes, *letters[1:], end],
        [head, stream, *letters[1:], end],
        [stream, end],
        [stream],
    )


def _head(shown: Shown) -> Text:
    generation = f"{shown.now.generation}" if shown.now.generation else "0, the topology file's versions"
    state = "ready" if not shown.missing else f"not ready: {'; '.join(shown.missing)}"
    text = facts(["state"] if shown.missing else [], **shown.about, generation=generation, state=state)
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _stream(shown: Shown, width: int) -> RenderableType:
    now = shown.now
    dead = sum(now.letters.values())
    rate = shown.per_second(lambda one: one.taken)
    p50, p99 = shown.quantile(0.5), shown.quantile(0.99)
    latency = "" if p50 is None or p99 is None else f"acknowledged within {p50:,.1f} ms (p50), {p99:,.1f} ms (p99); "
    rows = pairs()
    rows.columns[1].no_wrap, rows.columns[1].overflow = True, "ellipsis"
    line = Text(f"{rate:,.0f}", style="bold green") + Text(" records/s  ", style="default")
    line.append(shown.history(max(0, width - 50)), style="green")
    rows.add_row("throughput", line)
    counts = Text(f"{now.taken:,.0f} taken and acknowledged, {now.written:,.0f} outputs, ")
    rows.add_row("records", counts + Text(f"{dead:,.0f} dead letters", style="red" if dead else ""))
    rows.add_row("batches", f"{latency}{now.flight:,} in flight")
    return rows


def _nodes(shown: Shown) -> RenderableType:
    rows = Table.grid(padding=(0, 2))
    for _ in range(2):
        rows.add_column(no_wrap=True, overflow="ellipsis")
    for _ in range(3):
        rows.add_column(justify="right", no_wrap=True)
    rows.add_row(*(Text(name, style="dim") for name in ("node", "model", "rows/s", "µs per row", "failed rows")))
    for labels, (count, failed, seconds) in shown.now.nodes.items():
        before = shown.then.nodes.get(labels, (0.0, 0.0, 0.0))
        new, took = max(count - before[0], 0.0), max(seconds - before[2], 0.0)
        node, model, version = labels[:3]
        rate = new / max(shown.now.at - shown.then.at, 1e-9)
        rows.add_row(
            Text(node), Text(f"{model}@{version}", style="cyan"), f"{rate:,.0f}", f"{took / new * 1e6:,.1f}" if new else "-",
            Text(f"{failed:,.0f}", style="red" if failed else ""),
        )  # fmt: skip
    return rows


def _letters(shown: Shown) -> RenderableType:
    found = sorted(shown.now.letters.items(), key=lambda one: -one[1])[:3]
    text = Text("dead letters: " + ", ".join(f"{count:,.0f} {step} {reason}" for (step, reason, *_), count in found if count), style="red")
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _lag(shown: Shown) -> RenderableType:
    topics: dict[str, list[tuple[float, float]]] = {}
    for (topic, *_), one in shown.now.lag.items():
        topics.setdefault(topic, []).append(one)
    if not topics:
        return Text("no partitions yet", style="dim")
    rows = Table.grid(padding=(0, 2))
    rows.add_column(no_wrap=True, overflow="ellipsis")
    for _ in range(3):
        rows.add_column(justify="right", no_wrap=True)
    rows.add_row(*(Text(name, style="dim") for name in ("topic", "partitions", "backlog", "behind")))
    for topic, lags in topics.items():
        behind = max(seconds for _, seconds in lags)
        rows.add_row(Text(topic), f"{len(lags)}", f"{sum(count for count, _ in lags):,.0f}", f"{behind:,.1f} s")
    return rows


def drawable(console: Console, settings: Settings) -> bool:
    """Whether a worker's view can be drawn: on a terminal that moves its cursor, with a log for people."""
    return console.is_terminal and not console.is_dumb_terminal and settings.log_format == "text"


def watching(console: Console, settings: Settings, topology: str, *, workers: int = 1) -> Callable[[Pages], Any]:
    """Returns what draws the view of a worker, or of several, from their pages while they live. Lines of the log scroll above it."""

    @asynccontextmanager
    async def view(pages: Pages) -> AsyncIterator[None]:
        several = {"workers": f"{workers}"} if workers > 1 else {}
        shown = Shown(topology=topology, brokers=settings.brokers, group=f"{settings.application}.{topology}", **several)
        with Live(console=console, auto_refresh=False, transient=True) as live:
            telemetry.configure(settings.log_level, settings.log_format, stream=sys.stderr)  # which the view has replaced
            drawing = asyncio.create_task(_draw(pages, shown, live))
            try:
                yield
            finally:
                drawing.cancel()
                await asyncio.wait({drawing})
                telemetry.configure(settings.log_level, settings.log_format, stream=sys.__stderr__)

    return view


async def _draw(pages: Pages, shown: Shown, live: Live) -> None:
    """Draws until it is cancelled. A view that fails costs the worker nothing."""
    try:
        while True:
            page, _ = await pages.metrics("")
            verdict = await pages.ready()
            shown.add(read(page.decode(), time.monotonic()), [*verdict.body.get("missing", ())])
            live.update(frame(live.console, shown), refresh=True)
            await asyncio.sleep(PAGE_S)
    except Exception:
        live.update("", refresh=True)
        logger.exception("the live view has failed; the worker goes on without it")
