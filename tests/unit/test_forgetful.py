"""Whoever answers events one by one refuses a topology with windows when it is loaded, by the line of each, and says what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import penstock
from penstock.cli.main import main
from penstock.errors import TopologyError
from penstock.integrations.pinned import pin
from penstock.integrations.storm import _serving
from penstock.settings import Settings
from penstock.testing import TopologyDriver

SCHEMA = '{"type": "record", "name": "Payment", "fields": [{"name": "card", "type": "string"}, {"name": "at", "type": "long"}]}'
TOPOLOGY = """\
topology: payments
sources: {payments: {topic: payments, schema: payment.avsc, time: at}}
nodes:
  spent: {kind: window, by: card, over: [1m], features: {n: count}}
sinks: {counts: {topic: counts, fields: {n: spent.n_1m}}}
precomputed: {entity: card}
"""
SAYS = (
    "payments.yaml:4:3: nodes.spent: a window depends on earlier events, and {} keeps none (run the topology as a stream (penstock run); "
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("schemas").mkdir()
    Path("schemas/payment.avsc").write_text(SCHEMA)
    Path("payments.yaml").write_text(TOPOLOGY)
    Path("in.ndjson").write_text('{"card": "a", "at": 1}\n')


@pytest.mark.parametrize(
    ("arguments", "who"),
    [
        (["batch", "--in", "in.ndjson", "--out", "out.ndjson"], "penstock batch"),
        (["batch", "--in", "in.ndjson", "--out", "out.ndjson", "--dry-run"], "penstock batch"),
        (["precompute", "--in", "in.ndjson", "--dry-run"], "a stored answer"),
        (["export", "edge"], "an exported folder"),
    ],
)
def test_commands(arguments: list[str], who: str, capfd: pytest.CaptureFixture[str]) -> None:
    command, *flags = arguments
    named = [command, "payments.yaml", *flags] if command != "export" else ["export", "edge", "payments.yaml"]
    assert main(named) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert SAYS.format(who) in said
    assert "penstock features" in said
    assert not Path("out.ndjson").exists()


def test_service() -> None:
    command = [sys.executable, "-m", "penstock", "serve", "payments.yaml", "--http", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, SAYS.format("a service") in done.stderr) == (2, True), done.stderr


MATCH = """\
topology: shop
sources:
  payments: {topic: payments, schema: payment.avsc, time: at}
  visits: {topic: visits, schema: payment.avsc, time: at}
  both: {match: {left: payments, right: visits, by: card, within: 1m}}
nodes:
  card: {kind: rule, outputs: {of: both.payments.card}}
sinks: {out: {topic: out, fields: {card: card.of}}}
"""


def test_matches(capfd: pytest.CaptureFixture[str]) -> None:
    Path("shop.yaml").write_text(MATCH)
    assert main(["batch", "shop.yaml", "--in", "in.ndjson", "--out", "out.ndjson"]) == 2
    assert "shop.yaml:5:3: sources.both: a match depends on earlier events, and penstock batch keeps none" in capfd.readouterr().err
    with pytest.raises(TopologyError, match=r"sources\.both: .* and a program keeps none"):
        penstock.open("shop.yaml")
    with pytest.raises(TopologyError, match=r"sources\.both: .* and a test keeps none"):
        TopologyDriver("shop.yaml")
    with pytest.raises(TopologyError, match=r"sources\.both: .* and a task of an engine keeps none"):
        pin("shop.yaml")


def test_programs() -> None:
    with pytest.raises(TopologyError, match=r"nodes\.spent: .* and a program keeps none"):
        penstock.open("payments.yaml")


def test_engines() -> None:
    with pytest.raises(TopologyError, match=r"nodes\.spent: .* and a task of an engine keeps none"):
        pin("payments.yaml")
    with pytest.raises(TopologyError, match=r"nodes\.spent: .* and a bolt of Storm keeps none"):
        _serving("payments.yaml", Settings())
