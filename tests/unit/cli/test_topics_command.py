"""`penstock topics`, as far as it goes without a broker: what is needed, and what is said when nothing can be asked."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from penstock.cli.main import main
from penstock.cli.topics import needed
from penstock.topology.parse import parse

TOPOLOGY = """\
topology: t
sources:
  orders: {topic: orders, schema: order.avsc}
  returns: {topic: returns, schema: return.avsc, dead_letter: lost-returns}
nodes: {n: {kind: model, model: n@1}}
sinks:
  scores: {topic: scores, fields: [n]}
  audit: {topic: audit, fields: [n]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Neither the schemas nor the model of it exist: topics can be made before them."""
    path = tmp_path / "t.yaml"
    path.write_text(TOPOLOGY)
    return path


def test_every_topic_has_its_role(file: Path) -> None:
    needs = needed(parse(file), "shop")
    assert {name: need.role for name, need in needs.items()} == {
        "orders": "source orders",
        "returns": "source returns",
        "scores": "sink scores",
        "audit": "sink audit",
        "orders.dead-letter": "dead letters of orders",
        "lost-returns": "dead letters of returns",
        "shop.t.control": "releases: the control log",
        "shop.t.status": "releases: what workers report",
    }
    assert [name for name, need in needs.items() if need.partitions == 1] == ["shop.t.control", "shop.t.status"]


def test_topic_that_is_written_and_read_is_there_once(file: Path) -> None:
    """In a chain what a sink writes is what a source reads; two sinks may share a topic too."""
    file.write_text(TOPOLOGY.replace("topic: returns,", "topic: scores,").replace("topic: audit,", "topic: scores,"))
    needs = needed(parse(file), "shop")
    assert [(name, need.role) for name, need in needs.items()][:3] == [
        ("orders", "source orders"),
        ("scores", "source returns, sink scores, sink audit"),
        ("orders.dead-letter", "dead letters of orders"),
    ]
    assert needs["scores"].partitions is None, "as many as the other topics have"


@pytest.mark.parametrize("command", ["ls", "create"])
def test_brokers_that_do_not_answer_have_their_exit_code_and_are_not_waited_for_longer(
    command: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    assert main(["topics", command, str(file), "--brokers", "127.0.0.1:1", "--broker-timeout", "0.5"]) == 4
    assert time.monotonic() - began < 10
    assert "no broker answered at 127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["ls", "create"])
def test_file_that_is_no_topology_is_told_before_any_broker_is_asked(command: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(TOPOLOGY.replace("topic: scores", "tpic: scores"))
    assert main(["topics", command, str(file), "--brokers", "127.0.0.1:1"]) == 2
    assert "unknown key 'tpic' (did you mean 'topic'?)" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["ls", "create"])
def test_command_without_brokers_says_how_to_name_them(
    command: str, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    monkeypatch.delenv("PENSTOCK_BROKERS", raising=False)
    assert main(["topics", command, str(file)]) == 2
    assert "--brokers" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [("--partitions", "0"), ("--partitions", "many"), ("--replication", "-2")])
def test_numbers_that_no_cluster_takes_are_refused(flags: tuple[str, str], file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topics", "create", str(file), *flags]) == 2
    assert flags[0] in capsys.readouterr().err
