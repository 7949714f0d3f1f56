"""What a job leaves on its topics while models are swapped, and what must hold of it however the swaps fell."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from penstock.control.log import Log
from penstock.control.status import Boundary
from penstock.operate.operator import Operator
from penstock.testing import committed, end_offsets, read_all, wait_for
from penstock.topology.parse import parse
from tests.kafka.flights import Flight, operate, recomputed
from tests.kafka.running import Job

SCORES = ("score", "logistic", "trees")
CLOSE = 1e-6


class Answer(NamedTuple):
    """One prediction, and what its headers say of it."""

    partition: int
    offset: int  # of its event
    generation: int
    models: str
    value: Mapping[str, Any]


class Evidence(NamedTuple):
    """Answers in the order of their events, by partition; the control log as the operator folds it; the boundaries that were recorded."""

    sent: Sequence[Sequence[Flight]]
    answers: Sequence[Sequence[Answer]]
    log: Log
    boundaries: Sequence[Boundary]


def wait_until_done(job: Job, sent: Sequence[Sequence[Flight]], timeout: float = 60.0) -> None:
    """Until all that was sent is answered and committed."""
    count = sum(map(len, sent))
    wait_for(lambda: sum(committed(job.broker, job.group, job.source).values()) == count, f"all {count} committed", timeout, 0.3)


def gather(job: Job, sent: Sequence[Sequence[Flight]]) -> Evidence:
    async def folded(it: Operator) -> tuple[Log, list[Boundary]]:
        return await it.state(), await it.boundaries()

    log, boundaries = operate(job, folded)
    answers: list[list[Answer]] = [[] for _ in sent]
    for record in job.answers():
        headers = dict(record.headers)
        topic, partition, offset = (headers["penstock-source"] or b"").decode().split("/")
        assert (topic, int(partition)) == (job.source, record.partition)
        generation, models = int(headers["penstock-generation"] or b""), (headers["penstock-models"] or b"").decode()
        answers[record.partition].append(Answer(record.partition, int(offset), generation, models, json.loads(record.value or b"")))
    return Evidence(sent, [sorted(one, key=attrgetter("offset")) for one in answers], log, boundaries)


def check(job: Job, found: Evidence) -> None:
    """Everything below."""
    check_every_event_once(job, found)
    check_generations_are_ranges(found)
    check_boundaries(found)
    check_models(job, found)
    check_scores(job, found)


def check_every_event_once(job: Job, found: Evidence) -> None:
    """Each event has one answer, which is its own, and none was buried."""
    assert sum(end_offsets(job.broker, job.dead).values()) == 0, read_all(job.broker, job.dead)[:3]
    for sent, answers in zip(found.sent, found.answers, strict=True):
        assert [one.offset for one in answers] == list(range(len(sent)))
        assert [one.value["flight_id"] for one in answers] == [one.id for one in sent]


def ranges(answers: Sequence[Answer]) -> list[tuple[int, int]]:
    """The first offset and the generation of each run of offsets that one generation answered."""
    return [(next(run).offset, generation) for generation, run in groupby(answers, key=attrgetter("generation"))]


def check_generations_are_ranges(found: Evidence) -> None:
    """In a partition, generations only grow: so each covers one contiguous range."""
    for answers in found.answers:
        assert all(before < after for (_, before), (_, after) in pairwise(ranges(answers))), ranges(answers)


def check_boundaries(found: Evidence) -> None:
    """What was recorded is what happened. A worker that takes a partition over says again what generation it goes on with."""
    recorded: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for one in found.boundaries:
        if not recorded[one.partition] or recorded[one.partition][-1][1] != one.generation:
            recorded[one.partition].append((one.offset, one.generation))
    assert dict(recorded) == {partition: ranges(answers) for partition, answers in enumerate(found.answers) if answers}


def check_models(job: Job, found: Evidence) -> None:
    """The versions in the headers are those that the control log binds to the generation."""
    said = {(one.generation, one.models) for answers in found.answers for one in answers}
    nodes = [node.name for node in parse(job.file).nodes]
    bound = {generation: found.log.bound(generation) or {} for generation, _ in said}
    assert said == {(generation, ",".join(f"{node}={versions[node]}" for node in nodes)) for generation, versions in bound.items()}


def check_scores(job: Job, found: Evidence) -> None:
    """Each prediction is what the versions that it names make of its event."""
    by_models: dict[str, list[Answer]] = defaultdict(list)
    for answers in found.answers:
        for one in answers:
            by_models[one.models].append(one)
    for models, answers in by_models.items():
        versions = dict(one.split("=") for one in models.split(","))
        events = [json.loads(found.sent[one.partition][one.offset].value) for one in answers]
        for name, expected in recomputed(job.folder / "models", versions, events).items():
            given = np.array([one.value[name] for one in answers])
            assert np.abs(given - expected).max() <= CLOSE, (name, models)
        assert all(
            (one.value["carrier"], one.value["dest"]) == (event["carrier"], event["dest"])
            for one, event in zip(answers, events, strict=True)
        )
