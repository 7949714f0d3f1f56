"""`penstock watch`: an alias that moves in the registry becomes a release."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from penstock.cli.options import with_settings
from penstock.cli.output import err, format_option, out, print_json_line
from penstock.cli.release.asking import SPEAKING, ask, named, topology_argument
from penstock.cli.release.screen import Screen
from penstock.errors import AccessRefused, ConfigError, PenstockError, TransportError
from penstock.operate.operator import Operator
from penstock.registry.names import ALIAS
from penstock.settings import Settings

__all__ = ["watch"]


@click.command()
@topology_argument
@click.option("--once", is_flag=True, help="Look once: release what is due, and exit.")
@click.option("--interval", type=click.FloatRange(0.1), default=10.0, show_default=True, metavar="S", help="Seconds between two looks.")
@click.option("--min-ready", type=click.IntRange(0), metavar="N", help="As for `deploy`.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), metavar="S", help="As for `deploy`.")
@with_settings(*SPEAKING)
@format_option
def watch(topology: str, once: bool, interval: float, min_ready: int | None, timeout: float | None, settings: Settings, form: str) -> int:
    """Follow the aliases that TOPOLOGY names: when one moves in the registry, release the version that it points at.

    \b
      penstock watch flights &
      penstock model alias flight-trees production 2

    Aliases that moved together are released together. A version that failed on a worker, or that was rolled back, is not
    released again until its alias moves. The control topic records the handled versions, so a restart misses nothing. Errors
    are printed and do not end the command; Ctrl-C does. With --once the exit code is that of `deploy`, and 0 when nothing was due.
    """
    found = named(topology, settings)
    followed = [f"{node.name} ({node.model})" for node in found.model_nodes if ALIAS.fullmatch(node.model.version)]
    if not followed:
        raise ConfigError(f"{found.name} names no alias, so there is nothing to follow: write NAME@ALIAS at a node of {found.file}")
    look = _Look(min_ready, timeout, form)
    if once:
        ask(settings, found, look, speaks=True)
        return look.late
    err.print(f"following {', '.join(followed)} every {interval:g} s", markup=False)
    try:
        ask(settings, found, lambda it: _keep_looking(it, look, interval), speaks=True)
    except KeyboardInterrupt:
        err.print("stopped")
    return 0


class _Look:
    """One look at the registry, and the release that is due. A problem with an alias is printed once, when it begins."""

    def __init__(self, min_ready: int | None, timeout: float | None, form: str) -> None:
        self._min_ready, self._timeout, self._form = min_ready, timeout, form
        self._problems: tuple[str, ...] = ()
        self.late = 0

    async def __call__(self, operator: Operator) -> None:
        due = await operator.moved_aliases()
        for problem in due.problems:
            if problem not in self._problems:
                err.print(f"error: {problem}", markup=False)
        self._problems = due.problems
        if not due.changes:
            return
        self._say({"moved": list(due.words), "unchecked": operator.unchecked or None}, due.reason)
        with Screen(err) as screen:
            deployed = await operator.deploy(
                due.changes, reason=due.reason, min_ready=self._min_ready, timeout=self._timeout, on_progress=screen.show,
                on_changes=screen.compare,
            )  # fmt: skip
        self.late = int(bool(deployed.late))
        told = {
            "released": True,
            "release": deployed.release.id,
            "generation": deployed.generation,
            "late": [one.worker for one in deployed.late],
        }
        self._say(told, f"generation {deployed.generation} is active")

    def _say(self, told: dict[str, Any], text: str) -> None:
        """Prints one line, text or JSON: the command runs for days."""
        if self._form == "json":
            print_json_line(told)
        else:
            out.print(text, markup=False)


async def _keep_looking(operator: Operator, look: _Look, interval: float) -> None:
    operator.author()  # raises ConfigError now rather than at every look
    last = ""
    while True:
        try:
            await look(operator)
            last = ""
        except AccessRefused:
            raise  # waiting does not help
        except PenstockError as error:
            again = f"; looking again every {interval:g} s" if isinstance(error, TransportError) else ""
            if str(error) != last:
                err.print(f"error: {error}{again}", markup=False)
            last = str(error)
        await asyncio.sleep(interval)
