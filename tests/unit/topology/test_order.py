"""Nodes run after what they read, and otherwise as in the file."""

from __future__ import annotations

from penstock.topology.order import order


def test_file_order_where_nothing_else_is_asked() -> None:
    assert order({"b": [], "a": [], "c": ["a"]}) == (["b", "a", "c"], [])


def test_readers_wait() -> None:
    assert order({"c": ["b"], "b": ["a"], "a": []}) == (["a", "b", "c"], [])


def test_every_knot_gives_a_cycle_and_its_readers_none() -> None:
    ordered, cycles = order({"free": [], "a": ["b", "free"], "b": ["a"], "self": ["self"], "reader": ["a"]})
    assert ordered == ["free"]
    assert cycles == [["b", "a", "b"], ["self", "self"]]
