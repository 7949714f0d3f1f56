"""A deployment is a value: the rules at the top of `engine.deployment`, one by one."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from penstock.engine import Deployment, Plan, Router, Serving

ZERO, ONE, TWO = (Serving(number, Plan("flights", {}, {}), f"release-{number}") for number in range(3))


def test_next_deployment_leaves_the_one_before_as_it_was() -> None:
    """A reader that took the deployment before the swap scores the rest of its delivery with it."""
    taken = Deployment(ZERO)
    following = taken.followed_by(ONE)
    assert (following.primary, following.generation, following.previous) == (ONE, 1, ZERO)
    assert (taken.primary, taken.generation, taken.previous) == (ZERO, 0, None)
    with pytest.raises(FrozenInstanceError):
        taken.primary = ONE  # type: ignore[misc]  # what must not be possible


def test_only_the_plan_before_stays_loaded() -> None:
    """Else a worker would hold every model that it ever ran."""
    assert Deployment(ZERO).loaded == (ZERO,)
    assert Deployment(ZERO).followed_by(ONE).followed_by(TWO).loaded == (TWO, ONE)


def test_candidate_that_no_row_would_reach_is_refused() -> None:
    with pytest.raises(ValueError, match="1 candidates, but the router single has 0"):
        Deployment(ONE, candidates=(ONE,))


def test_candidate_has_the_generation_of_its_deployment() -> None:
    """Else the generation in an output's headers would not name its models."""
    both = Router("both", 1)
    assert Deployment(ONE, (ONE,), both, ZERO).loaded == (ONE, ONE, ZERO)
    with pytest.raises(ValueError, match="a candidate is not of generation 1"):
        Deployment(ONE, (TWO,), both)
