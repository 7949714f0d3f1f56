"""What a caller may do: rights, topologies, models and versions, and values of fields."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock.access.rules import ANONYMOUS, Rules, Value
from penstock.control.rights import CALLS, RELEASES
from penstock.errors import Forbidden


def rules(**given: Any) -> Rules:
    return Rules(**{"name": "shop", "may": frozenset({"score", "read"}), "topologies": frozenset({"flights"}), **given})


def only(*values: Value) -> Rules:
    return rules(only={"store": frozenset(values)})


def refused(found: Rules, column: Any, dtype: Any = None) -> list[int]:
    return sorted(found.refused({"store": np.array(column, dtype=dtype)}, {}))


def test_right_and_topology_are_both_needed() -> None:
    shop = rules()
    shop.check("score", "flights")
    for right, topology in (
        ("deploy", "flights"),
        ("score", "trains"),
        ("", "flights"),
        ("SCORE", "flights"),
        ("score", "flights "),
        ("score", "*"),
    ):
        with pytest.raises(Forbidden, match="shop may not"):
            shop.check(right, topology)


def test_refusal_says_who_may_not_do_what() -> None:
    with pytest.raises(Forbidden, match=r"^shop may not roll back flights, model trees@2: its `may` lacks the right$") as found:
        rules().check("rollback", "flights", "trees", "2")
    assert found.value.code == "forbidden"


def test_star_is_every_topology() -> None:
    rules(topologies=frozenset({"*"})).check("score", "anything")


def test_question_about_no_topology_is_about_any() -> None:
    """The list of topologies, for example: what is in it is asked one by one."""
    assert rules().allows("read")
    assert not rules().allows("label")


def test_models_narrow_to_names_and_versions() -> None:
    shop = rules(models=frozenset({"trees", "average@2"}))
    assert shop.allows("score", "flights", "trees")
    assert shop.allows("score", "flights", "trees", "7")
    assert shop.allows("score", "flights", "average", "2")
    assert not shop.allows("score", "flights", "average", "3")
    assert not shop.allows("score", "flights", "average"), "which version this is depends on the release"
    assert not shop.allows("score", "flights", "features")


def test_question_about_any_model_is_about_the_topology() -> None:
    shop = rules(models=frozenset({"trees@2"}))
    assert shop.allows("score", "flights", None)
    assert not shop.allows("score", "trains", None)
    assert not shop.allows("label", "flights", None)


def test_whole_topology_is_a_model_of_its_name() -> None:
    assert rules().allows("score", "flights")
    assert not rules(models=frozenset({"trees"})).allows("score", "flights")
    assert rules(models=frozenset({"flights"})).allows("score", "flights")


def test_anonymous_changes_no_releases() -> None:
    """Where there is no access file, every process of the host is anonymous."""
    assert all(ANONYMOUS.allows(right, "flights", "trees", "1") for right in CALLS)
    assert not any(ANONYMOUS.allows(right, "flights") for right in RELEASES)


def test_rows_with_other_values_are_refused_with_the_reason() -> None:
    found = only("A", "B").refused({"store": np.array(["A", "C", "B", None], object), "other": np.arange(4)}, {})
    assert found == {1: "store: 'C' is no value that shop may send", 3: "store: None is no value that shop may send"}


@pytest.mark.parametrize("dtype", [object, np.str_])
def test_text_is_compared_as_it_is(dtype: Any) -> None:
    assert refused(only("A"), ["A", "a", "A ", "А", "A\x00x", ""], dtype) == [1, 2, 3, 4, 5]  # noqa: RUF001  a Cyrillic letter


def test_null_is_refused_whatever_is_in_its_place() -> None:
    """A column of numbers has some number where the event has null."""
    found = only(0).refused({"store": np.array([0, 0, 1])}, {"store": np.array([False, True, False])})
    assert found == {1: "store: null is no value that shop may send", 2: "store: 1 is no value that shop may send"}


def test_field_that_is_missing_refuses_every_row() -> None:
    """A caller that may send certain stores only cannot get around it by a door that has no stores."""
    found = only("A").refused({"tensor": np.zeros((2, 3))}, {})
    assert sorted(found) == [0, 1]
    assert found[0] == "store: shop may send certain values only, and the field is missing"


def test_every_rule_counts_and_the_first_reason_stays() -> None:
    both = rules(only={"store": frozenset({"A"}), "day": frozenset({1, 2})})
    found = both.refused({"store": np.array(["A", "B", "B"]), "day": np.array([3, 1, 3])}, {})
    assert {row: why.partition(":")[0] for row, why in found.items()} == {0: "day", 1: "store", 2: "store"}


def test_kinds_are_not_mixed() -> None:
    """Python says True == 1 == 1.0; a truth value is no number here, and a number no text."""
    assert refused(only(1), [True, False]) == [0, 1]
    assert refused(only(True), [1, 0]) == [0, 1]
    assert refused(only(1), [True, 1, 1.0, "1", b"1"], object) == [0, 3, 4]
    assert refused(only("1"), [1, 2]) == [0, 1]
    assert refused(only(True), [True, False]) == [1]
    assert refused(only("A"), [b"A"], object) == [0]
    assert refused(only("A"), ["A"], "S") == [0]


def test_large_integers_are_not_rounded() -> None:
    """Compared as floats, 2^53 and 2^53 + 1 are equal."""
    assert refused(only(2**53), [2**53, 2**53 + 1]) == [1]
    assert refused(only(2**63), [2**63, 2**63 + 1], np.uint64) == [1]
    assert refused(only(-1), [2**64 - 1], np.uint64) == [0]
    assert refused(only(300), [44], np.uint8) == [0]


def test_floats_are_compared_in_the_precision_of_the_field() -> None:
    assert refused(only(0.1), [0.1, 0.2, np.nan, np.inf], np.float32) == [1, 2, 3]
    assert refused(only(1.5, 2), [1, 2]) == [0]


def test_row_of_several_values_needs_all_of_them_allowed() -> None:
    assert refused(only("A", "B"), [["A", "B"], ["A", "C"]]) == [1]
    assert refused(only(1), np.ones((2, 0))) == [0, 1], "a row without a value has none that is allowed"
    lists = np.empty(2, object)
    lists[:] = [["A"], {"A": 1}]
    assert refused(only("A"), lists) == [0, 1]


def test_no_rows_are_no_refusals() -> None:
    assert only("A").refused({"store": np.array([], object)}, {}) == {}
    assert only("A").refused({}, {}) == {}


def test_value_of_a_row_is_cut_and_harmless_in_the_reason() -> None:
    (why,) = only("A").refused({"store": np.array(["\x1b[2J\u202e" + "x" * 100_000], object)}, {}).values()
    assert len(why) < 150
    assert "\x1b" not in why
    assert "\u202e" not in why
