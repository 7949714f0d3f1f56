"""The demo's output: a live screen on a terminal, a line every few seconds elsewhere, a summary at the end.

It is made from a Tally and the two acts of Swaps only; this module reads no clock and no topic.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from demo.acts import Acts, came_to, folded, generations, stage, switch
from demo.tally import HISTOGRAM_BINS, NODES, Tally
from penstock.cli import live
from penstock.cli.live import Screen
from penstock.control.rollout import Stand

__all__ = ["Display", "Facts", "as_json", "frame", "line", "summary"]

RECENT: Final = 5_000
WAITING: Final = "the worker is starting: it verifies and warms its models, and joins its group ..."


@dataclass(frozen=True, slots=True)
class Facts:
    """The constants of a run: file, data, broker and releases as shown, and the requested events per second."""

    topology: str
    data: str
    broker: str
    releases: str
    speed: int


class Display:
    """Shows a tally and the acts now and then."""

    def __init__(self, console: Console, facts: Facts, tally: Tally, acts: Acts, screen: Screen) -> None:
        self._console, self._facts, self._tally, self._acts, self._screen = console, facts, tally, acts, screen

    def due(self, now: float) -> bool:
        """Whether it is time for the next frame. In a log, each step of a release also has a line."""
        return self._screen.due(now, self._steps())

    def show(self, now: float) -> None:
        """Draws the tally at `now`."""
        rate = self._tally.rate(now)
        self._screen.show(
            now,
            lambda: frame(self._console, self._facts, self._tally, self._acts, rate),
            lambda: line(self._tally, self._acts, rate),
            self._steps(),
        )

    def _steps(self) -> list[tuple[bool, bool, tuple[Stand, ...]]]:
        return [(act.began > 0, act.over, act.stands) for act in self._acts]


@contextmanager
def opened(console: Console, facts: Facts, tally: Tally, acts: Acts) -> Iterator[Display]:
    """Draws a live screen when the console is a terminal, else prints the facts once and then lines."""
    with live.opened(console, lambda: _head(facts)) as screen:
        yield Display(console, facts, tally, acts, screen)


def line(tally: Tally, acts: Acts, rate: float) -> str:
    """The tally in one line, for a log."""
    if not tally.received:
        return WAITING
    p50, p99 = tally.latency(50, RECENT), tally.latency(99, RECENT)
    auc = " ".join(f"{node} {tally.auc[node]}" for node in NODES)
    return (
        f"{_moment(tally.event_time)}  in {tally.sent:,} out {tally.received:,} dead {tally.dead_letters:,}  "
        f"{rate:,.0f} events/s  p50 {p50:.1f} ms p99 {p99:.1f} ms  AUC {auc}  generation {max(tally.generations)}"
        + "".join(f"\n  {act.command}: {'; '.join(map(str, act.stands)) or 'begun'}" for act in acts if act.began and not act.over)
    )


def frame(console: Console, facts: Facts, tally: Tally, acts: Acts, rate: float, *, ended: bool = False) -> RenderableType:
    """Returns the screen: what fits on the console, without the least important parts. `ended`: there is nothing left to stop."""
    narrow = console.width < live.NARROW
    head = Panel(folded(_head(facts)), title="[bold]penstock demo[/]", title_align="left", border_style="cyan")
    tables = Columns([_stream(tally, rate, facts.speed), _histogram(tally, narrow=narrow)], padding=(0, 2 if narrow else 4))
    middle: list[RenderableType] = [_progress(tally), Text()]
    swaps: list[RenderableType] = [Text(), stage(tally, acts)] if acts else []
    end: list[RenderableType] = [] if ended else [Text("Ctrl-C stops" if tally.received else WAITING, style="dim")]
    return live.fitting(
        console,
        [head, *middle, tables, *swaps, Text(), _latest(tally), *end],
        [head, *middle, tables, *swaps, *end],
        [*middle, tables, *swaps, *end],
        [*middle, *(swaps[1:] if any(act.began for act in acts) else [tables]), *end],
    )


def summary(facts: Facts, tally: Tally, ready: float, acts: Acts, *, complete: bool = True) -> RenderableType:
    """Returns the results of the run. `ready` is the time to the worker's first output, in seconds."""
    seconds, landed = max(tally.ended - tally.started, 1e-9), int(tally.judged.sum())
    told = live.facts(
        events=f"{tally.received:,} scored of {tally.sent:,} sent" + ("" if complete else " (stopped early)"),
        ids=f"{tally.answered:,} answered, {tally.outstanding:,} {'lost' if complete else 'not answered yet'}, {tally.doubled:,} doubled",
        throughput=f"{max(tally.received - 1, 0) / seconds:,.0f} events/s for {seconds:.1f} s (requested: {facts.speed:,} per second)",
        latency=f"p50 {tally.latency(50):.1f} ms, p99 {tally.latency(99):.1f} ms, from send to receipt in this process",
        truth=f"{landed:,} flights landed, {_share(tally.late.sum(), landed)} of them late; {tally.diverted:,} diverted, never judged",
        AUC=", ".join(f"{node} {str(tally.auc[node]).strip()}" for node in NODES),
        dead_letters=f"{tally.dead_letters:,}" + (f", the first: {tally.first_dead_letter}" if tally.dead_letters else ""),
        first_answer=f"{ready:.1f} s after the worker was started",
        broker=facts.broker,
    )
    if not any(act.began for act in acts):
        return told
    released = live.facts(**{name: came_to(act, tally) for name, act in zip(("deployed", "rolled back"), acts, strict=True)})
    return Group(told, released, Text(), generations(tally))


