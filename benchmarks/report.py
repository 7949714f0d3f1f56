"""Results as tables: in the terminal, and as blocks between the markers of the pages, so that no figure is written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from benchmarks.contender import CONTENDERS
from benchmarks.results import TARGETS, Sitting
from penstock.cli.output import out, table
from penstock.errors import ConfigError

TITLES: Mapping[str, str] = {name: one.title for name, one in CONTENDERS.items()} | {
    "flink": "Flink, per record", "flink-batch": "Flink, micro-batched by hand", "kstreams": "Kafka Streams",
    "spark": "Spark Structured Streaming", "quix": "Quix Streams", "bytewax": "Bytewax",
    "faust-take": "plain Faust, take(1024)", "onnx": "the three models alone, no Kafka",
    "penstock-swapping": "Penstock, 1 worker, releases back to back", "penstock-swapping-not": "the same worker, seconds without",
    "penstock-swap-1s": "Penstock, 1 worker, a release a second", "penstock-swap-1s-not": "the same worker, seconds without",
    "penstock-large": "Penstock, 1 worker, 100 MB made ready every few seconds",
    "penstock-3": "Penstock, 3 workers, back and forth",
}  # fmt: skip

Column = tuple[str, str, str]  # figure, head, format

COLUMNS: Mapping[str, Sequence[Column]] = {
    "throughput": (
        ("ev_s", "events/s", ",.0f"), ("cpu_us_ev", "CPU µs/event", ".2f"), ("cores", "cores", ".2f"),
        ("other_cores", "other cores", ".2f"), ("rss_mb", "peak RSS MB", ",.0f"),
        ("start_s", "first output s", ".1f"), ("duplicates", "duplicates", ".0f"), ("swaps", "swaps", ".0f"),
    ),
    "paced": (
        ("rate", "events/s", ",.0f"), ("p50_ms", "p50 ms", ".1f"), ("p90_ms", "p90 ms", ".1f"),
        ("p99_ms", "p99 ms", ".1f"), ("max_ms", "max ms", ".0f"), ("cpu_us_ev", "CPU µs/event", ".0f"),
        ("missing", "missing", ".0f"), ("duplicates", "duplicates", ".0f"), ("swaps", "swaps", ".0f"), ("staged", "made ready", ".0f"),
    ),
    "compute": (("cpu_us_ev", "CPU µs/event", ".2f"),),
    "switch": (
        ("swaps", "swaps", ".0f"), ("switch_ms", "switch ms", ".0f"), ("switch_max_ms", "at most ms", ".0f"),
        ("rollback_ms", "rollback ms", ".0f"), ("rollback_max_ms", "at most ms", ".0f"), ("duplicates", "duplicates", ".0f"),
        ("missing", "missing", ".0f"),
    ),
}  # fmt: skip
HEADS = {
    "throughput": "Under backlog",
    "paced": "At a steady rate",
    "compute": "Compute alone",
    "switch": "From activate to the last worker",
}


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table before it is drawn."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def sheets(sitting: Sitting) -> list[Sheet]:
    """Returns all measurements as medians over the runs, one table per mode, and the targets that could be checked."""
    made = []
    for mode, columns in COLUMNS.items():
        names = dict.fromkeys(one.contender for one in sitting.results if one.mode == mode)
        if names:
            rows = tuple(_row(sitting, mode, name, columns) for name in names)
            made.append(Sheet(HEADS[mode], ("", "runs", "events", *(head for _, head, _ in columns), "outputs"), rows))
    judged = [(target, value) for target in TARGETS if (value := target.value(sitting)) is not None]
    if judged:
        rows = tuple(
            (one.what, f"{value:.2f}", f"{'≥' if one.at_least else '≤'} {one.bound:g}", "yes" if one.met(value) else "no")
            for one, value in judged
        )
        made.append(Sheet("Targets", ("", "measured", "target", "met"), rows))
    return made


def _row(sitting: Sitting, mode: str, name: str, columns: Sequence[Column]) -> tuple[str, ...]:
    runs = [one for one in sitting.results if (one.mode, one.contender) == (mode, name)]
    cells = [(sitting.median(mode, name, figure), form) for figure, _, form in columns]
    checks = ", ".join(dict.fromkeys(one.check for one in runs))
    return (
        TITLES.get(name, name),
        str(len(runs)),
        f"{runs[0].n:,}",
        *("-" if value is None else f"{value:{form}}" for value, form in cells),
        checks,
    )


def caption(sitting: Sitting) -> str:
    """Describes where and when, in two sentences."""
    facts = sitting.machine
    return f"Medians, {where(facts)}, which broker and harness share. {facts['broker']}. Events: {facts['flights']}, repeated."


def where(facts: Mapping[str, Any]) -> str:
    """The machine's facts as the end of a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"measured {facts['date'][:10]} at commit {facts['commit']} with Python {facts['python']}, {versions} on {facts['cores']} cores "
        f"({facts['cpu']}, {facts['memory_gib']} GiB, {facts['kernel']})"
    )


def show(*sheets: Sheet) -> None:
    """Prints tables to the terminal; in a file they are as wide as necessary."""
    console = out if out.is_terminal else Console(width=160, highlight=False)
    for sheet in sheets:
        drawn = table(sheet.title, *sheet.columns)
        for row in sheet.rows:
            drawn.add_row(*(escape(cell) for cell in row))
        console.print(drawn, "")


def markdown(sheet: Sheet, *, title: bool = True) -> str:
    """Returns a table for a page, under its title."""
    lines = [sheet.columns, ("---",) + ("---:",) * (len(sheet.columns) - 1), *sheet.rows]
    return (f"### {sheet.title}\n\n" if title else "") + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def block(sitting: Sitting) -> str:
    """Returns the part of a session that a page shows."""
    return "\n\n".join([*map(markdown, sheets(sitting)), caption(sitting)])


def write(page: Path, text: str, marker: str = "benchmark") -> None:
    """Writes text between the markers of a page. Raises ConfigError when the page has no markers."""
    begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    before, found, after = page.read_text(encoding="utf-8").partition(begin)
    if not found:
        raise ConfigError(f"{page} has no place for the figures; next: put {begin} where they belong")
    rest = after.partition(end)[2] if end in after else after
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest}", encoding="utf-8")
