"""`penstock demo`: the command of the example in `examples/flights/demo`, which is no part of this package.

The example runs from a clone of the repository, where its topology, models and flights are. Outside of one, the command prints what to do.
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
    """The folder `examples/flights` of the clone that holds `start` (the current directory unless given), else of the clone that this
    package is installed from (`pip install -e`).

    Raises ConfigError when there is neither.
    """
    begin = (start or Path.cwd()).resolve()
    for root in (begin, *begin.parents, *Path(__file__).resolve().parents):
        if (root / "pyproject.toml").is_file() and (root / _EXAMPLES / "demo" / "command.py").is_file():
            return root / _EXAMPLES
    raise ConfigError(
        f"the demo runs from a clone of Penstock, and {begin} is not in one: its flights, models and topology are not part of the package; "
        "clone the repository, and call `make demo` there"
    )


def _command() -> click.Command:
    """The example's own command; outside a clone, one that raises the error which `find_examples` raised."""
    try:
        examples = find_examples()
    except ConfigError as error:
        return _missing(error)
    if str(examples) not in sys.path:
        sys.path.insert(0, str(examples))  # an example is a folder of scripts, which import each other from where they lie
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
