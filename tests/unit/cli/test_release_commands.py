"""The operator's commands as far as they go without a broker: what is typed wrong is told before anybody is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.cli.main import main
from penstock.cli.release.asking import named
from penstock.cli.release.strategies import strategy_of, text_of
from penstock.cli.release.words import duration, moment, short
from penstock.control.strategy import SINGLE, Canary, Split, Strategy
from penstock.errors import ConfigError, TopologyError
from penstock.operate.state import described
from penstock.settings import Settings

TEXT = """\
topology: payments
sources: {cards: {topic: cards, schema: card.avsc}}
nodes: {score: {kind: model, model: score@1, inputs: {x: amount}}}
sinks: {scores: {topic: scores, fields: [score]}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "topologies").mkdir()
    (tmp_path / "topologies" / "payments.yaml").write_text(TEXT)
    (tmp_path / "topologies" / "payments.test.yaml").write_text("cases: []")
    (tmp_path / "elsewhere.yaml").write_text(TEXT.replace("payments", "elsewhere"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("text", "name"), [("payments", "payments"), ("topologies/payments.yaml", "payments"), ("elsewhere.yaml", "elsewhere")]
)
def test_topology_is_named_by_its_name_or_its_file(text: str, name: str) -> None:
    assert named(text, Settings()).name == name


@pytest.mark.usefixtures("folder")
def test_unknown_name_is_told_with_the_one_that_was_meant() -> None:
    with pytest.raises(ConfigError, match=r"'payment' is neither a file nor a topology in topologies \(did you mean 'payments'\?\)"):
        named("payment", Settings())
    with pytest.raises(ConfigError, match="nor a topology in nowhere"):
        named("payments", Settings(topologies=Path("nowhere")))
    with pytest.raises(TopologyError, match=r"payment\.yaml: cannot be read"):
        named("payment.yaml", Settings())


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name a change"),
        (["score=score@2", "--resume", "01"], "name a change"),
        (["score"], "'score': write NODE=NAME@VERSION"),
        (["=score@2"], "write NODE=NAME@VERSION"),
        (["score=score"], "'score' has no version"),
        (["score=score@1", "score=score@2"], "score is given twice"),
        (["--set", "score=1"], "write NODE.PARAM=JSON"),
        (["--set", "score.limit"], "write NODE.PARAM=JSON"),
        (["--set", "score.limit=low"], "not JSON"),
        (["score=score@2", "--min-ready", "-1"], "--min-ready"),
        (["score=score@2", "--timeout", "0"], "--timeout"),
        (["score=score@2", "--canary", "5", "--split", "50"], "a release has one strategy"),
        (["score=score@2", "--split", "50", "--canary", "5"], "a release has one strategy"),
        (["score=score@2", "--canary", "5,x"], "'x': write percent, more than 0 and at most 100, such as 5 or 0.5"),
        (["score=score@2", "--canary", "5,1"], "the steps of a canary grow"),
        (["score=score@2", "--canary", "100"], "the first step of a canary is less than all units"),
        (["score=score@2", "--canary", ",".join(map(str, range(1, 30)))], "at most 20"),
        (["score=score@2", "--split", "0"], "'0': write percent"),
        (["score=score@2", "--split", "nan"], "'nan': write percent"),
        (["score=score@2", "--split", "100"], "100 % is no trial"),
        (["--resume", "01", "--split", "50"], "an announced release has its strategy"),
    ],
)
def test_what_is_typed_wrong_is_told_before_a_broker_is_asked(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "payments", *arguments, "--brokers", "127.0.0.1:1"]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_topology_without_an_alias_has_nothing_to_follow(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "payments", "--brokers", "127.0.0.1:1"]) == 2
    assert "payments names no alias" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "command",
    [
        ["deploy", "payments", "score=score@2"],
        ["rollback", "payments"],
        ["promote", "payments", "--full"],
        ["pause", "payments"],
        ["abort", "payments"],
        ["abort", "payments", "01"],
        ["status", "payments"],
        ["history", "payments"],
        ["releases", "ls", "payments"],
        ["releases", "show", "payments", "01"],
    ],
)
def test_brokers_that_do_not_answer_have_their_exit_code(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--brokers", "127.0.0.1:1", "--broker-timeout", "0.2"]) == 4
    assert "no broker answered at 127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("command", [["deploy", "payments", "score=score@2"], ["status", "payments"], ["run", "payments.yaml"]])
def test_trust_file_that_every_user_can_write_is_refused_before_a_broker_is_asked(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("trust.toml").write_text("")
    Path("trust.toml").chmod(0o666)
    assert main([*command, "--brokers", "127.0.0.1:1", "--broker-timeout", "0.2"]) == 2
    assert "every user of this host can change this file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "strategy", "text"),
    [
        ({"canary": (0.01, 0.05, 1.0)}, Canary((0.01, 0.05, 1.0)), "it answers 1 %, then 5 % of the units (record keys), then it is live"),
        ({"split": 0.125}, Split(0.125), "it answers 12.5 % of the units (record keys)"),
        ({}, SINGLE, ""),
    ],
)
def test_strategy_is_what_the_options_say(given: dict[str, Any], strategy: Strategy, text: str) -> None:
    assert strategy_of(**{"canary": None, "split": None} | given) == strategy
    assert text_of(strategy).removeprefix("on trial: ") == text


def test_trial_in_words() -> None:
    assert described(Canary((0.01, 0.05, 1.0)), 0.05) == "canary, step 2 of 2: answers 5 % of the units"
    assert described(Split(0.0025), 0.0025) == "split: answers 0.25 % of the units"
    assert "(customer)" in text_of(Split(0.5, "customer"))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0344, "34 ms"), (1, "1 s"), (119, "119 s"), (180, "3 min"), (7199, "120 min"), (7200, "2 h"), (432_000, "5 d")]
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_stamps_and_ids_in_short() -> None:
    assert moment(1_700_000_000_999) == "2023-11-14 22:13:20Z"
    assert short("01a1fe87-944c-748a-a2cb-8eb3433a1ddf") == "01a1fe87-944c"
