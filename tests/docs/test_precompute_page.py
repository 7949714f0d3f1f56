"""The page about precomputed answers: its commands and its program do what it shows, and its tables are those of the code."""

from __future__ import annotations

import gzip
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.main import main
from penstock.schema import Field
from penstock.stores.base import MISSES
from penstock.stores.keys import LONGEST, canonical
from penstock.stores.lookup import OUTCOMES
from penstock.stores.nearest import LIMIT

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/precompute.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0]  # type: ignore[no-any-return]


def test_page_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for folder in ("models", "schemas", "examples", "topologies"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_STORE_TIMEOUT", "20")  # the machine may be busy
    with Path("topologies/flights.yaml").open("a", encoding="utf-8") as file:
        file.write(f"\n{block('yaml')}")
    first, command, *shown = block("console").splitlines()
    assert first == "$ python examples/flights/events.py departures --limit 1000 > flights.ndjson"
    with gzip.open(ROOT / "examples/flights/sample/departures.ndjson.gz", "rt") as lines:
        Path("flights.ndjson").write_text("".join(next(lines) for _ in range(1000)))
    assert main(command.removeprefix("$ penstock ").split()) == 0
    assert capfd.readouterr().out.splitlines() == shown
    names: dict[str, Any] = {}
    exec(compile(block("python"), "precompute.md", "exec", dont_inherit=True), names)


def test_tables_are_those_of_the_code() -> None:
    assert set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`\w+`(?:, `\w+`)*) ", PAGE, re.MULTILINE)))) >= set(OUTCOMES)
    for number in (MISSES, LIMIT, LONGEST):
        assert f"{number:,}" in PAGE


def test_numbers_of_the_page_are_rounded_as_it_shows() -> None:
    for kind, value, shown in re.findall(r"the\s+(double|float)\s+([0-9.]+)\s+becomes\s+`d([0-9.]+)`", PAGE):
        assert canonical([Field("x", kind)], {"x": 1})([float(value)]).endswith(f"=d{shown}\n")