def as_json(facts: Facts, tally: Tally, ready: float, acts: Acts) -> dict[str, Any]:
    """The summary for programs; times in seconds, latencies in ms."""
    seconds = max(tally.ended - tally.started, 1e-9)
    return {
        "data": facts.data, "broker": facts.broker, "sent": tally.sent, "received": tally.received, "dead_letters": tally.dead_letters,
        "doubled": tally.doubled,
        "seconds": seconds, "events_per_second": max(tally.received - 1, 0) / seconds, "first_answer_seconds": ready,
        "latency_ms": {"p50": tally.latency(50), "p99": tally.latency(99)},
        "landed": int(tally.judged.sum()), "late": int(tally.late.sum()), "diverted": tally.diverted,
        "auc": {node: tally.auc[node].value for node in NODES},
        "releases": [
            {
                "command": act.command, "generation": act.generation, "error": act.error,
                "ready_seconds": act.ready - act.began, "switch_seconds": switch(act, tally),
            }
            for act in acts
        ],
        "generations": [
            {"generation": number, "outputs": one.outputs, "models": one.models, "auc": {node: one.auc[node].value for node in NODES}}
            for number, one in sorted(tally.generations.items())
        ],
    }  # fmt: skip


def _head(facts: Facts) -> Text:
    releases = {"releases": facts.releases} if facts.releases else {}
    return live.facts(("broker", "releases"), topology=facts.topology, data=facts.data, broker=facts.broker, **releases)


def _progress(tally: Tally) -> RenderableType:
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(no_wrap=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True, justify="right")
    row.add_row(f" {_moment(tally.event_time)}", ProgressBar(total=tally.total, completed=tally.sent), f"{tally.sent / tally.total:.0%} ")
    return row


def _stream(tally: Tally, rate: float, speed: int) -> RenderableType:
    rows = live.pairs()
    rows.add_row("[bold]stream[/]", "")
    rows.add_row("throughput", f"[bold green]{rate:,.0f}[/] events/s (of {speed:,})")
    rows.add_row("latency p50", f"[bold]{tally.latency(50, RECENT):.1f}[/] ms")
    rows.add_row("latency p99", f"[bold]{tally.latency(99, RECENT):.1f}[/] ms")
    rows.add_row("events in", f"{tally.sent:,}")
    rows.add_row("scored", f"{tally.received:,}")
    rows.add_row("dead letters", Text(f"{tally.dead_letters:,}", style="red" if tally.dead_letters else ""))
    rows.add_row("in the air", f"{tally.in_air:,}")
    rows.add_row("", "")
    rows.add_row("[bold]AUC so far[/]", "")
    for node in NODES:
        rows.add_row(node, f"[bold cyan]{tally.auc[node]}[/]")
    return rows


def _histogram(tally: Tally, *, narrow: bool) -> RenderableType:
    rows, width = Table.grid(padding=(0, 2)), live.BAR // 2 if narrow else live.BAR
    rows.add_row("[bold]score[/]", "[bold]flights[/]", "", f"[bold]{'late' if narrow else 'late in truth'}[/]")
    for number in range(HISTOGRAM_BINS):
        share = tally.scores[number] / max(int(tally.scores.sum()), 1)
        low, high = number / HISTOGRAM_BINS, (number + 1) / HISTOGRAM_BINS
        truth = _share(tally.late[number], tally.judged[number])
        rows.add_row(f"{low:.1f}-{high:.1f}", Text(live.bar(share, width), style="cyan"), f"{share:4.0%}", truth)
    return rows


def _latest(tally: Tally) -> RenderableType:
    rows = Table.grid(padding=(0, 2))
    rows.add_row("[bold]just landed[/]", "[bold]to[/]", *(f"[bold]{node}[/]" for node in NODES), "[bold]truth[/]")
    for verdict in reversed(tally.latest):
        scores = (f"{score:.2f}" for score in verdict.prediction.scores)
        rows.add_row(verdict.prediction.flight_id, verdict.prediction.dest, *scores, _truth(verdict.arr_delay, late=verdict.late))
    return rows


def _truth(arr_delay: float, *, late: bool) -> Text:
    when = f"{arr_delay:.0f} min late" if arr_delay > 0 else f"{-arr_delay:.0f} min early" if arr_delay < 0 else "on time"
    return Text(when, style="red" if late else "green")


def _share(part: Any, whole: Any) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _moment(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M} UTC"
