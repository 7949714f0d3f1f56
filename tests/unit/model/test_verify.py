"""A version that changed on disk is found, and the error names model, version, file and what to look at."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from penstock.errors import ConfigError, ModelCorrupt
from penstock.model.artifact import Artifact, digest_of
from penstock.model.golden import GoldenRecord
from penstock.model.manifest import Manifest
from penstock.model.session import Session
from penstock.model.synthetic import synthetic_records
from penstock.model.verify import verify
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models

GOLDEN = [GoldenRecord({"x": [1.0, 1.0]}, {"y": [3.0]}), GoldenRecord({"x": [2.0, 0.0]}, {"y": [2.0]})]


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return DirectoryRegistry(tmp_path).publish("score", models.linear([1, 2]), golden=GOLDEN)


def replace(artifact: Artifact, file: str, data: bytes) -> None:
    (artifact.path / file).unlink()
    (artifact.path / file).write_bytes(data)


def edit_manifest(artifact: Artifact, old: str, new: str) -> Artifact:
    text = (artifact.path / "model.toml").read_text()
    assert old in text
    replace(artifact, "model.toml", text.replace(old, new).encode())
    return DirectoryRegistry(artifact.path.parent.parent).resolve(artifact.name, artifact.version)


def test_what_was_pushed_passes(artifact: Artifact) -> None:
    report = verify(artifact)
    assert (report.artifact, report.records, report.origin) == (artifact, 2, "given")


def test_a_loaded_session_is_used_again(artifact: Artifact) -> None:
    assert verify(artifact, Session.load(artifact)).records == 2


def test_a_flipped_bit_in_the_model_is_found(artifact: Artifact) -> None:
    data = bytearray(artifact.read())
    data[-1] ^= 1
    replace(artifact, "model.onnx", bytes(data))
    with pytest.raises(
        ModelCorrupt, match=r"model score@1: .*model\.onnx is not the file that was pushed: model.toml has sha256:"
    ) as caught:
        verify(artifact)
    assert (caught.value.name, caught.value.version) == ("score", "1")


def test_a_changed_golden_file_is_found(artifact: Artifact) -> None:
    replace(artifact, "golden.json", b"{}")
    with pytest.raises(ModelCorrupt, match=r"model score@1: .*golden\.json is not the file that was pushed"):
        verify(artifact)


def test_a_golden_file_that_does_not_fit_the_signature_names_the_record(artifact: Artifact) -> None:
    other = b'{"records": [{"inputs": {"x": [1]}, "outputs": {"y": [1]}}]}'
    replace(artifact, "golden.json", other)
    changed = edit_manifest(artifact, artifact.manifest.golden.digest, digest_of(other))
    with pytest.raises(ModelCorrupt, match=r"score/1/golden\.json cannot be used: .*record 1: 'x' does not fit x: float32\[N, 2\]"):
        verify(changed)


@pytest.mark.parametrize("file", ["model.onnx", "golden.json"])
def test_a_missing_file_is_named(artifact: Artifact, file: str) -> None:
    (artifact.path / file).unlink()
    with pytest.raises(ModelCorrupt, match=rf"model score@1: .*{file} cannot be read: No such file"):
        verify(artifact)


def test_a_model_that_answers_otherwise_is_found_with_record_output_and_values(artifact: Artifact) -> None:
    """The same signature and an honest digest, but other weights: only the golden records can tell."""
    other = models.linear([1, 3])
    replace(artifact, "model.onnx", other)
    changed = edit_manifest(artifact, artifact.digest, digest_of(other))
    with pytest.raises(
        ModelCorrupt, match=r"score@1.*golden record 1, output 'y': expected \[3\.0\], got \[4\.0\] \(tolerance 1e-05 \+ 0\.0001"
    ):
        verify(changed)


def test_a_model_of_another_signature_is_found(artifact: Artifact) -> None:
    other = models.linear([1, 2, 3])
    replace(artifact, "model.onnx", other)
    changed = edit_manifest(artifact, artifact.digest, digest_of(other))
    with pytest.raises(ModelCorrupt, match=re.escape("lists the inputs x: float32[N, 2], but the model has x: float32[N, 3]")):
        verify(changed)


def test_golden_answers_that_are_not_finite_are_found(tmp_path: Path) -> None:
    registry = DirectoryRegistry(tmp_path)
    with pytest.raises(ModelCorrupt, match=r"output 'y' is not finite in row 2: \[inf\]"):
        registry.publish("r", models.ratio(), golden=[GoldenRecord({"a": [1.0], "b": [b]}, {"y": [1.0]}) for b in (1.0, 0.0)])


def test_a_manifest_that_cannot_be_read_names_file_and_key(artifact: Artifact) -> None:
    with pytest.raises(ConfigError, match=r"score/1/model\.toml: size is missing"):
        edit_manifest(artifact, f"size = {artifact.size}\n", "")


def test_a_version_copied_to_another_folder_is_found(artifact: Artifact) -> None:
    artifact.path.rename(artifact.path.with_name("2"))
    with pytest.raises(ModelCorrupt, match=r"score/2/model\.toml describes score@1, but it is in the folder of score@2"):
        DirectoryRegistry(artifact.path.parent.parent).resolve("score", "2")


def test_a_manifest_over_the_size_limit_is_refused_before_the_file_is_read(artifact: Artifact) -> None:
    with pytest.raises(ModelCorrupt, match=rf"has {artifact.size} bytes, the limit is 10"):
        artifact.read(max_bytes=10)


@pytest.mark.parametrize(
    "data",
    [models.linear([1, 2]), models.join_text(), models.identity("bool", (2, None)), models.identity("uint8", ()), models.gather([1, 2])],
    ids=["floats", "strings", "an open axis", "one axis", "an index"],
)
def test_made_up_records_are_the_same_every_time_and_are_met(data: bytes, tmp_path: Path) -> None:
    assert synthetic_records(Session.load(data)) == synthetic_records(Session.load(data))
    artifact = DirectoryRegistry(tmp_path).publish("m", data)
    assert verify(artifact).origin == "synthetic"


def test_a_model_that_made_up_rows_do_not_suit_asks_for_golden_records() -> None:
    with pytest.raises(ModelCorrupt, match=r"generated rows do not run: .*give some as golden records"):
        synthetic_records(Session.load(models.gather([1])))


def test_an_output_that_is_not_rows_is_found(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Concat", ["x", "x"], ["y"], axis=0)
    doubled = models.model([node], [models.tensor("x")], [models.tensor("y", rows="M")])
    with pytest.raises(ModelCorrupt, match=r"output 'y' has the shape \[16, 1\] for 8 rows"):
        DirectoryRegistry(tmp_path).publish("m", doubled)


def test_a_manifest_is_a_value(artifact: Artifact) -> None:
    assert isinstance(artifact.manifest, Manifest)
    with pytest.raises(TypeError):
        artifact.manifest.metrics["auc"] = 1.0  # type: ignore[index]  # that it is refused is the point
    assert np.isfinite(artifact.manifest.golden.atol)
