"""A model on its providers is compared with itself on the processor: here the two sessions are of models that differ a little."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InferenceError, ModelMismatch
from penstock.model.artifact import Artifact
from penstock.model.parity import Pair, check_parity
from penstock.model.session import Session
from penstock.provider import Provider
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models

THERE = (Provider("CUDAExecutionProvider", (("device_id", "1"),)),)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return DirectoryRegistry(tmp_path_factory.mktemp("models")).publish("double", models.linear([2.0]), tolerance=(1e-5, 1e-3))


@pytest.fixture(scope="module")
def cpu(artifact: Artifact) -> Session:
    return Session.load(artifact)


def rows(*values: float) -> dict[str, np.ndarray]:
    return {"x": np.array(values, np.float32)[:, None]}


def test_same_outputs_pass(artifact: Artifact, cpu: Session) -> None:
    check_parity(artifact, Session.load(models.linear([2.001])), cpu, THERE)


def test_other_outputs_are_refused_with_the_numbers_and_what_to_do(artifact: Artifact, cpu: Session) -> None:
    with pytest.raises(ModelMismatch) as caught:
        check_parity(artifact, Session.load(models.linear([2.5])), cpu, THERE)
    said = str(caught.value)
    assert said.startswith(
        "double@1 does not compute on CUDAExecutionProvider (device_id=1) what it computes on the processor: golden record 1, output 'y': "
    )
    assert "(tolerance 1e-05 + 0.001 x expected), and " in said
    assert said.endswith("set an option of the provider for exact arithmetic, push the version with a wider --rtol, or run it elsewhere")
    assert (caught.value.name, caught.value.version) == ("double", "1")


@given(weight=st.floats(1.875, 2.125, width=32), values=st.lists(st.floats(-1000, 1000, width=32), max_size=20))
def test_rows_that_differ_are_counted(artifact: Artifact, cpu: Session, weight: float, values: list[float]) -> None:
    pair = Pair(artifact, Session.load(models.linear([weight])), cpu, THERE)
    (got,) = pair.run(["y"], rows(*values))
    x = np.array(values, np.float32)[:, None]
    assert np.array_equal(got, x * np.float32(2))
    expected = int((~np.isclose(x * np.float32(weight), got, rtol=1e-3, atol=1e-5)).sum())
    assert (pair.rows, pair.differ) == (len(values), expected)
    assert bool(pair.refusal(0.0)) == bool(expected)
    assert pair.refusal(1.0) == ""


def test_refusal_shows_the_first_row_that_differs(artifact: Artifact, cpu: Session) -> None:
    pair = Pair(artifact, Session.load(models.linear([3.0])), cpu, THERE)
    pair.run(["y"], rows(0.0, 0.5, 1.0))
    assert "2 of 3 real rows; the first: output 'y': [1.0] on the processor, [1.5] there (tolerance 1e-05 + 0.0" in pair.refusal(0.5)
    assert pair.refusal(0.67) == ""


def test_row_that_fails_there_alone_differs(artifact: Artifact) -> None:
    """The caller runs each half of a batch that fails, down to the row."""
    values = [float(n) for n in range(8)]
    pair = Pair(artifact, Session.load(models.gather(values[:4])), Session.load(models.gather(values)), THERE)
    with pytest.raises(InferenceError):
        pair.run(["y"], {"x": np.array([[1], [6]], np.int64)})
    assert pair.rows == 0
    assert pair.run(["y"], {"x": np.array([[6]], np.int64)})[0].ravel().tolist() == [6.0]
    assert "1 of 1 real rows; the first: it fails there: the model refused the batch" in pair.refusal(0.0)


def test_text_and_numbers_of_classes_must_be_equal(artifact: Artifact) -> None:
    pair = Pair(artifact, Session.load(models.category_number(["b", "a"])), Session.load(models.category_number(["a", "b"])), THERE)
    pair.run(["y"], {"x": np.array([["a"], ["c"], ["b"]], object)})
    assert (pair.rows, pair.differ) == (3, 2)
    joined = Pair(artifact, Session.load(models.join_text()), Session.load(models.join_text()), THERE)
    joined.run(["y"], {name: np.array([["u"], ["v"]], object) for name in "ab"})
    assert (joined.rows, joined.differ) == (2, 0)
