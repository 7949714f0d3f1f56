"""Releases on a real Kafka, from announcement to rollback: a model is swapped, or only a parameter of it, while events flow."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from onnx import helper

from penstock.operate.operator import operate
from penstock.record import Position
from penstock.registry.directory import DirectoryRegistry
from penstock.settings import load
from penstock.testing import models as onnx_models
from penstock.topology.parse import parse
from tests.kafka.operating import CONFIG, factor_of, generation_of, penstock, push, wait_until_ready
from tests.kafka.running import Job, Running

pytestmark = pytest.mark.broker


@pytest.fixture
def worker(job: Job) -> Iterator[Running]:
    with job.run() as running:
        yield running


def scored(job: Job, worker: Running) -> set[tuple[int, float]]:
    """By which generations and factors, once the worker has stopped in order; each event once."""
    assert worker.stop() == 0, worker.log
    answers = job.answers()
    assert len({answer.key for answer in answers}) == len(answers)
    return {(generation_of(answer), factor_of(answer)) for answer in answers}


def send(job: Job, *numbers: int) -> None:
    job.send(range(*numbers))
    job.wait_for_answers(numbers[-1] - 1)


def test_a_release_swaps_the_model_while_events_flow_and_a_rollback_takes_it_back(job: Job, worker: Running) -> None:
    """As a program does it, by the Python API."""
    settings, topology = load({}, file=job.folder / CONFIG), parse(job.file)
    model = push(job, 3.0)
    send(job, 1, 100)
    deployed = operate(settings, topology, lambda operator: operator.deploy({"double": model}, reason="three is better"))
    assert deployed.generation == 1, worker.log
    send(job, 100, 200)
    assert operate(settings, topology, lambda operator: operator.rollback(reason="two was right")).generation == 2
    send(job, 200, 300)
    assert scored(job, worker) == {(0, 2.0), (1, 3.0), (2, 2.0)}
    assert {generation_of(one) for one in job.answers() if 100 <= int(one.key or b"") < 200} == {1}


@pytest.fixture
def scaling(job: Job) -> Job:
    """The job with a model whose factor is a parameter."""
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    model = onnx_models.model([node], [onnx_models.tensor("x"), onnx_models.tensor("factor")], [onnx_models.tensor("y")])
    DirectoryRegistry(job.folder / "models").publish("scale", model, version="1")
    text = job.file.read_text().replace("model: double@1", "model: scale@1, parameters: {factor: 2.0}")
    job.file.write_text(text)
    return job


def test_a_release_of_a_parameter_alone_is_told_by_history_and_explained_from_the_signed_log(scaling: Job, worker: Running) -> None:
    """As a person does it, by the commands; `explain` makes an answer of each generation once more, with its own parameter."""
    job = scaling
    wait_until_ready(job, worker)
    send(job, 1, 41)
    done = penstock(job, "deploy", job.topology, "--set", "double.factor=3.0", "--reason", "more")
    assert done.code == 0, done.err
    assert "factor 2.0 → 3.0" in done.out
    send(job, 41, 81)
    assert penstock(job, "rollback", job.topology).code == 0
    send(job, 81, 121)

    boundaries = penstock(job, "history", job.topology, "--boundaries", "--format", "json").json["boundaries"]
    begins = {(one["partition"], one["generation"]): one["offset"] for one in boundaries}
    assert begins == {(partition, generation): generation * 10 for partition in range(4) for generation in range(3)}

    for answer in [one for one in job.answers() if one.offset in (5, 15, 25)]:
        place = str(Position(answer.topic, answer.partition, answer.offset))
        told = penstock(job, "explain", job.topology, place, "--format", "json")
        assert told.code == 0, told.err
        assert json.loads(answer.value or b"")["id"] in json.dumps(told.json)
    assert scored(job, worker) == {(0, 2.0), (1, 3.0), (2, 2.0)}
