"""The worked examples of docs/matches.md are what the loop does: each block, with the table behind it; and the topologies are valid."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
import yaml

from penstock import runtime
from penstock.pipeline import AtLeastOnce, Delivery, Fixed, Program
from penstock.record import Record
from penstock.topology.parse import parse_text
from penstock.transports.memory import Memory, MemorySink, MemorySource

PAGE = (Path(__file__).parents[2] / "docs/matches.md").read_text(encoding="utf-8")
DAY = 1_700_006_400_000  # a midnight, UTC
EXAMPLES = re.findall(r"```yaml\n((?:unmatched|before):.*?)```\n\n((?:\|[^\n]*\n)+)", PAGE, re.DOTALL)
FILE = """\
topology: shop
sources:
  orders: {topic: orders, schema: order.avsc, id: order_id, time: placed}
  payments: {topic: payments, schema: payment.avsc, time: paid_at}
  paid: {match: {left: orders, right: payments, by: {orders: order_id, payments: order}, within: 1h}}
nodes:
  none: {kind: rule, outputs: {of: 'coalesce(paid.payments.method, "-")'}}
sinks:
  out: {topic: out, fields: {order: paid.orders.order_id, payment: none.of}}
"""


def ms(time: str) -> int:
    hours, minutes, seconds = map(int, time.split(":"))
    return DAY + ((hours * 60 + minutes) * 60 + seconds) * 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    text, number, time = "string", "double", {"type": "long", "logicalType": "timestamp-millis"}
    for name, fields in (
        ("order", {"order_id": text, "amount": number, "placed": time}),
        ("payment", {"order": text, "method": text, "fee": number, "paid_at": time}),
    ):
        schema = {"type": "record", "name": name, "fields": [{"name": field, "type": one} for field, one in fields.items()]}
        (tmp_path / f"{name}.avsc").write_text(json.dumps(schema))
    return tmp_path


def program(folder: Path, block: str) -> Program:
    topology = yaml.safe_load(FILE)
    topology["sources"]["paid"]["match"] |= yaml.safe_load(block)
    loaded = runtime.load(parse_text(yaml.safe_dump(topology, sort_keys=False)), models=folder, schemas=folder)
    return runtime.prepare(runtime.shares(loaded, "app")["paid"])


def event(text: str, time: int, offset: int) -> Record:
    if text.startswith("order"):
        value = {"order_id": text.split()[1], "amount": 1.0, "placed": time}
        return Record("orders", json.dumps(value).encode(), None, (), time, 0, offset)
    method, order = re.fullmatch(r"payment (\w+) of (\w+)", text).groups()  # type: ignore[union-attr]  # the page is written so
    return Record(
        "payments", json.dumps({"order": order, "method": method, "fee": 0.0, "paid_at": time}).encode(), None, (), time, 0, offset
    )


def test_there_is_an_example_of_each_rule() -> None:
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize(("block", "table"), EXAMPLES)
def test_the_example_is_true(folder: Path, block: str, table: str) -> None:
    made = program(folder, block)
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()][2:]

    async def main() -> None:
        now = 0
        memory = Memory(1)
        source = MemorySource(memory, ["orders", "payments"])
        delivery = Delivery(
            source,
            MemorySink(memory),
            AtLeastOnce(source),
            stages={"orders": "paid", "payments": "paid"},
            serving=lambda: Fixed(made),
            fail=lambda error: pytest.fail(str(error)),
            wall=lambda: now / 1000,
        )
        source.assign()
        seen = 0
        for read, what, time, wanted in rows:
            now = ms(read)
            if what:
                memory.append(event(what, ms(time), 0))
                for span in await source.take(10):
                    await delivery.submit([span])
            for _ in range(4):
                await delivery.tick()
                await asyncio.sleep(0)
            answers = [json.loads(one.value or b"") for one in memory.records("out")]
            found = [f"{one['order']} {'alone' if one['payment'] == '-' else 'with ' + one['payment']}" for one in answers[seen:]]
            assert ", ".join(found) == wanted, (read, what)
            seen = len(answers)
        delivery.terminate()

    asyncio.run(main())


def test_the_topologies_are_valid(folder: Path) -> None:
    """But for the model, which nothing here has: the first block, and the first with the keyed topic of the second."""
    first, second = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(sources:.*?)```", PAGE, re.DOTALL))
    both = {key: {**first[key], **second.get(key, {})} for key in first}
    for topology in (first, both):
        text = yaml.safe_dump({"topology": "shop", **topology}, sort_keys=False)
        loaded = runtime.load(parse_text(text), models=folder, schemas=folder, absent=True)
        assert [one for one in loaded.absent if "order-fraud" not in str(one)] == []
        assert [*runtime.shares(loaded, "app")] == (["paid"] if topology is first else ["", "paid"])
