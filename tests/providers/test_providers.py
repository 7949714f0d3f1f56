"""Models run on the execution providers of a topology: what the processor computes, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

import penstock
from penstock import runtime
from penstock.batch import Array
from penstock.cli.main import main
from penstock.engine.observe import Observers
from penstock.errors import InferenceError, PenstockError, TopologyError
from penstock.model.parity import Pair
from penstock.model.session import Session
from penstock.pipeline import Chunk, Pipeline, Program
from penstock.provider import Provider
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.settings import Settings
from penstock.testing import models
from penstock.transports.memory import Memory, MemorySink
from penstock.worker.preparation import Preparation, Prepared
from penstock.worker.proof import run_pairs
from penstock.worker.recent import Recent
from tests.providers.conftest import written
from tests.unit.control.making import release

ABSENT = "CANNExecutionProvider"  # Huawei's; no build that is tested has it
EVENT = {"id": "1", "a": 4.0, "b": 0.5}
ANSWER = 3 * (0.5 * 4.0 - 2 * 0.5 + 0.25)


def test_topology_is_scored_on_the_provider(provider: str, registry: DirectoryRegistry, tmp_path: Path) -> None:
    file = written(tmp_path, f"[{provider}, CPUExecutionProvider]")
    with penstock.open(file, models=registry.root, schemas=tmp_path) as plan:
        assert plan.score(EVENT) == {"id": "1", "y": pytest.approx(ANSWER, abs=1e-3)}
        many = plan.score({"id": [str(n) for n in range(300)], "a": [float(n) for n in range(300)], "b": [0.5] * 300})
    assert many["y"] == pytest.approx([3 * (0.5 * n - 1 + 0.25) for n in range(300)], abs=1e-3)


def test_session_runs_where_it_was_told(provider: str) -> None:
    session = Session.load(models.linear([2.0]), providers=(Provider(provider),))
    assert session._call.__self__.get_providers()[0] == provider  # type: ignore[attr-defined]  # the runtime's inner session
    assert session.run(["y"], {"x": np.ones((3, 1), np.float32)})[0].tolist() == [[2.0]] * 3


def test_what_the_provider_leaves_is_computed_on_the_processor(provider: str) -> None:
    """Text and tables of categories, for example."""
    session = Session.load(models.category_number(["a", "b"]), providers=(Provider(provider),))
    assert session.run(["y"], {"x": np.array([["b"], ["?"]], object)})[0].tolist() == [[1], [-1]]


def test_model_of_some_rows_at_a_time_runs_on_the_provider(provider: str) -> None:
    node = helper.make_node("Mul", ["x", "three"], ["y"])
    fixed = models.model([node], [models.tensor("x", rows=2)], [models.tensor("y", rows=2)], {"three": np.float32(3)})
    session = Session.load(fixed, rows=2, providers=(Provider(provider),))
    assert session.run(["y"], {"x": np.array([[1], [2], [3]], np.float32)})[0].tolist() == [[3], [6], [9]]


def test_twin_runs_beside_its_session(provider: str) -> None:
    session = Session.load(models.linear([2.0]), providers=(Provider(provider),))
    twin = session.twin()
    found: list[list[Array]] = []
    rows = np.arange(64, dtype=np.float32)[:, None]
    beside = threading.Thread(target=lambda: found.extend(twin.run(["y"], {"x": rows}) for _ in range(200)))
    beside.start()
    ours = [session.run(["y"], {"x": rows}) for _ in range(200)]
    beside.join()
    assert len(found) == 200
    assert all((one[0] == 2 * rows).all() for one in [*ours, *found])


def test_run_that_fails_on_the_provider_is_a_failed_row(provider: str) -> None:
    session = Session.load(models.gather([1.0, 2.0]), providers=(Provider(provider),))
    assert session.run(["y"], {"x": np.array([[1]], np.int64)})[0].ravel().tolist() == [2.0]
    if provider == "AzureExecutionProvider":  # others may clamp an index, as their hardware does
        with pytest.raises(InferenceError):
            session.run(["y"], {"x": np.array([[9]], np.int64)})


def prepared(file: Path, registry: DirectoryRegistry, tmp_path: Path, **settings: Any) -> tuple[Prepared, dict[str, Pair]]:
    """Returns a release of the file's versions, made ready as on a worker, and its pairs."""
    loaded = runtime.load(file, models=registry.root, schemas=tmp_path)
    pairs: dict[str, Pair] = {}

    def keep(_program: Program, found: Mapping[str, Pair], _stopped: object) -> str:
        pairs.update(found)
        return ""

    preparation = Preparation(loaded, Settings(models=registry.root, cache=tmp_path / "cache", **settings))
    made = preparation.prepare(release(1, bindings=runtime.bindings(loaded)), lambda state, detail: None, prove=keep)
    return made, pairs


