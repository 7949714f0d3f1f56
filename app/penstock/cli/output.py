"""How commands print: text for people on stdout, JSON for programs with `--format json`, everything else on stderr."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import click
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from penstock.cli.echo import echo
from penstock.tame import tame, tame_json

__all__ = ["counted", "err", "format_option", "out", "print_json", "print_json_line", "table"]

F = TypeVar("F", bound=Callable[..., Any])

# Piped output is read by a pager, a log or grep. They fold lines themselves or need whole lines, unless COLUMNS sets a width.
_WIDTH: Final = None if sys.stdout.isatty() else shutil.get_terminal_size((10_000, 24)).columns

_LEAST: Final = 30  # columns in which a sentence can be read


class _Tame(Console):
    """A console whose texts contain no control characters, wherever they come from."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(tame(segment.text), segment.style)


out = _Tame(highlight=False, soft_wrap=True, width=_WIDTH)
err = _Tame(stderr=True, highlight=False, soft_wrap=True)


def format_option(command: F) -> F:
    """Adds `--format text|json`, which the command receives as the argument `form`."""
    return click.option(
        "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True, help="For people, or for programs."
    )(command)


def counted(number: int, noun: str) -> str:
    """Returns `1 event`, `2 events`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def print_json(value: Any) -> None:
    """Prints one indented JSON document on stdout."""
    echo(tame_json(json.dumps(value, indent=2, ensure_ascii=False, default=str)))


def print_json_line(value: Any) -> None:
    """Prints one JSON document on one line of stdout, for commands that go on."""
    echo(tame_json(json.dumps(value, ensure_ascii=False, default=str)))


class _Listing(Table):
    """A table whose cells stay whole, but for those of the one column that `wraps`; where it is too wide, a block of lines per row."""

    def __init__(self, title: str, columns: Sequence[str], wraps: str | None) -> None:
        super().__init__(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        self._wraps = len(columns) - 1 if wraps is None else columns.index(wraps)
        for number, column in enumerate(columns):
            self.add_column(column, overflow="fold", no_wrap=number != self._wraps)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = [[_text(console, cell) for cell in row] for row in zip(*(column.cells for column in self.columns), strict=True)]
        heads = [_text(console, column.header) for column in self.columns]
        widths = [max(map(_width, column), default=0) for column in zip(heads, *rows, strict=True)]
        widths[self._wraps] = min(widths[self._wraps], _LEAST)
        if sum(widths) + 2 * (len(widths) - 1) <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        if self.title:
            yield _text(console, self.title)
        name = max(map(_width, heads[1:]), default=0)
        for row in rows:
            yield row[0]
            block = Table.grid(padding=(0, 2))
            block.add_column(style="dim", width=name + 2)
            block.add_column(overflow="fold")
            for head, cell in zip(heads[1:], row[1:], strict=True):
                if cell.plain not in ("", "-"):
                    block.add_row(Text.assemble("  ", head), cell)
            yield block


def _text(console: Console, cell: RenderableType) -> Text:
    return cell if isinstance(cell, Text) else console.render_str(str(cell))


def _width(text: Text) -> int:
    return max(map(cell_len, text.plain.splitlines()), default=0)


def table(title: str, *columns: str, wraps: str | None = None) -> Table:
    """Returns an empty table in the common style; add rows of text and print it with `out`.

    Names and numbers are never cut: the cells of the column `wraps` (the last one by default) go over several lines, and where that
    is not enough, each row is a block of lines.
    """
    return _Listing(title, columns, wraps)
