"""The help of every command, on a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from penstock.cli.main import cli

COLUMNS = 80


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inside = command.get_command(context, name)
            assert inside is not None
            yield from commands(inside, (*path, name))


@pytest.mark.parametrize("path", [*commands(cli)], ids=" ".join)
def test_help_fits_a_terminal_of_80_columns(path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    shown = CliRunner().invoke(cli, [*path, "--help"], prog_name="penstock")
    assert shown.exit_code == 0
    assert shown.output.startswith("Usage: penstock")
    assert [line for line in shown.output.splitlines() if len(line) > COLUMNS] == []
