"""A piece of a topic as the population of a store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import penstock
from penstock.cli.main import main
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import Broker, create_topics, models, produce, unique

pytestmark = pytest.mark.broker

TOPOLOGY = """\
topology: double
sources: {numbers: {topic: %s, schema: number.avsc}}
nodes: {double: {kind: model, model: double@1}}
sinks: {doubled: {topic: doubled, fields: {x: x, y: double}}}
precomputed: {inputs: [x], decimals: {x: 0}}
"""


def test_events_of_a_topic_are_computed(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Those between the offsets, of all partitions; what is no event is a dead letter, and nothing is committed or written to Kafka."""
    topic = unique("numbers")
    create_topics(broker, {topic: 2})
    produce(broker, [Record(topic, b'{"x": %d}' % n if n != 7 else b"{", partition=n % 2) for n in range(20)])
    monkeypatch.chdir(tmp_path)
    Path("schemas").mkdir()
    Path("schemas/number.avsc").write_text(json.dumps({"type": "record", "name": "Number", "fields": [{"name": "x", "type": "float"}]}))
    Path("double.yaml").write_text(TOPOLOGY % topic)
    DirectoryRegistry(tmp_path / "models").publish("double", models.linear([2]))
    command = ["precompute", "double.yaml", "--in", f"kafka://{topic}", "--to", "8", "--store", "sqlite:///answers.db"]
    assert main([*command, "--brokers", broker.bootstrap]) == 0
    assert capfd.readouterr().out == "16 events read, 15 answers, 1 dead letter: generation 1\n"
    monkeypatch.setenv("PENSTOCK_STORE_TIMEOUT", "20")
    with penstock.open("double.yaml", store="sqlite:///answers.db") as plan:
        found = plan.score([{"x": n} for n in range(20)])
    assert [one["precomputed"] for one in found if isinstance(one, dict)] == ["hit" if n < 16 and n != 7 else "miss" for n in range(20)]
