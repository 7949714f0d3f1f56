"""A metric meets its threshold, or the message says by how much it does not."""

from __future__ import annotations

import math

import pytest

from penstock.topology.requirements import requirement, unmet
from penstock.topology.spec import Mark, Requirement

METRICS = {"auc": 0.9, "log_loss": 0.28}


@pytest.mark.parametrize(
    ("threshold", "met"),
    [(">= 0.9", True), ("<= 0.9", True), ("> 0.9", False), ("< 0.9", False), ("> 0.8999999", True), ("< 0.9000001", True), (">= 1", False)],
)
def test_bounds(threshold: str, met: bool) -> None:
    found = requirement("auc", threshold, Mark(1, 1))
    assert found is not None
    assert (unmet([found], METRICS) == []) is met


def test_message_names_metric_value_and_bound() -> None:
    """To six digits; in full where 0.8999999 and 0.9 would read alike."""
    asked = [Requirement("auc", ">=", 0.9)]
    assert unmet(asked, {"auc": 0.123456789}) == ["auc is 0.123457, required is >= 0.9"]
    assert unmet(asked, {"auc": 0.8999999}) == ["auc is 0.8999999, required is >= 0.9"]


def test_every_requirement_that_is_not_met_is_told() -> None:
    asked = [Requirement("auc", ">=", 0.95), Requirement("log_loss", "<", 0.4), Requirement("logloss", "<", 0.4)]
    assert unmet(asked, METRICS) == ["auc is 0.9, required is >= 0.95", "logloss is missing, required is < 0.4; known: auc, log_loss"]
    assert unmet(asked[2:], {}) == ["logloss is missing, required is < 0.4; there are no metrics"]


@pytest.mark.parametrize("comparison", [">=", "<=", ">", "<"])
def test_not_a_number_meets_nothing(comparison: str) -> None:
    assert unmet([Requirement("auc", comparison, 0.0)], {"auc": math.nan}) == [f"auc is nan, required is {comparison} 0"]


@pytest.mark.parametrize("text", ["", "0.85", ">=", "== 1", ">= .", ">= inf", ">= 1e100", ">= 0.85 ", "between 0 and 1"])
def test_what_is_no_threshold(text: str) -> None:
    assert requirement("auc", text, Mark(1, 1)) is None
