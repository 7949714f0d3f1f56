"""A window in a topology file: what it may read, what its readers have to say, and every mistake with its place."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, get_args

import pytest

from penstock.errors import TopologyError
from penstock.nodes.window import changelogs, definition
from penstock.schema import Field, Schema
from penstock.signature import Signature, Tensor
from penstock.topology.check import wire
from penstock.topology.kinds import window
from penstock.topology.parse import parse_text
from penstock.topology.spec import Aggregated, Topology
from penstock.topology.stages import cut
from penstock.windows.definition import MOST_HOPS, MOST_LAST, Kind

TEXT = """\
topology: cards
sources:
  payments: {topic: payments, schema: payment.avsc, time: at}
nodes:
  large: {kind: rule, outputs: {is: amount > 100}}
  habits: {kind: window, by: card, over: [5m, 1h], features: {n: count, spent: sum(amount), large: mean(amount) where large.is}}
  risk: {kind: model, model: risk@1, inputs: {X: {stack: [habits.n_5m, habits.spent_1h, habits.large_1h], missing: nan}}}
sinks:
  out: {topic: out, fields: {risk: risk, large: habits.large_5m}}
"""
PAYMENT = Schema(
    "Payment",
    (
        Field("card", "string"),
        Field("amount", "double"),
        Field("note", "string", optional=True),
        Field("items", "array", items=Field("item", "double")),
        Field("at", "timestamp", unit="ms"),
        Field("seen", "timestamp", unit="us", optional=True),
    ),
)
RISK = Signature((Tensor("X", "float32", (3,)),), (Tensor("y", "float32", (1,)),))


def wired(text: str = TEXT, schemas: Mapping[str, Schema] | None = None) -> Any:
    topology = parse_text(text, "t.yaml")
    return wire(topology, schemas or dict.fromkeys((one.name for one in topology.sources), PAYMENT), {"risk": RISK}, {})


def parsed(text: str) -> Topology:
    return parse_text(text, "t.yaml")


def test_a_model_reads_features_in_its_own_float() -> None:
    (stage,) = wired().stages
    risk = next(step for step in stage.steps if step.node.name == "risk")
    assert [(part.column, part.cast, part.nan is not None) for part in risk.feeds[0].parts] == [
        ("habits.n_5m", "float32", False),
        ("habits.spent_1h", "float32", False),
        ("habits.large_1h", "float32", True),
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("by: card", "by: amount", "t.yaml:6:30: nodes.habits.by: 'amount' is float64 (a key is text, a whole number or true and false)"),
        ("by: card", "by: holder", "t.yaml:6:30: nodes.habits.by: 'holder' is neither a field nor a node"),
        ("sum(amount)", "sum(card)", "t.yaml:6:80: nodes.habits.features: 'card' is text (a window counts numbers"),
        ("sum(amount)", "sum(items)", "t.yaml:6:80: nodes.habits.features: the array field 'items' has no fixed size"),
        ("sum(amount)", "'sum(amount, 3)'", "t.yaml:6:80: nodes.habits.features.spent: a number is for last_k, from 1 to 64"),
        ("sum(amount)", "sum", "t.yaml:6:80: nodes.habits.features.spent: sum is of a value (write sum(FIELD))"),
        ("sum(amount)", "median(amount)", "t.yaml:6:80: nodes.habits.features.spent: 'median(amount)' is not an aggregate"),
        ("sum(amount)", "quantile(amount)", "features.spent: a quantile has the share of the values below it, from 0 to 1 (write quantile"),
        ("sum(amount)", "'quantile(amount, 1.5)'", "t.yaml:6:80: nodes.habits.features.spent: a quantile has the share"),
        ("sum(amount)", "quantile", "t.yaml:6:80: nodes.habits.features.spent: quantile is of a value (write quantile(FIELD"),
        ("sum(amount)", "'quantile(card, 0.5)'", "t.yaml:6:80: nodes.habits.features: 'card' is text (a window counts numbers"),
        ("sum(amount)", "'last_k(amount, 0.5)'", "t.yaml:6:80: nodes.habits.features.spent: a number is for last_k, from 1 to 64"),
        ("sum(amount)", "'distinct(card, 3)'", "t.yaml:6:80: nodes.habits.features.spent: a number is for last_k, from 1 to 64"),
        ("sum(amount)", "distinct", "t.yaml:6:80: nodes.habits.features.spent: distinct is of a value (write distinct(FIELD))"),
        ("sum(amount)", "distinct(items)", "t.yaml:6:80: nodes.habits.features: the array field 'items' has no fixed size"),
        ("sum(amount)", "distinct(card)", ""),
        ("sum(amount)", "distinct(note) where large.is", ""),
        ("sum(amount)", "distinct(large.is)", ""),
        ("sum(amount)", "distinct(seen)", ""),
        ("sum(amount)", "'quantile(amount, 0.95)'", ""),
        ("large.is}}", "amount}}", "nodes.habits.features: 'amount' is float64, a filter is true or false"),
        ("[5m, 1h]", "[5m, 5m]", "t.yaml:6:42: nodes.habits: two features are 'n_5m'"),
        ("[5m, 1h]", "[5ms]", "t.yaml:6:42: nodes.habits.over: 5ms is not 12 hops of whole milliseconds"),
        ("time: at", "time: card", "sources.payments.time: the field 'card' is of kind string"),
        (", missing: nan}", "}", "nodes.risk.inputs.X: 'habits.large_1h' is null where its window has no value"),
        ("over: [5m", "time: amount, over: [5m", "nodes.habits.time: 'amount' is no time"),
        ("over: [5m", "time: seen, over: [5m", ""),
        ("by: card", "by: [card, note]", ""),
        ("n: count,", "n: count, l: 'last_k(amount, 2)',", ""),
        ("large: habits.large_5m", "large: habits.late", ""),
        ("large: habits.large_5m", "large: habits.large_1m", "the node 'habits' has no output 'large_1m'"),
    ],
)
def test_every_mistake_has_its_place(old: str, new: str, message: str) -> None:
    text = TEXT.replace(old, new)
    assert text != TEXT
    if not message:
        wired(text)
        return
    with pytest.raises(TopologyError) as caught:
        wired(text)
    assert any(message in str(problem) for problem in caught.value.problems), caught.value.problems


@pytest.mark.parametrize("feature", ["distinct(card)", "'quantile(amount, 0.5)'"])
def test_a_package_that_is_missing_is_named_when_the_file_is_read(monkeypatch: pytest.MonkeyPatch, feature: str) -> None:
    """Windows that keep their events, and others, do not need it."""
    monkeypatch.setitem(sys.modules, "datasketches", None)
    text = TEXT.replace("sum(amount)", feature)
    with pytest.raises(TopologyError, match=r"spent: the package datasketches computes it.*pip install 'penstock\[sketches\]'"):
        wired(text)
    wired(text.replace("by: card,", "by: card, exact: true,"))
    wired()


def test_a_row_of_newest_values_is_read_by_element() -> None:
    text = TEXT.replace("n: count,", "n: count, l: 'last_k(amount, 2)',").replace("large: habits.large_5m", "l: habits.l_5m")
    with pytest.raises(TopologyError, match="pick elements"):
        wired(text)
    wired(text.replace("l: habits.l_5m", "l: 'habits.l_5m[1]'"))


def test_a_window_has_one_source_and_one_stage() -> None:
    two = TEXT.replace("nodes:\n", "  refunds: {topic: refunds, schema: payment.avsc, time: at}\nnodes:\n")
    with pytest.raises(TopologyError, match="its events come from the sources payments and refunds, and a window is of one source"):
        wired(two)
    stages = TEXT.replace("kind: model, model: risk@1,", "kind: model, model: risk@1, materialize: true,")
    with pytest.raises(TopologyError, match=r"nodes\.habits: the stages risk and out would each keep a state of it"):
        wired(stages)
    kept = stages.replace("kind: window,", "kind: window, materialize: true,")
    assert [stage.name for stage in cut(wired(kept), "app").wiring.stages] == ["habits", "risk", "out"]


def test_another_rule_is_another_state_and_another_aggregate_of_what_is_kept_is_not() -> None:
    first = changelogs(parsed(TEXT), "app")["habits"]
    assert first.startswith("app.habits.")
    assert changelogs(parsed(TEXT.replace("amount > 100", "amount  >  100")), "app")["habits"] == first
    assert changelogs(parsed(TEXT.replace("spent: sum(amount)", "mean: mean(amount)")), "app")["habits"] == first
    for old, new in (("amount > 100", "amount > 200"), ("[5m, 1h]", "[5m, 2h]"), ("by: card", "by: [card, note]"), ("sum(", "max(")):
        assert changelogs(parsed(TEXT.replace(old, new)), "app")["habits"] != first


def test_defaults_are_those_of_the_page() -> None:
    (node,) = parsed(TEXT).windows
    found = definition(node)
    assert (found.lateness, found.ahead, found.cap, found.late, found.exact, found.include_self) == (
        60_000, 3_600_000, 10_000_000, "drop", False, False,
    )  # fmt: skip


def test_sources_with_other_times_need_one() -> None:
    text = TEXT.replace("nodes:\n", "  refunds: {topic: refunds, schema: payment.avsc, time: seen}\nnodes:\n")
    with pytest.raises(TopologyError, match="its event time is at of payments and seen of refunds"):
        wired(text)


def test_the_language_and_the_windows_have_the_same_words_and_bounds() -> None:
    """They are in two places, as reading a file loads no numpy."""
    assert get_args(Aggregated) == get_args(Kind)
    assert (window.MAX_LAST, window.MAX_HOPS) == (MOST_LAST, MOST_HOPS)
