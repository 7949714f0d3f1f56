"""Models are swapped while flights are scored: none is lost, doubled, or scored by a mixture.

More releases by hand: `pytest tests/kafka/releases/test_swap_under_load.py --releases 20`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from penstock.errors import ControlError, TopologyError
from penstock.model.artifact import GOLDEN_FILE, Artifact
from penstock.operate.operator import Operator
from penstock.testing import Broker, wait_for
from tests.kafka.evidence import check, gather, ranges, wait_until_done
from tests.kafka.flights import METRICS, Departures, make_flights, operate, push, registry_of, renamed, reweighted
from tests.kafka.forging import forge
from tests.kafka.running import Job, Running

pytestmark = pytest.mark.broker

MODELS = {"logistic": "flight-logistic", "trees": "flight-trees", "stack": "flight-stack"}
TURNS = (("trees",), ("stack",), ("logistic",), ("trees", "stack"), ("logistic", "trees", "stack"))  # nodes that swap together
RATE = 2_000  # per second


def deploy(job: Job, *nodes: str, factor: float) -> None:
    """Releases a new version of each node's model, all at once, and waits until it is in use."""
    changes = {node: str(push(job, MODELS[node], factor)) for node in nodes}
    deployed = operate(job, lambda it: it.deploy(changes, reason=f"{', '.join(nodes)} times {factor:g}"))
    assert not deployed.late
    wait_until_in_use(job, deployed.generation)


def rollback(job: Job) -> None:
    deployed = operate(job, lambda it: it.rollback(reason="worse at Newark"))
    assert not deployed.late
    wait_until_in_use(job, deployed.generation)


def wait_until_in_use(job: Job, generation: int | None) -> None:
    """Until each partition has been scored with the generation."""

    async def partitions(it: Operator) -> set[int]:
        return {one.partition for one in await it.boundaries() if one.generation == generation}

    wait_for(lambda: len(operate(job, partitions)) == job.partitions, f"generation {generation} in every partition", 30, 0.25)


def rejected(job: Job, node: str, version: Artifact) -> str:
    """Why the workers do not take the version."""
    with pytest.raises(ControlError) as refused:
        operate(job, lambda it: it.deploy({node: str(version)}, reason="this is not going to work"))
    assert refused.value.code == "not-ready"
    return str(refused.value)


def with_the_wrong_answers(job: Job) -> Artifact:
    """Its golden records are those of a version that answers otherwise."""
    other = push(job, "flight-trees", 0.3)
    return forge(push(job, "flight-trees", 0.4), golden=(other.path / GOLDEN_FILE).read_bytes())


def without_answers(job: Job) -> Artifact:
    return forge(push(job, "flight-logistic", 0.4), model=reweighted(job, "flight-logistic", float("nan")))


def start(stack: ExitStack, job: Job, workers: int) -> list[Running]:
    running = [stack.enter_context(job.run()) for _ in range(workers)]
    for worker in running:
        worker.wait_until_assigned()
    return running


def stop(workers: Sequence[Running]) -> None:
    """All at once; each ends as it should."""
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        assert worker.wait() == 0, worker.log


def test_releases_under_load_lose_double_and_mix_nothing(broker: Broker, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Three workers, six partitions; of ten releases the workers refuse two, and two more are taken back."""
    releases = request.config.getoption("--releases")
    job = make_flights(broker, tmp_path)
    departures = Departures(job, RATE)
    generations = 0
    with ExitStack() as stack:
        workers = start(stack, job, 3)
        with departures.flowing():
            wait_until_in_use(job, 0)
            for turn in range(releases):
                match turn % 10:
                    case 2:
                        assert "proving" in rejected(job, "trees", with_the_wrong_answers(job))
                    case 5:
                        assert "quarantined" in rejected(job, "logistic", without_answers(job))
                    case at:
                        deploy(job, *TURNS[turn % len(TURNS)], factor=0.5 + 0.05 * turn)
                        generations += 1
                        if at in (3, 9):
                            rollback(job)
                            generations += 1
            other = registry_of(job).publish("flight-trees", renamed(job, "flight-trees"), metrics=METRICS)
            with pytest.raises(TopologyError, match="Z"):  # nobody is asked for what cannot fit
                operate(job, lambda it: it.deploy({"trees": str(other)}))
        wait_until_done(job, departures.sent)
        stop(workers)
    found = gather(job, departures.sent)
    check(job, found)
    assert found.log.generation == generations
    assert [[generation for _, generation in ranges(answers)] for answers in found.answers] == [[*range(generations + 1)]] * 6


def test_workers_that_come_and_go_between_releases_lose_double_and_mix_nothing(broker: Broker, tmp_path: Path) -> None:
    """A fourth worker joins while a release is made ready, and one leaves while another is."""
    job = make_flights(broker, tmp_path, partitions=8)
    departures = Departures(job, RATE)
    with ExitStack() as stack:
        workers = start(stack, job, 3)
        with departures.flowing():
            wait_until_in_use(job, 0)
            deploy(job, "trees", factor=0.7)
            fourth = stack.enter_context(job.run())
            deploy(job, "stack", factor=0.8)
            deploy(job, "logistic", factor=0.9)
            fourth.wait_until_assigned()
            deploy(job, "trees", "stack", factor=1.1)
            workers[0].process.terminate()
            deploy(job, "logistic", "trees", factor=1.2)
            assert workers.pop(0).wait() == 0
            deploy(job, "stack", factor=1.3)
        wait_until_done(job, departures.sent)
        stop([*workers, fourth])
    found = gather(job, departures.sent)
    check(job, found)
    assert found.log.generation == 6
