"""What an operator does on a real broker, with workers that say what they are told to."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.control.operator import Deployed, Phase, Progress, operate
from penstock.testing import Broker
from tests.kafka.puppets import Puppet, Puppets, Stage, make_stage

pytestmark = pytest.mark.broker


@pytest.fixture
def stage(broker: Broker, tmp_path: Path) -> Stage:
    return make_stage(broker, tmp_path)


def deploy(stage: Stage, changes: dict[str, str], told: list[Progress] | None = None) -> Deployed:
    watcher = (lambda _: None) if told is None else told.append
    return operate(stage.settings, stage.topology, lambda it: it.deploy(changes, reason="better", on_progress=watcher))


def test_release_is_in_force_once_every_worker_was_ready(stage: Stage) -> None:
    told: list[Progress] = []
    with Puppets(stage, Puppet("a"), Puppet("b")):
        deployed = deploy(stage, {"score": "score@2"}, told)
        assert deployed.generation == 1
        assert deployed.late == ()
        assert set(deployed.seconds or {}) == {"a", "b"}
        assert [str(one) for one in deployed.release.bindings.values()] == ["scale@1", "score@2"]
        assert [str(one) for one in deployed.release.baseline.values()] == ["scale@1", "score@1"]
        assert told[0].phase is Phase.ANNOUNCED
        assert told[-1].generations == {"a": 1, "b": 1}
