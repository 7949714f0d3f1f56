"""What an exported folder holds beside models: imports and writers' schemas, signatures with the keys that are trusted, parameters."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import penstock
from penstock import runtime
from penstock.cli.main import main
from penstock.edge.write import Exported, export
from penstock.errors import ModelUntrusted
from penstock.model.signing import sign
from penstock.registry.directory import DirectoryRegistry
from penstock.settings import Settings
from penstock.testing import models as tiny
from tests.schema_registry import double
from tests.unit.model.issued import private_pem, public_pem

TEXT = """\
topology: t
sources: {s: {topic: in, schema: event.avsc}}
nodes: {score: {kind: model, model: score@1, inputs: {a: amount}, parameters: {b: 1.0}}}
sinks: {p: {topic: out, fields: {score: score}}}
"""
EVENT = {"type": "record", "name": "Event", "fields": [{"name": "amount", "type": "float"}]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a topology that adds 1 to an amount."""
    (tmp_path / "t.yaml").write_text(TEXT)
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas/event.avsc").write_text(json.dumps(EVENT))
    DirectoryRegistry(tmp_path / "models").publish("score", tiny.add())
    return tmp_path


def made(root: Path, *, trust: Path | None = None, parameters: dict[str, float] | None = None) -> Exported:
    settings = Settings(models=root / "models", schemas=root / "schemas", model_trust=trust)
    loaded = runtime.load(root / "t.yaml", models=settings.models, schemas=settings.schemas)
    bindings = runtime.bindings(loaded)
    if parameters:
        bindings = {
            node: type(one)(uri=one.uri, digest=one.digest, manifest=one.manifest, parameters=parameters) for node, one in bindings.items()
        }
    return export(loaded, root / "out", settings, bindings, generation=3 if parameters else 0, release="")


def score(root: Path, event: dict[str, object], model_trust: Path | None = None) -> object:
    with penstock.open(root / "out", model_trust=model_trust) as plan:
        return plan.score(event)


def listed(root: Path, folder: str) -> list[str]:
    return sorted(one.relative_to(root / "out").as_posix() for one in (root / "out" / folder).rglob("*") if one.is_file())


def test_parameters_of_a_release_are_kept(root: Path) -> None:
    found = made(root, parameters={"b": 5.0})
    assert found.version.startswith("3+")
    assert score(root, {"amount": 2}) == {"score": 7.0}


def test_parameters_of_the_file_are_kept(root: Path) -> None:
    made(root)
    assert score(root, {"amount": 2}) == {"score": 3.0}


def test_signatures_are_checked_by_the_keys_in_the_folder(root: Path) -> None:
    """Or by those that the host trusts, where it names some."""
    (root / "t.yaml").write_text(f"{TEXT}releases: {{signatures: require}}\n")
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    (root / "key.pem").write_bytes(private_pem(key))
    for folder, one in (("trusted", key), ("others", other)):
        (root / folder).mkdir()
        (root / folder / "us.pem").write_bytes(public_pem(one))
    registry = DirectoryRegistry(root / "models")
    artifact = registry.resolve("score", "1")
    registry.add_bundle(artifact, sign(artifact.digests, subject=str(artifact), key=root / "key.pem", now=datetime.now(UTC)).bundle)
    made(root, trust=root / "trusted")
    assert listed(root, "trust") == ["trust/us.pem"]
    assert "penstock[signing]==" in (root / "out/pyproject.toml").read_text()
    assert score(root, {"amount": 2}) == {"score": 3.0}
    with pytest.raises(ModelUntrusted):
        score(root, {"amount": 2}, model_trust=root / "others")


def test_imports_of_a_message_come_along(root: Path) -> None:
    (root / "schemas/shop/common").mkdir(parents=True)
    (root / "schemas/shop/common/money.proto").write_text('syntax = "proto3"; package common; message Money { float value = 1; }')
    (root / "schemas/shop/order.proto").write_text(
        'syntax = "proto3"; import "common/money.proto"; message Order { common.Money total = 1; }'
    )
    text = TEXT.replace("schema: event.avsc", "schema: shop/order.proto, format: protobuf").replace("a: amount", "a: total.value")
    (root / "t.yaml").write_text(text.replace("{a: total.value}", "{a: {field: total.value, missing: 0.0}}"))
    made(root)
    assert listed(root, "schemas") == ["schemas/shop/common/money.proto", "schemas/shop/order.proto"]
    assert "penstock[protobuf]==" in (root / "out/pyproject.toml").read_text()
    assert score(root, {"total": {"value": 2}}) == {"score": 3.0}


def test_writers_schemas_come_along_and_no_registry_is_asked(root: Path) -> None:
    (root / "t.yaml").write_text(TEXT.replace("schema: event.avsc", "schema: event.avsc, format: avro-confluent"))
    (root / "schemas/ids").mkdir()
    (root / "schemas/ids/7.avsc").write_text(json.dumps(EVENT))
    made(root)
    assert listed(root, "schemas") == ["schemas/event.avsc", "schemas/ids/7.avsc"]
    assert score(root, {"amount": 2}) == {"score": 3.0}


def test_schema_that_only_a_registry_has_is_named_before_anything_is_written(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the advice leads on: with the file beside it, the topology is exported, and scores without the registry."""
    monkeypatch.chdir(root)
    (root / "t.yaml").write_text(TEXT.replace("schema: event.avsc", "schema: event.avsc, format: avro-confluent"))
    with double() as registry:
        registry.add("in-value", EVENT)
        (root / "penstock.toml").write_text(f'schema_registry_url = "{registry.url}"\ncache = "{root}/cache"\n')
        assert main(["export", "edge", "t.yaml", "--out", "out"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(
            "error: schemas/ids: the folder has no writer schemas (add each one under its id: 17.avsc (`penstock schema pull`"
        )
        assert not (root / "out").exists()
        assert main(["schema", "pull", "in-value"]) == 0
        assert main(["export", "edge", "t.yaml", "--out", "out"]) == 0
    assert score(root, {"amount": 2}) == {"score": 3.0}
