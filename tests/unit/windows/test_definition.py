"""A definition says what it computes, refuses what it cannot, and names its state by what the state depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from penstock.windows import Aggregate, Definition, LookBack

SPENT = Definition(("user",), (Aggregate("spent", "sum", "amount"),), (LookBack("5m", 300_000),))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Aggregate("a", "sum"), "a: sum needs a value"),
        (lambda: Aggregate("a", "last", "v", k=2), "k is for last_k"),
        (lambda: Aggregate("a", "last_k", "v", k=65), "from 1 to 64"),
        (lambda: Aggregate("a", "distinct"), "a: distinct needs a value"),
        (lambda: Aggregate("a", "quantile", "v"), "q is for quantile"),
        (lambda: Aggregate("a", "quantile", "v", q=1.1), "from 0 to 1"),
        (lambda: Aggregate("a", "sum", "v", q=0.5), "q is for quantile"),
        (lambda: replace(SPENT, aggregates=(*SPENT.aggregates, Aggregate("a", "distinct", "amount"))), "of no other aggregate"),
        (lambda: LookBack("5m", 300_000, 7), "5m: 300000 ms cannot be 7 hops"),
        (lambda: LookBack("0", 0), "cannot be 12 hops"),
        (lambda: replace(SPENT, by=()), "needs keys"),
        (lambda: replace(SPENT, aggregates=SPENT.aggregates * 2), "two features have one name"),
        (lambda: replace(SPENT, lateness=-1), "no less than 0"),
        (lambda: replace(SPENT, cap=0), "at least 1"),
    ],
)
def test_what_cannot_be_computed_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_state_keeps_its_name_when_only_features_change() -> None:
    """A mean needs the sum that is kept already, so no history is lost when one is added."""
    more = replace(SPENT, aggregates=(*SPENT.aggregates, Aggregate("usual", "mean", "amount")), include_self=True, ahead=1, cap=9)
    assert more.state == SPENT.state


def test_another_quantile_of_the_same_values_is_the_same_state() -> None:
    high = replace(SPENT, aggregates=(Aggregate("high", "quantile", "amount", q=0.95),))
    assert replace(high, aggregates=(*high.aggregates, Aggregate("middle", "quantile", "amount", q=0.5))).state == high.state


@pytest.mark.parametrize(
    "other",
    [
        replace(SPENT, by=("card",)),
        replace(SPENT, aggregates=(Aggregate("spent", "sum", "amount * 2"),)),
        replace(SPENT, aggregates=(Aggregate("spent", "sum", "amount", where="paid"),)),
        replace(SPENT, aggregates=(Aggregate("spent", "max", "amount"),)),
        replace(SPENT, aggregates=(*SPENT.aggregates, Aggregate("high", "quantile", "amount", q=0.95))),
        replace(SPENT, aggregates=(*SPENT.aggregates, Aggregate("shops", "distinct", "shop"))),
        replace(SPENT, look_backs=(LookBack("5m", 300_000, 6),)),
        replace(SPENT, exact=True),
        replace(SPENT, late="update"),
        replace(SPENT, lateness=1),
    ],
)
def test_another_state_has_another_name(other: Definition) -> None:
    assert other.state != SPENT.state


def test_name_of_a_state_is_the_same_in_every_process() -> None:
    """It names a topic: a change of this text is a new state for every user, so it needs another `FORMAT`."""
    assert SPENT.state == "de4b88091e3faf20"
