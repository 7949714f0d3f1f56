"""A match in a topology file: a source of pairs, what it may read, what its readers have to say, and every mistake with its place."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.control.topics import Groups
from penstock.errors import TopologyError
from penstock.schema import Field, Schema
from penstock.signature import Signature, Tensor
from penstock.topology.check import wire
from penstock.topology.draw import text
from penstock.topology.matches import changelogs
from penstock.topology.parse import parse_text
from penstock.topology.stages import cut
from penstock.topology.wiring import Matched

TEXT = """\
topology: shop
sources:
  orders: {topic: orders, schema: order.avsc, id: number, time: placed}
  payments: {topic: payments, schema: payment.avsc, time: paid}
  paid:
    match: {left: orders, right: payments, by: {orders: number, payments: order}, within: 1h, unmatched: keep}
nodes:
  size: {kind: rule, outputs: {large: paid.orders.amount > 100, how: 'coalesce(paid.payments.method, "none")'}}
  risk: {kind: model, model: risk@1, inputs: {X: {stack: [paid.orders.amount, paid.payments.fee], missing: nan}}}
sinks:
  out: {topic: out, fields: {id: paid.orders.number, method: paid.payments.method, risk: risk, how: size.how, large: size.large}}
"""
ORDER = Schema(
    "Order",
    (
        Field("number", "int"),
        Field("code", "string"),
        Field("amount", "double"),
        Field("placed", "timestamp", unit="us"),
        Field("to", "record", optional=True, fields=(Field("city", "string"),)),
    ),
)
PAYMENT = Schema(
    "Payment", (Field("order", "long"), Field("method", "string"), Field("fee", "float"), Field("paid", "timestamp", unit="ms"))
)
RISK = Signature((Tensor("X", "float32", (2,)),), (Tensor("y", "float32", (1,)),))


def wired(file: str = TEXT) -> Any:
    topology = parse_text(file, "t.yaml")
    known = {"orders": ORDER, "payments": PAYMENT}
    return wire(topology, {one.name: known.get(one.name, PAYMENT) for one in topology.sources}, {"risk": RISK}, {})


def test_the_stage_of_a_match_reads_two_topics() -> None:
    (stage,) = wired().stages
    assert (stage.name, stage.topics, isinstance(stage.gather, Matched)) == ("paid", ("orders", "payments"), True)
    left, right = stage.inputs
    assert {column.field for column in left.columns} == {"number", "amount", "placed"}
    assert {column.field for column in right.columns} == {"order", "method", "fee", "paid"}
    assert (left.id, right.id) == ("orders/number", None)
    assert (stage.gather.by, stage.gather.times, stage.gather.scales) == (
        (("orders/number",), ("payments/order",)),
        ("orders/placed", "payments/paid"),
        (1000, 1),
    )
    assert cut(wired(), "app.shop").processes == {"paid": ("paid",)}


def test_a_source_of_a_match_may_have_other_readers() -> None:
    found = wired(TEXT + "  seen: {topic: seen, fields: {amount: orders.amount}}\n")
    assert [stage.name for stage in found.stages] == ["orders", "paid"]
    assert cut(found, "app.shop").processes == {"": ("orders",), "paid": ("paid",)}
    bare = wired(TEXT + "  seen: {topic: seen, fields: [amount, to.city]}\n")
    assert [len(stage.emits) for stage in bare.stages] == [1, 1], "a name without a source means no pair"


def test_a_stage_behind_a_match() -> None:
    """The first node that is materialised runs with the match, and the columns of both sides go on to what reads them."""
    whole = cut(wired(TEXT.replace('"none")\'}', '"none")\'}, materialize: true')), "app.shop")
    assert whole.processes == {"size": ("size",), "out": ("out",)}
    first, last = whole.wiring.stages
    assert isinstance(first.gather, Matched)
    carried = " ".join(column.field for column in last.inputs[0].columns)
    assert all(one in carried for one in ("orders_amount", "payments_fee", "payments_method"))


def test_the_stage_has_a_consumer_group() -> None:
    """Whose members a deploy waits for."""
    assert Groups.of("app", parse_text(TEXT)).workers == {"": "app.shop", "paid": "app.shop.paid"}


def test_the_drawing_has_the_match() -> None:
    drawn = text(parse_text(TEXT), wired())
    assert "match   paid      by orders.number = payments.order, within 3600 s, orders without payments too" in drawn


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("left: orders", "left: ordres", "t.yaml:6:19: sources.paid.match.left: there is no source 'ordres' (did you mean 'orders'?)"),
        ("right: payments", "right: orders", "sources.paid.match.right: a source is not matched with itself"),
        ("payments: order}", "payment: order}", "sources.paid.match.by: 'payment' is neither of its sources"),
        ("payments: order}", "payments: [order, method]}", "sources.paid.match.by: orders and payments have to name as many fields"),
        ("payments: order}", "payments: ordr}", "sources.paid.match.by: the source 'payments' has no field 'ordr' (did you mean 'order'?)"),
        ("payments: order}", "payments: fee}", "sources.paid.match.by: payments.fee is of kind float"),
        ("orders: number,", "orders: code,", "sources.paid.match.by: orders.code is text, and payments.order is a whole number"),
        ("within: 1h,", "", "t.yaml:6:12: sources.paid.match: the key 'within' is missing"),
        ("within: 1h", "within: soon", "sources.paid.match.within: 'soon' is not a duration"),
        ("keep}", "alone}", "sources.paid.match.unmatched: 'alone' is not one of drop, keep"),
        ("    match:", "    topic: paid\n    match:", "sources.paid: unknown key 'topic'"),
        ("paid.payments.method, risk", "paid.payments.metod, risk", "the source 'paid' has no field 'payments.metod'"),
        ("paid.orders.amount > 100", "orders.amount > 100", "write paid.orders.FIELD for the events that match"),
        (", missing: nan}", "}", "nodes.risk.inputs.X: the field 'payments.fee' may be null, and a tensor cannot"),
        ("  size:", "  paid:", "sources.paid: a node has this name as well"),
        ("  out:", "  paid:", "sources.paid: a sink has this name as well"),
        ("topic: out,", "topic: orders,", "events would go in circles: source paid -> topic orders -> source paid"),
        (
            "nodes:",
            "  more:\n    match: {left: paid, right: payments, by: order, within: 1h}\nnodes:",
            "sources.more.match.left: 'paid' is a match itself, and has no topic",
        ),
        (
            "sinks:",
            "  lately: {kind: window, by: paid.orders.code, over: [1h], features: {n: count}}\nsinks:",
            "nodes.lately: it reads the match paid, and a window counts each event of a topic once",
        ),
        (
            "sinks:",
            "  one: {kind: rule, outputs: {a: paid.orders.amount}, materialize: true}\nsinks:",
            "sources.paid: the stages one and paid would each remember its events",
        ),
    ],
)
def test_mistakes(old: str, new: str, message: str) -> None:
    file = TEXT.replace(old, new, 1)
    if "lately" in new or "  one:" in new:
        file += f"  also: {{topic: also, fields: {{a: {'lately.n_1h' if 'lately' in new else 'one.a'}}}}}\n"
    with pytest.raises(TopologyError) as found:
        wired(file)
    assert message in str(found.value)


@pytest.mark.parametrize(
    ("old", "new", "other"),
    [
        ("within: 1h", "within: 2h", True),
        ("within: 1h", "within: 1h, before: 1m", True),
        ("orders: number,", "orders: code,", True),
        ("unmatched: keep", "unmatched: drop", True),
        ("topic: payments", "topic: payments.new", True),
        ("time: paid", "time: settled", True),
        ("within: 1h", "within: 60m", False),
        ("within: 1h", "within: 1h, lateness: 5m, max_keys: 10", False),
    ],
)
def test_another_match_is_another_state(old: str, new: str, other: bool) -> None:
    before, after = (changelogs(parse_text(file), "app.shop") for file in (TEXT, TEXT.replace(old, new)))
    assert before.keys() == {"paid.left", "paid.right"}
    assert (before != after) == other
    assert before["paid.left"].startswith("app.shop.paid.left.")
