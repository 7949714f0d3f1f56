"""`penstock topics` on a real broker: looks, says, creates what is missing, and leaves what is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.cli.main import main
from penstock.testing import Broker, create_topics, unique

pytestmark = pytest.mark.broker


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    """The topics of the topology in t.yaml: source, sink, dead letters."""
    source = unique("orders")
    (tmp_path / "t.yaml").write_text(f"""\
topology: t
sources: {{orders: {{topic: {source}, schema: order.avsc}}}}
nodes: {{n: {{kind: model, model: n@1}}}}
sinks: {{scores: {{topic: {source}.scores, fields: [n]}}}}
""")
    return [source, f"{source}.scores", f"{source}.dead-letter"]


def topics(broker: Broker, folder: Path, command: str, *flags: str) -> int:
    return main(["topics", command, str(folder / "t.yaml"), "--brokers", broker.bootstrap, *flags])


def test_topics_are_listed_created_and_then_left_alone(
    broker: Broker, tmp_path: Path, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert topics(broker, tmp_path, "ls") == 1
    assert capsys.readouterr().out.count("missing") == 3
    assert topics(broker, tmp_path, "create", "--dry-run") == 0
    assert capsys.readouterr().out.count("would be created with 4 partitions") == 3
    assert topics(broker, tmp_path, "ls") == 1, "a dry run creates nothing"
    capsys.readouterr()
    assert topics(broker, tmp_path, "create", "--partitions", "3", "--replication", "1", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == [{"topic": name, "created": True, "partitions": 3} for name in names]
    assert topics(broker, tmp_path, "ls", "--format", "json") == 0
    assert [(row["topic"], row["partitions"]) for row in json.loads(capsys.readouterr().out)] == [(name, 3) for name in names]
    assert topics(broker, tmp_path, "create", "--partitions", "9") == 0
    shown = capsys.readouterr()
    assert (shown.out.count("exists with 3 partitions"), shown.err) == (3, "Nothing to do.\n")


def test_what_is_missing_gets_as_many_partitions_as_the_source_has(
    broker: Broker, tmp_path: Path, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    create_topics(broker, {names[0]: 7})
    assert topics(broker, tmp_path, "create") == 0
    shown = capsys.readouterr().out
    assert "exists with 7 partitions" in shown
    assert shown.count("created with 7 partitions") == 2


def test_replication_that_the_cluster_cannot_give_is_an_error(
    broker: Broker, tmp_path: Path, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The test broker is one node."""
    assert topics(broker, tmp_path, "create", "--replication", "3") == 4
    assert names[0] in capsys.readouterr().err
