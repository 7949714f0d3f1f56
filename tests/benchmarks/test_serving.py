"""What the service is compared with gets the same questions, and answers with the numbers of the models. Nothing here is timed."""

from __future__ import annotations

import asyncio
import struct
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import penstock
from benchmarks import serving
from benchmarks.contender import running
from benchmarks.serving import PEERS, REQUIREMENTS, SERVERS, installed
from benchmarks.serving_load import Body, check, flights, ready, written
from benchmarks.serving_peers.scoring import SCORES, score
from benchmarks.workload import ROOT
from penstock.errors import WorkerFailed
from penstock.serving.messages import message

EVENTS = [msgspec.json.decode(event) for event in flights()[:20]]
EVENT_BODIES = ("event", "flight", "flights")


def test_scores_by_hand_are_those_of_the_topology() -> None:
    with penstock.open(ROOT / "topologies/flights.yaml", models=ROOT / "models", schemas=ROOT / "schemas") as plan:
        for ours, by_hand in zip(plan.score(EVENTS), score(EVENTS), strict=True):
            assert ours == {**by_hand, **{name: pytest.approx(by_hand[name], abs=1e-6) for name in SCORES}}


FLOORS = ("grpcio", "uvicorn", "uvicorn-models")  # servers that are no peers, of the libraries that we use


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_is_asked_what_ours_is_asked(name: str) -> None:
    peer, ours = SERVERS[name], SERVERS[SERVERS[name].beside]
    assert not ours.environment
    assert peer.environment in REQUIREMENTS or name in FLOORS
    bodies = EVENT_BODIES if ours.body == "event" else (ours.body,)
    assert peer.body in ((*bodies, "anything") if name in FLOORS else bodies)


def tensors(values: dict[str, float]) -> bytes:
    return msgspec.json.encode({"outputs": [{"name": name, "data": [value]} for name, value in values.items()]})


def typed(values: dict[str, float]) -> bytes:
    outputs = [{"name": name, "contents": {"fp32_contents": [value]}} for name, value in values.items()]
    made: bytes = message("ModelInferResponse")(outputs=outputs).SerializeToString()
    return made


def raw(values: dict[str, float]) -> bytes:
    contents = [struct.pack("<f", value) for value in values.values()]
    made: bytes = message("ModelInferResponse")(
        outputs=[{"name": name} for name in values], raw_output_contents=contents
    ).SerializeToString()
    return made


ANSWERS: list[tuple[Body, Callable[[Any], bytes]]] = [
    ("event", msgspec.json.encode), ("flights", lambda values: msgspec.json.encode([values])), ("tensors", tensors),
    ("message", typed), ("message", raw),
]  # fmt: skip


@pytest.mark.parametrize(("body", "answer"), ANSWERS, ids=["event", "flights", "tensors", "message", "raw message"])
def test_an_answer_is_compared_with_the_models(body: Body, answer: Callable[[Any], bytes]) -> None:
    values = {name: score(EVENTS)[7][name] for name in SCORES}
    check(body, [(7, answer(values))])
    with pytest.raises(AssertionError, match="flight 8 is answered by"):
        check(body, [(7, answer(values)), (8, answer(values))])
    with pytest.raises(AssertionError, match="without scores"):
        check(body, [(7, answer({"score": 0.5}))])


def test_tensors_and_messages_have_the_fields_of_the_event() -> None:
    event = flights()[3]
    inputs = msgspec.json.decode(written("tensors", event))["inputs"]
    assert {one["name"]: one["data"][0] for one in inputs}.items() <= msgspec.json.decode(event).items()
    read = message("ModelInferRequest").FromString(written("message", event))
    assert [(one.name, one.datatype) for one in read.inputs] == [(one["name"], one["datatype"]) for one in inputs]


def test_a_server_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    with running([sys.executable, "-c", "raise SystemExit('no such module')"], tmp_path / "log") as started:
        started.process.wait()
        with pytest.raises(WorkerFailed, match="no such module"):
            asyncio.run(ready(1, "/score", "event", started))


def test_what_cannot_be_installed_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(command: list[str], **_: Any) -> None:
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(serving, "ROOT", tmp_path)
    monkeypatch.setattr(serving, "PLACE", tmp_path / "peers")
    monkeypatch.setattr(venv, "create", lambda *_, **__: None)
    monkeypatch.setattr(subprocess, "run", refused)
    assert installed(["penstock", "fastapi", "fastapi-batch"]) == ["penstock"]
    assert "fastapi cannot be installed here" in capsys.readouterr().err
