"""The worked examples of docs/lookups.md are what a topology answers, and its test case passes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.testing import TopologyDriver
from penstock.testing.case_file import read_cases
from penstock.testing.cases import run_case

PAGE = (Path(__file__).parents[2] / "docs/lookups.md").read_text(encoding="utf-8")
OPTIONAL_TEXT, OPTIONAL_LONG = ["null", "string"], ["null", "long"]
SCHEMAS: dict[str, dict[str, Any]] = {
    "order": {"id": "string", "item": OPTIONAL_TEXT, "amount": "double", "at": "long"},
    "item": {"code": "string", "price": "double", "stock": OPTIONAL_LONG, "maker": "string"},
    "maker": {"name": "string", "country": "string"},
}
NODES = {
    "item_row": {"kind": "lookup", "table": "items", "by": "item"},
    "maker_row": {"kind": "lookup", "table": "makers", "by": "item_row.maker"},
}
FIELDS = {"id": "id", "price": "item_row.price", "stock": "item_row.stock", "country": "maker_row.country", "found": "item_row.found"}


def table(heading: str) -> list[list[str]]:
    """The cells of the table that has this heading, without the lines above them."""
    lines = PAGE[PAGE.index(heading) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, fields in SCHEMAS.items():
        schema = {"type": "record", "name": name, "fields": [{"name": one, "type": kind} for one, kind in fields.items()]}
        (tmp_path / f"{name}.avsc").write_text(json.dumps(schema))
    return tmp_path


def written(folder: Path, history: str = "") -> Path:
    items = {"topic": "items", "schema": "item.avsc", "key": "code", **({"history": history} if history else {})}
    topology = {
        "topology": "shop",
        "sources": {"orders": {"topic": "orders", "schema": "order.avsc", "id": "id", "time": "at"}},
        "tables": {"items": items, "makers": {"topic": "makers", "schema": "maker.avsc", "key": "name"}},
        "nodes": NODES,
        "sinks": {"priced": {"topic": "priced", "fields": FIELDS}},
    }
    (folder / "shop.yaml").write_text(yaml.safe_dump(topology, sort_keys=False))
    return folder / "shop.yaml"


def test_the_last_row_counts(folder: Path) -> None:
    driver = TopologyDriver(written(folder), schemas=folder, models=folder)
    for item, _, maker, _ in table("| items | | makers"):
        driver.send("items", yaml.safe_load(item))
        if maker:
            driver.send("makers", yaml.safe_load(maker))
    wanted = table("| item of the order")
    assert len(wanted) == 4
    driver.send("orders", *({"id": "1", "item": yaml.safe_load(one[0]), "amount": 1.0, "at": 0} for one in wanted))
    found = [[one[name] for name in ("price", "stock", "country", "found")] for one in driver.events("priced")]
    assert found == [[yaml.safe_load(cell) for cell in one[1:]] for one in wanted]


def test_the_row_of_a_time(folder: Path) -> None:
    driver = TopologyDriver(written(folder, "7d"), schemas=folder, models=folder)

    def at(time: str) -> int:
        hours, minutes = map(int, time.split(":"))
        return 1_700_006_400_000 + (hours * 60 + minutes) * 60_000

    for time, price in table("| time | price |"):
        row = None if price == "removed" else {"code": "a", "price": float(price), "stock": None, "maker": "acme"}
        driver.send("items", row, key=b"a", timestamp=at(time))
    wanted = table("| time of the order")
    assert len(wanted) == 4
    driver.send("orders", *({"id": "1", "item": "a", "amount": 1.0, "at": at(time)} for time, _ in wanted))
    assert [one["price"] for one in driver.events("priced")] == [json.loads(price) for _, price in wanted]


def test_the_case_passes(folder: Path) -> None:
    written(folder)
    (block,) = re.findall(r"```yaml\n(cases:.*?)```", PAGE, re.DOTALL)
    (folder / "shop.test.yaml").write_text(block)
    file = read_cases(folder / "shop.test.yaml", schemas=folder, models=folder)
    assert [run_case(file.driver, case) for case in file.cases] == [()]


def test_the_topology_of_the_page_is_parsed() -> None:
    block = re.findall(r"```yaml\n(sources:.*?)```", PAGE, re.DOTALL)
    assert len(block) == 1
    assert [*yaml.safe_load(block[0])] == ["sources", "tables", "nodes"]
