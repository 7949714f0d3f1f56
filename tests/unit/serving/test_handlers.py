"""Requests that wait: while a release becomes active, for others of their batch, and for the rest of their body."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import helper

from penstock import runtime
from penstock.errors import CallRefused
from penstock.pipeline import Fixed
from penstock.registry.directory import DirectoryRegistry
from penstock.runtime import Loaded
from penstock.serving import connections
from penstock.serving.app import answering, listen
from penstock.serving.handlers import Service
from penstock.serving.oip import Request, Tensor, Wanted
from penstock.serving.targets import Columns, Scored
from penstock.settings import Settings
from penstock.testing import models

TOPOLOGY = """\
topology: t
sources: {events: {topic: events, schema: event.avsc}}
nodes: {m: {kind: model, model: m@%s}}
sinks: {means: {topic: means, fields: {y: m.y}}}
"""
SCHEMA = {"type": "record", "name": "Event", "fields": [{"name": name, "type": "float"} for name in "ab"]}


@pytest.fixture
def versions(tmp_path: Path) -> list[tuple[Loaded, Fixed]]:
    """Two versions of a model: the second reads a further input, and lacks an output."""
    (tmp_path / "event.avsc").write_text(json.dumps(SCHEMA))
    registry = DirectoryRegistry(tmp_path / "models")
    first = models.model(
        [helper.make_node("Identity", ["a"], [name]) for name in ("y", "z")],
        [models.tensor("a")],
        [models.tensor("y"), models.tensor("z")],
    )
    registry.publish("m", first)
    registry.publish("m", models.mean())
    made = []
    for version in (1, 2):
        (tmp_path / f"{version}.yaml").write_text(TOPOLOGY % version)
        loaded = runtime.load(tmp_path / f"{version}.yaml", models=tmp_path / "models", schemas=tmp_path)
        made.append((loaded, Fixed(runtime.prepare(loaded), generation=version)))
    return made


def asked(versions: list[tuple[Loaded, Fixed]], name: str, given: str, outputs: list[str] | None = None) -> Any:
    """Returns the outcome of a request for the first version, which waits until the second one is active."""
    (loaded, first), (_, second) = versions
    active = [first]
    service = Service(loaded, Settings(), lambda: active[-1])
    inputs = {one: Tensor(one, "FP32", (1,), np.array([value], np.float32)) for one, value in zip(given, (1.0, 3.0), strict=False)}

    async def ask() -> Any:
        model = service.live.model(name)
        part = model.fit(Request(inputs, None if outputs is None else [Wanted(one) for one in outputs]))
        waiting = service.future()
        service.ask_model(model, part, waiting, size=1, deadline=time.monotonic() + 60)
        active.append(second)
        return await waiting

    try:
        return asyncio.run(ask())
    finally:
        service.close()


@pytest.mark.parametrize("name", ["t", "t.m"])
def test_an_input_that_the_next_version_needs_is_missing(versions: list[tuple[Loaded, Fixed]], name: str) -> None:
    with pytest.raises(CallRefused, match=f"{name} needs the input 'b'"):
        asked(versions, name, "a")


def test_an_output_that_the_next_version_lacks_is_missing(versions: list[tuple[Loaded, Fixed]]) -> None:
    with pytest.raises(CallRefused, match=r"no output 'z'|needs the input"):
        asked(versions, "t.m", "a", ["z"])


def test_a_request_that_fits_both_is_answered_by_the_next_version(versions: list[tuple[Loaded, Fixed]]) -> None:
    live, outcome = asked([versions[1], versions[1]], "t.m", "ab")
    assert isinstance(outcome, Scored)
    assert (live.generation, outcome.outputs["y"].tolist()) == (2, [[2.0]])


def test_a_request_that_raises_fails_alone_beside_the_loop_too(versions: list[tuple[Loaded, Fixed]]) -> None:
    """All of a batch that took long failed with one of it."""
    loaded, first = versions[0]
    service = Service(loaded, Settings(offload_after_ms=1), lambda: first)

    async def ask() -> list[Any]:
        model = service.live.model("t.m")
        run = model.run

        def slow(parts: Sequence[Columns]) -> list[Scored | Exception]:
            time.sleep(0.01)
            if any(part.tensors["a"].values[0] < 0 for part in parts):
                raise RuntimeError("a model has a bug")
            return run(parts)

        model.run = slow  # type: ignore[method-assign]  # for this object
        outcomes = []
        for values in ([1.0], [1.0, -1.0, 2.0]):  # how long the first takes is learnt
            waiting = [service.future() for _ in values]
            for value, answer in zip(values, waiting, strict=True):
                part = model.fit(Request({"a": Tensor("a", "FP32", (1,), np.array([value], np.float32))}))
                service.ask_model(model, part, answer, size=1, deadline=time.monotonic() + 60)
            outcomes = [outcome for _, outcome in await asyncio.gather(*waiting)]
        return outcomes

    try:
        found = asyncio.run(ask())
    finally:
        service.close()
    assert [type(one) for one in found] == [Scored, RuntimeError, Scored]
    assert service.metrics.offloaded.value == 1


def test_a_request_that_may_come_whole_is_not_swept(versions: list[tuple[Loaded, Fixed]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection was closed as if it had no request, where its head came at the end of a long silence."""
    monkeypatch.setattr(connections, "TOGETHER", 60.0)
    loaded, first = versions[0]
    service = Service(loaded, Settings(idle_timeout=0.5), lambda: first)
    pages: Any = SimpleNamespace(alive=None, ready=None, metrics=None)
    head, event = b"POST /v1/topologies/t:score HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n", b'{"a": 1, "b": 2}'

    async def ask() -> bytes:
        bound = listen("127.0.0.1:0")
        async with answering(bound, pages, service):
            reader, writer = await asyncio.open_connection(*bound.getsockname())
            writer.write(head)
            await asyncio.sleep(1.5)  # of its 0.5, several sweeps
            writer.write(event)
            answer = await reader.readuntil(b"\r\n")
            writer.close()
            return answer

    try:
        assert asyncio.run(ask()) == b"HTTP/1.1 200 OK\r\n"
    finally:
        service.close()
