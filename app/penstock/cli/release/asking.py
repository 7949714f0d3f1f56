"""What the operator's commands share: the topology by file or name, their settings, and how they run an operator."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, TypeVar

import click

from penstock.cli.options import CONNECTION
from penstock.cli.output import err
from penstock.operate.operator import Operator, operate
from penstock.settings import Settings
from penstock.topology.find import find
from penstock.topology.parse import parse
from penstock.topology.spec import Topology

__all__ = ["LOOKING", "SPEAKING", "ask", "named", "topology_argument"]

T = TypeVar("T")

LOOKING: Final = (*CONNECTION, "application", "topologies", "trust", "unsigned_control", "status_interval")
SPEAKING: Final = (*LOOKING, "signing_key", "models", "schemas", "prepare_timeout")

_UNSIGNED: Final = "UNSIGNED: every client that can write to the control topic can swap the models. For development only."


def topology_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the argument TOPOLOGY, which the command receives as the text `topology`; `named` returns its topology."""
    return click.argument("topology", metavar="TOPOLOGY")(command)


def named(text: str, settings: Settings) -> Topology:
    """Returns the topology in the file `text`, or the one of this name in the folder `topologies`. Raises TopologyError, ConfigError."""
    return parse(find(text, settings.topologies))


def ask(settings: Settings, topology: Topology, act: Callable[[Operator], Awaitable[T]], *, speaks: bool = False) -> T:
    """Returns the result of `act` with an open operator. SIGTERM interrupts like Ctrl-C.

    When it `speaks`, prints a warning before it does: that it is unsigned, and that the reports that it goes by are not checked.
    """
    if speaks and settings.unsigned_control and settings.signing_key is None:
        err.print(_UNSIGNED, style="bold red")

    async def warned(operator: Operator) -> T:
        if speaks and operator.unchecked:
            err.print(operator.unchecked, style="yellow", markup=False)
        return await act(operator)

    with _terminated_is_interrupted():
        return operate(settings, topology, warned)


@contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """Turns SIGTERM into an interrupt, so that a stopped operator aborts its release.

    Also where the shell has set interrupts to be ignored, as it does for what a script runs in the background.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, interrupt)}
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