def test_release_is_compared_with_the_processor_on_real_rows(provider: str, registry: DirectoryRegistry, tmp_path: Path) -> None:
    """After its quarantine and its golden records, model by model."""
    made, pairs = prepared(written(tmp_path, f"[{provider}]"), registry, tmp_path)
    recent = Recent(1000)
    records = [Record("readings", b'{"id": "%d", "a": %d.5, "b": -1}' % (n, n), offset=n) for n in range(100)]
    pipeline = Pipeline(made.program, "readings", sink=MemorySink(Memory(1)), observers=Observers([recent]))
    pipeline.process(Chunk(records, (("readings", 0, len(records)),)))
    run_pairs(made.program, pairs, recent.kept())
    assert {node: (pair.rows, pair.differ, pair.refusal(0.0)) for node, pair in pairs.items()} == dict.fromkeys(
        ("mix", "turned"), (100, 0, "")
    )
    assert str(pairs["mix"]) == f"as on the processor on {provider}, on its golden records and 100 real rows (0 differ)"


def test_node_has_providers_of_its_own(provider: str, registry: DirectoryRegistry, tmp_path: Path) -> None:
    file = written(tmp_path, f"[{provider}]")
    file.write_text(file.read_text().replace("{kind: feature,", "{kind: feature, providers: [CPUExecutionProvider],"))
    made, pairs = prepared(file, registry, tmp_path)
    assert list(pairs) == ["turned"]
    where = {node: one._call.__self__.get_providers()[0] for node, one in runtime.sessions(made.program).items()}  # type: ignore[attr-defined]
    assert where == {"mix": "CPUExecutionProvider", "turned": provider}


def test_setting_replaces_what_the_topology_names(provider: str, registry: DirectoryRegistry, tmp_path: Path) -> None:
    _, pairs = prepared(written(tmp_path, f"[{ABSENT}]"), registry, tmp_path, model_providers="CPUExecutionProvider")
    assert pairs == {}
    _, pairs = prepared(written(tmp_path), registry, tmp_path, model_providers=f"{provider}, CPUExecutionProvider")
    assert set(pairs) == {"mix", "turned"}


def test_validate_names_what_is_absent_and_how_to_get_it(
    registry: DirectoryRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, f"[{ABSENT}, CPUExecutionProvider]")
    assert main(["validate", str(file), "--models", str(registry.root), "--schemas", str(tmp_path)]) == 2
    said = capsys.readouterr().err.replace("\n", "")
    assert f"{file}:3:12: providers: the installed onnxruntime {ort.__version__} has no {ABSENT}; it has " in said
    assert "(pip uninstall --yes onnxruntime; pip install onnxruntime-cann; or do without it on this host: set model_providers to " in said


def test_start_refuses_what_is_absent(registry: DirectoryRegistry, tmp_path: Path) -> None:
    loaded = runtime.load(written(tmp_path, "[CPUExecutionProvider]"), models=registry.root, schemas=tmp_path)
    runtime.prepare(loaded)
    loaded = runtime.load(written(tmp_path, "[GPUExecutionProvider]"), models=registry.root, schemas=tmp_path)
    with pytest.raises(TopologyError, match="has no GPUExecutionProvider"):
        runtime.prepare(loaded)
    with pytest.raises(TopologyError, match="has no GPUExecutionProvider"):
        Preparation(loaded, Settings(models=registry.root, cache=tmp_path / "cache"))
    with pytest.raises(TopologyError, match=r"setting model_providers: .* has no NoExecutionProvider"):
        runtime.prepare(loaded, Settings(model_providers="NoExecutionProvider"))
    with pytest.raises(PenstockError, match="has no GPUExecutionProvider"):
        Session.load(models.identity(), providers=(Provider("GPUExecutionProvider"),))
