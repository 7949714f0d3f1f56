"""A deployment is a value: the rules at the top of `engine.deployment`, one by one."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from penstock.engine import Deployment, Plan, Serving

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


def test_what_is_on_trial_has_the_generation_of_its_deployment() -> None:
    """Else the generation in an output's headers would not name its models."""
    tried = Serving(1, Plan("flights", {}, {}), "release-9")
    assert Deployment(ONE, tried, ZERO).loaded == (ONE, tried, ZERO)
    with pytest.raises(ValueError, match="what is on trial is not of generation 1"):
        Deployment(ONE, TWO)


def test_a_trial_leaves_the_plan_loaded_that_a_rollback_returns_to() -> None:
    """The live plan goes on in it, as another generation; only what replaces it makes it the previous one."""
    begun = Deployment(ONE, previous=ZERO).followed_by(Serving(2, ONE.plan, ONE.release), tried := Serving(2, TWO.plan, TWO.release))
    assert begun.previous is ZERO
    promoted = begun.followed_by(Serving(3, tried.plan, tried.release))
    assert promoted.previous is begun.primary
    assert promoted.trial is None
