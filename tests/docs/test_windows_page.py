"""The worked examples of docs/windows.md are what a topology answers: each block with features, with the table behind it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from penstock.testing import TopologyDriver

PAGE = (Path(__file__).parents[2] / "docs/windows.md").read_text(encoding="utf-8")
SCHEMA = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": "card", "type": "string"},
        {"name": "shop", "type": ["null", "string"], "default": None},
        {"name": "amount", "type": ["null", "double"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}
DAY = 1_700_006_400_000  # a midnight, UTC
EXAMPLES = re.findall(r"```yaml\n(by:.*?)```\n\n((?:\|[^\n]*\n)+)", PAGE, re.DOTALL)


def rows(table: str) -> list[dict[str, str]]:
    lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def at(time: str) -> int:
    hours, minutes, seconds = map(int, time.split(":"))
    return DAY + ((hours * 60 + minutes) * 60 + seconds) * 1000


def test_there_is_an_example_of_each_rule() -> None:
    assert len(EXAMPLES) == 9


@pytest.mark.parametrize(("block", "table"), EXAMPLES)
def test_the_example_is_true(tmp_path: Path, block: str, table: str) -> None:
    given = rows(table)
    features = [name for name in given[0] if name not in ("time", "card", "shop", "amount")]
    window = {"kind": "window", "over": ["1h"], "hops": 4, **yaml.safe_load(block)}
    (tmp_path / "payment.avsc").write_text(json.dumps(SCHEMA))
    topology = {
        "topology": "cards",
        "sources": {"payments": {"topic": "payments", "schema": "payment.avsc", "time": "at"}},
        "nodes": {"large": {"kind": "rule", "outputs": {"is": "coalesce(amount, 0.0) > 100"}}, "lately": window},
        "sinks": {"out": {"topic": "out", "fields": {**{name: f"lately.{name}" for name in features}, "large": "large.is"}}},
    }
    (tmp_path / "cards.yaml").write_text(yaml.safe_dump(topology, sort_keys=False))
    driver = TopologyDriver(tmp_path / "cards.yaml", schemas=tmp_path, models=tmp_path)
    events = [{"card": one["card"], "amount": json.loads(one["amount"]), "at": at(one["time"])} for one in given]
    shops = [{"shop": one["shop"] if one["shop"] != "null" else None} if "shop" in one else {} for one in given]
    driver.send("payments", *(event | shop for event, shop in zip(events, shops, strict=True)))
    assert [{name: one[name] for name in features} for one in driver.events("out")] == [
        {name: json.loads(one[name]) for name in features} for one in given
    ]
