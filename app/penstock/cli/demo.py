"""`penstock demo`: the command of the example in `examples/flights/demo`, which is not part of this package.

The example runs from a clone of the repository, which holds its topology, models and flights. Elsewhere, the command prints what to do.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Final, NoReturn

import click

from penstock.errors import ConfigError

__all__ = ["demo", "find_examples"]

_EXAMPLES: Final = Path("examples/flights")
_HELP: Final = "Score half a year of real flights, live, and swap the models. Runs from a clone of the repository."


def find_examples(start: Path | None = None) -> Path:
    """Returns the folder `examples/flights` of the clone that contains `start` (default: the current directory), or else of the clone
    that this package is installed from (`pip install -e`).

    Raises ConfigError when neither exists.
    """
    begin = (start or Path.cwd()).resolve()
    for root in (begin, *begin.parents, *Path(__file__).resolve().parents):
        if (root / "pyproject.toml").is_file() and (root / _EXAMPLES / "demo" / "command.py").is_file():
            return root / _EXAMPLES
    raise ConfigError(
        f"the demo runs from a clone of Penstock, and {begin} is not in one: its flights, models and topology are not part of the package; "
        "clone the repository and run `make demo` there"
    )


def _command() -> click.Command:
    """Returns the command of the example; outside a clone, a command that raises the error from `find_examples`."""
    try:
        examples = find_examples()
    except ConfigError as error:
        return _missing(error)
    if str(examples) not in sys.path:
        sys.path.insert(0, str(examples))  # the scripts of an example import each other from their own folder
    command = importlib.import_module("demo.command").demo
    assert isinstance(command, click.Command), f"{examples / 'demo'} has no click command"
    return command


def _missing(error: ConfigError) -> click.Command:
    def fail(arguments: tuple[str, ...]) -> NoReturn:
        raise error

    anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    rest = click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)
    return click.Command("demo", callback=fail, params=[rest], help=_HELP, context_settings=anything)


demo: Final = _command()
