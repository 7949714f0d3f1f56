"""Releases on a real Kafka: announced, made ready, put in force between two batches, taken back; and what a worker does when it cannot."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from penstock.control.operator import Operator
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.settings import Settings
from penstock.testing import Broker
from penstock.testing import models as onnx_models
from penstock.topology.parse import parse
from tests.kafka.running import Job, make_job

pytestmark = pytest.mark.broker

T = TypeVar("T")


def operate(job: Job, act: Callable[[Operator], Coroutine[Any, Any, T]]) -> T:
    """What an operator of the job does, unsigned."""
    settings = Settings(
        brokers=job.broker.bootstrap,
        application=job.application,
        models=job.folder / "models",
        schemas=job.folder / "schemas",
        unsigned_control=True,
    )

    async def run() -> T:
        async with Operator(settings, parse(job.file)) as operator:
            return await act(operator)

    return asyncio.run(run())


def push(job: Job, factor: float) -> str:
    """Registers a version that multiplies by `factor`."""
    return DirectoryRegistry(job.folder / "models").publish("double", onnx_models.linear([factor])).version


def generation(answer: Record) -> int:
    return int(dict(answer.headers)["penstock-generation"] or b"")


def factor(answer: Record) -> float:
    event = json.loads(answer.value or b"")
    return float(event["y"]) / (int(event["id"]) / 2)


def test_a_release_swaps_the_model_while_events_flow_and_a_rollback_takes_it_back(broker: Broker, tmp_path: Path) -> None:
    job = make_job(broker, tmp_path)
    push(job, 3.0)
    with job.run("--unsigned-control") as worker:
        job.send(range(1, 100))
        job.wait_for_answers(99)
        deployed = operate(job, lambda operator: operator.deploy({"double": "double@2"}, reason="three is better"))
        assert deployed.generation == 1, worker.log
        job.send(range(100, 200))
        job.wait_for_answers(199)
        assert operate(job, lambda operator: operator.rollback(reason="two was right")).generation == 2
        job.send(range(200, 300))
        job.wait_for_answers(299)
        assert worker.stop() == 0, worker.log
    answers = job.answers()
    assert len({answer.key for answer in answers}) == len(answers) == 299
    assert {(generation(answer), factor(answer)) for answer in answers} == {(0, 2.0), (1, 3.0), (2, 2.0)}
    assert {generation(one) for one in answers if 100 <= int(one.key or b"") < 200} == {1}
