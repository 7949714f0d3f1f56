"""The guard's counts and decision: additive, monotone, and not moved by records that are bad for every model."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.evidence.guard import Counts, Rule, Verdict, exceeds

numbers = st.integers(0, 10_000)
counts = st.builds(Counts, numbers, numbers, numbers, numbers)
shares = st.floats(0, 1, allow_nan=False)
rules = st.builds(Rule, shares, st.integers(1, 10_000), st.floats(0, 1_000))


@given(counts, counts, counts)
def test_counts_merge_in_any_order(one: Counts, other: Counts, third: Counts) -> None:
    assert one + other == other + one
    assert (one + other) + third == one + (other + third)
    assert one + Counts() == one


@given(counts)
def test_share_is_a_share_of_rows_that_a_plan_scores(found: Counts) -> None:
    assert 0 <= found.share <= 1
    assert found.judged == found.ok + found.new


@given(rules, counts, numbers, st.floats(0, 1_000))
def test_records_that_are_bad_for_both_plans_move_no_decision(rule: Rule, found: Counts, flood: int, elapsed: float) -> None:
    checked = replace(found, unchecked=0)
    assert rule.verdict(replace(checked, both=checked.both + flood), elapsed) is rule.verdict(checked, elapsed)


@given(rules, counts, st.integers(1, 10_000), st.floats(0, 1_000))
def test_more_failures_of_the_new_plan_never_help_it(rule: Rule, found: Counts, more: int, elapsed: float) -> None:
    if rule.verdict(found, elapsed) is Verdict.BAD:
        assert rule.verdict(replace(found, new=found.new + more), elapsed) is Verdict.BAD


@given(rules, counts, st.integers(1, 10_000))
def test_more_good_rows_never_make_it_bad(rule: Rule, found: Counts, more: int) -> None:
    if not exceeds(found, rule.share, least=rule.rows):
        assert not exceeds(replace(found, ok=found.ok + more), rule.share, least=rule.rows)


@given(rules, numbers, numbers, st.floats(0, 1_000))
def test_plan_without_failures_of_its_own_is_never_bad(rule: Rule, ok: int, both: int, elapsed: float) -> None:
    assert rule.verdict(Counts(ok=ok, both=both), elapsed) is not Verdict.BAD


@given(st.floats(0.001, 0.5), st.integers(100, 10_000))
def test_plan_that_fails_on_every_row_is_bad_after_the_share_of_the_window(share: float, rows: int) -> None:
    rule, few = Rule(share, rows, 60), int(share * rows)
    assert rule.verdict(Counts(new=few), 0) is Verdict.WAIT
    assert rule.verdict(Counts(new=few + 1), 0) is Verdict.BAD


@given(counts, st.integers(1, 10))
def test_unchecked_rows_are_like_the_checked_ones(found: Counts, times: int) -> None:
    """The share is that of a run in which all were checked, with the same proportion."""
    checked = replace(found, unchecked=0)
    sampled = replace(checked, unchecked=(checked.new + checked.both) * times)
    whole = replace(checked, new=checked.new * (1 + times), both=checked.both * (1 + times))
    assert sampled.resolved().share == pytest.approx(whole.share)


@given(counts)
def test_resolved_rows_are_those_that_failed(found: Counts) -> None:
    """None is lost, and they stay unchecked where nothing says what they are like."""
    resolved = found.resolved()
    assert (resolved.ok, resolved.new + resolved.both + resolved.unchecked) == (found.ok, found.new + found.both + found.unchecked)
    assert resolved.unchecked in (0, found.unchecked * (found.new + found.both == 0))


@given(rules, counts, st.floats(0, 1_000))
def test_generation_is_not_good_while_unchecked_rows_could_make_it_bad(rule: Rule, found: Counts, elapsed: float) -> None:
    if rule.verdict(found, elapsed) is Verdict.GOOD:
        assert rule.verdict(replace(found, new=found.new + found.unchecked, unchecked=0), elapsed) is Verdict.GOOD


def test_guard_ends_after_its_rows_and_its_seconds() -> None:
    rule = Rule(share=0.01, rows=1000, seconds=60)
    assert rule.verdict(Counts(ok=1000), 59) is Verdict.WAIT
    assert rule.verdict(Counts(ok=999), 61) is Verdict.WAIT
    assert rule.verdict(Counts(ok=990, new=10), 60) is Verdict.GOOD
    assert rule.verdict(Counts(ok=10_000, new=101), 60) is Verdict.GOOD
    assert rule.verdict(Counts(ok=10_000, new=102), 60) is Verdict.BAD


def test_share_of_one_allows_everything() -> None:
    assert Rule(share=1.0, rows=1, seconds=0).verdict(Counts(new=10**6), 1) is Verdict.GOOD
