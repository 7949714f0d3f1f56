"""How commands print: text for people on stdout, JSON for programs with `--format json`, everything else on stderr."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from penstock.cli.echo import echo
from penstock.tame import tame, tame_json

__all__ = ["err", "format_option", "out", "print_json", "print_json_line", "table"]

F = TypeVar("F", bound=Callable[..., Any])

# Piped output is read by a pager, a log or grep. They fold lines themselves or need whole lines, unless COLUMNS sets a width.
_WIDTH: Final = None if sys.stdout.isatty() else shutil.get_terminal_size((10_000, 24)).columns


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


def print_json(value: Any) -> None:
    """Prints one indented JSON document on stdout."""
    echo(tame_json(json.dumps(value, indent=2, ensure_ascii=False, default=str)))


def print_json_line(value: Any) -> None:
    """Prints one JSON document on one line of stdout, for commands that go on."""
    echo(tame_json(json.dumps(value, ensure_ascii=False, default=str)))


def table(title: str, *columns: str) -> Table:
    """Returns an empty table in the common style; add rows and print it with `out`."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made
