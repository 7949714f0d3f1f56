"""Laws of access: what a bucket admits, what narrower rules allow, which rows are refused, and what an edit keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.access.file import Access, ApiKey, with_key, with_revocation
from penstock.access.keys import digest
from penstock.access.meter import Ledger, Limits, Meter
from penstock.access.rules import Rules
from penstock.control.rights import RIGHTS
from penstock.errors import RateLimited, TooLarge

rates = st.floats(0.01, 1000)
limits = st.builds(Limits, st.none() | rates, st.none() | rates, st.none() | st.integers(1, 2000))
traffic = st.lists(st.tuples(st.floats(0, 5), st.integers(0, 2000)), max_size=40)  # seconds since the last request, rows


@given(limits, traffic)
def test_no_time_admits_more_than_capacity_and_rate(limits: Limits, traffic: list[tuple[float, int]]) -> None:
    """For every pair of admitted requests: those from one to the other are within what the bucket holds and fills."""
    meter, now, admitted = Meter("shop", limits, Ledger()), 0.0, []
    for passed, rows in traffic:
        now += passed
        try:
            meter.spend(rows, now)
        except (RateLimited, TooLarge):
            continue
        assert limits.request_rows is None or rows <= limits.request_rows
        admitted.append((now, rows))
    for first in range(len(admitted)):
        for last in range(first, len(admitted)):
            time = admitted[last][0] - admitted[first][0]
            some = admitted[first : last + 1]
            if limits.requests is not None:
                assert len(some) <= (max(1, limits.requests) + limits.requests * time) * (1 + 1e-6)
            if limits.rows is not None:
                most = max(1.0, limits.rows, limits.request_rows or 0)
                assert sum(rows for _, rows in some) <= (most + limits.rows * time) * (1 + 1e-6)


@given(limits, traffic)
def test_refused_request_succeeds_when_it_is_tried_as_told_and_not_before(limits: Limits, traffic: list[tuple[float, int]]) -> None:
    meter, now = Meter("shop", limits, Ledger()), 0.0
    for passed, rows in traffic:
        now += passed
        try:
            meter.spend(rows, now)
        except TooLarge:
            continue
        except RateLimited as refused:
            if refused.retry_after > 1e-3:
                with pytest.raises(RateLimited):
                    meter.spend(rows, now + refused.retry_after * 0.9)
            now += refused.retry_after
            meter.spend(rows, now)


names = st.sampled_from(["a", "b", "c"])
models = st.sampled_from(["a", "m", "n", "m@1", "m@2", "n@1"])
some_rules = st.builds(
    Rules,
    st.just("shop"),
    st.frozensets(st.sampled_from(RIGHTS)),
    st.frozensets(names | st.just("*")),
    st.none() | st.frozensets(models),
    st.dictionaries(st.sampled_from(["x", "y"]), st.frozensets(st.sampled_from(["A", "B", 1, 2]), min_size=1), max_size=2),
)
calls = st.tuples(st.sampled_from(RIGHTS), names | st.just(""), st.sampled_from(["", "m", "n"]), st.sampled_from(["", "1", "2"]))


@given(some_rules, some_rules, calls)
def test_more_rights_allow_more_and_never_less(one: Rules, more: Rules, call: tuple[str, str, str, str]) -> None:
    """Every list of a caller's rules only adds; nothing that is added takes something away."""
    models = None if one.models is None or more.models is None else one.models | more.models
    both = replace(one, may=one.may | more.may, topologies=one.topologies | more.topologies, models=models)
    if one.allows(*call) or more.allows(*call):
        assert both.allows(*call)


@given(some_rules, calls)
def test_what_is_allowed_is_named(rules: Rules, call: tuple[str, str, str, str]) -> None:
    right, topology, model, version = call
    if rules.allows(*call):
        assert right in rules.may
        assert not topology or topology in rules.topologies or "*" in rules.topologies
        if topology and rules.models is not None:
            assert {model or topology, f"{model or topology}@{version}"} & rules.models


cells = st.sampled_from(["A", "B", "C", "", 1, 2, 3, 1.0, True, None])


@given(some_rules, st.lists(st.tuples(cells, cells), min_size=1, max_size=8))
def test_rows_that_pass_hold_allowed_values_only(rules: Rules, rows: list[tuple[object, object]]) -> None:
    columns = {}
    for number, name in enumerate(("x", "y")):
        columns[name] = np.empty(len(rows), object)
        columns[name][:] = [row[number] for row in rows]
    refused = rules.refused(columns, {})
    for at, row in enumerate(rows):
        good = all(
            any(
                (type(value) is type(cell) and value == cell) or (cell == value == 1.0 and type(cell) is float and type(value) is int)
                for value in values
            )
            for cell, values in ((row[0], rules.only.get("x")), (row[1], rules.only.get("y")))
            if values is not None
        )
        assert (at not in refused) == good


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
callers = st.lists(st.sampled_from(["shop", "web", "app", "old-1"]), unique=True, max_size=4)
full_rules = st.builds(
    Rules,
    st.just(""),
    st.frozensets(st.sampled_from(RIGHTS), min_size=1),
    st.frozensets(st.sampled_from(["flights", "trains", "*"]), min_size=1),
    st.none() | st.frozensets(st.sampled_from(["trees", "trees@2"]), min_size=1),
    st.dictionaries(texts, st.frozensets(texts, min_size=1, max_size=3), max_size=2),
    limits,
)
ids = st.lists(st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=12, max_size=12), min_size=8, max_size=8, unique=True)


@given(st.data(), callers, ids)
def test_edit_changes_what_it_names_and_keeps_the_rest(data: st.DataObject, callers: list[str], ids: list[str]) -> None:
    """Any file that edits have made: one more key, or a revocation, leaves all others as they were, and every comment."""
    text = "# kept\n"
    for name in callers:
        rules = replace(data.draw(full_rules), name=name)
        text = with_key(text, rules, name, ApiKey(ids.pop(), digest(name), 1000.5), data.draw(texts), file="f")
    before = Access.parse(text, file="f")
    assert list(before.callers) == callers
    if callers:
        name = data.draw(st.sampled_from(callers))
        key = ApiKey(ids.pop(), digest("new"), 2000.0, data.draw(st.none() | st.floats(3000, 1e9)))
        text = with_key(text, None, name, key, file="f")
        text = with_revocation(text, [key.id], 2500.0, file="f")
        after = Access.parse(text, file="f")
        assert {one: entry for one, entry in after.callers.items() if one != name} == {
            one: entry for one, entry in before.callers.items() if one != name
        }
        assert after.callers[name].rules == before.callers[name].rules
        assert {one: found for one, found in after.callers[name].keys.items() if one != key.id} == before.callers[name].keys
        assert after.callers[name].keys[key.id].revoked == 2500.0
    assert text.startswith("# kept\n")
