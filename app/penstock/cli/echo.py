"""Lines that need no layout, such as errors and documents of JSON: written by one function, which lets no control character through."""

from __future__ import annotations

import io

import click

from penstock.tame import tame

__all__ = ["echo", "shown"]


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Prints the text on stdout, or on stderr with `err`; `nl` ends it with a line end."""
    click.echo(tame(text), err=err, nl=nl)


def shown(error: click.ClickException) -> str:
    """Returns what click prints for an error in what was typed."""
    text = io.StringIO()
    error.show(file=text)
    return text.getvalue()
