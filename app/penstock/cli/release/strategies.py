"""How the strategy of a release is typed: the options of `penstock deploy`, in percent of the units."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

import click

from penstock.control.strategy import SINGLE, Canary, Single, Split, Strategy, shares_of
from penstock.operate.state import share

__all__ = ["Percent", "strategy_of", "strategy_options", "text_of"]

F = TypeVar("F", bound=Callable[..., Any])


class Percent(click.ParamType):
    """A share of the units as percent: more than 0, and at most 100."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            percent = Decimal(str(value).strip().removesuffix("%"))
        except InvalidOperation:
            percent = Decimal("NaN")
        if not (percent.is_finite() and 0 < percent <= 100):
            self.fail(f"{value!r}: write percent, more than 0 and at most 100, such as 5 or 0.5", param, ctx)
        return float(percent / 100)


class _Steps(Percent):
    """Several of them, with commas between."""

    name = "steps"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return tuple(super(_Steps, self).convert(one, param, ctx) for one in str(value).split(","))


def strategy_options(command: F) -> F:
    """Adds the options, which the command receives as `canary` and `split`; `strategy_of` reads them."""
    for option in (
        click.option("--split", type=Percent(), metavar="PERCENT", help="Try it: it answers this share of the units."),
        click.option(
            "--canary", type=_Steps(), metavar="PERCENT,...", help="Try it: it answers the first share of the units, and `promote` goes on."
        ),
    ):
        command = option(command)
    return command


def strategy_of(canary: tuple[float, ...] | None, split: float | None) -> Strategy:
    """Returns the strategy of the options. Raises click.UsageError for two of them, and for shares that make no trial."""
    if canary is not None and split is not None:
        raise click.UsageError("a release has one strategy: give --canary or --split")
    if canary is not None:
        try:
            return Canary(canary)
        except ValueError as error:
            raise click.BadParameter(f"{error}: write them as 1,5,25", param_hint="--canary") from None
    if split is not None:
        if split == 1:
            raise click.BadParameter("100 % is no trial: leave the option out", param_hint="--split")
        return Split(split)
    return SINGLE


def text_of(strategy: Strategy) -> str:
    """Returns what a release does by its strategy, as one line; "" where it is live at once."""
    if isinstance(strategy, Single):
        return ""
    of = f"of the units ({strategy.unit or 'record keys'})"
    match strategy:
        case Canary():
            return f"on trial: it answers {', then '.join(map(share, shares_of(strategy)))} {of}, then it is live"
        case Split():
            return f"on trial: it answers {share(strategy.share)} {of}"
