"""`penstock settings`: every setting, its value, and where it came from."""

from __future__ import annotations

import click
from rich.markup import escape

from penstock.cli.options import Invocation
from penstock.cli.output import format_option, out, print_json, table
from penstock.settings import describe

__all__ = ["settings"]


@click.command()
@click.option("--changed", is_flag=True, help="Only settings that are not at their default.")
@format_option
@click.make_pass_decorator(Invocation, ensure=True)
def settings(invocation: Invocation, /, changed: bool, form: str) -> None:
    """Show every setting: its value, where it came from, and what it does.

    \b
    A value comes from the first that has one:
      a flag          --commit-interval 2
      the environment PENSTOCK_COMMIT_INTERVAL=2
      a file          commit_interval = 2, in penstock.toml or --config FILE
      the default
    Passwords are never shown.
    """
    described = [one for one in describe(*invocation.resolve({})) if not (changed and one.source == "default")]
    if form == "json":
        print_json([one._asdict() for one in described])
        return
    shown = table("", "setting", "value", "what it does")
    for one in described:
        choices = f" One of {', '.join(one.choices)}." if one.choices else ""
        value = f"{one.value} {one.unit}".rstrip() if one.value else "-"
        value += f"\nfrom {one.source}" if one.source != "default" else ""
        shown.add_row(*map(escape, (one.name, value, one.help + choices)))
    out.print(shown)
