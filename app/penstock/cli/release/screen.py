"""The changes of a deploy, and its progress: on a terminal a live table, elsewhere a line per report of a worker."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from penstock.cli.output import table
from penstock.cli.release.words import COLOURS, compared_lines, short
from penstock.control.rollout import Stand
from penstock.operate.comparing import Compared
from penstock.operate.operator import Phase, Progress

__all__ = ["Screen", "print_changes"]


class Screen(AbstractContextManager["Screen"]):
    """Pass `show` to an operator as its `on_progress`, and `compare` as its `on_changes`.

    `last` is the latest progress, None before the first. `changes` are those that were shown, also before. `unchecked` is the operator's.
    """

    def __init__(self, console: Console, changes: Iterable[Compared] = ()) -> None:
        self.last: Progress | None = None
        self.changes = tuple(changes)
        self.unchecked = ""
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        if self._live:
            self._stack.enter_context(self._live)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def compare(self, changes: tuple[Compared, ...]) -> None:
        """Prints the changes."""
        self.changes = changes
        print_changes(self._console, changes)

    def show(self, progress: Progress) -> None:
        """Prints what has changed."""
        before, self.last = self.last, progress
        news = _news(before, progress)
        if before is None or before.phase is not progress.phase:
            news.insert(0 if progress.phase is not Phase.ABORTED else len(news), _headline(progress))
        if self._live:
            self._live.update(_table(progress), refresh=True)
            news = [line for line in news if not line.startswith(" ")]
        for line in news:
            self._console.print(line)


def print_changes(console: Console, changes: Iterable[Compared]) -> None:
    """Prints the changes with their metrics, and a warning for each node whose model gets worse."""
    listed = tuple(changes)
    for line, style in compared_lines(listed):
        console.print(line, style=style or None, markup=False)
    for one in listed:
        if one.worse:
            metrics = ", ".join(metric.name for metric in one.worse)
            warning = f"warning: {one.difference.after} is worse than {one.difference.before}, the live version of {one.difference.node}"
            console.print(f"{warning}: {metrics}", style="red", markup=False)


def _news(before: Progress | None, now: Progress) -> list[str]:
    """Returns a line for each worker that has reported a new state of the release."""
    known = before.stands if before else ()
    return [f"  {escape(str(one))}" for one in now.stands if one not in known and (one.state or not one.live)]


def _headline(progress: Progress) -> str:
    release = progress.release
    if progress.phase is Phase.ABORTED:
        return f"[red]aborted[/] {release.id}; the active generation is unchanged"
    if progress.phase is Phase.ACTIVATED:
        return f"[green]activated[/] {release.id}"
    if progress.phase is Phase.PROMOTED:
        return f"[green]promoted[/] {release.id}"
    if progress.phase is Phase.ENDED:
        return f"[red]ended[/] the trial of {release.id}"
    return f"announced {release.id} by {escape(release.author)}" + (f": {escape(release.reason)}" if release.reason else "")


def _table(progress: Progress) -> Table:
    of = f"of {short(progress.release.id)}"
    shown = table("", "worker", "state", of, "generation", wraps=of)
    for one in progress.stands:
        shown.add_row(escape(one.worker), _state(one), escape(one.detail), str(progress.generations.get(one.worker, "")))
    return shown


def _state(stand: Stand) -> str:
    colour = COLOURS.get(stand.state, "cyan") if stand.live else "red"
    return f"[{colour}]{escape(stand.step)}[/]"
