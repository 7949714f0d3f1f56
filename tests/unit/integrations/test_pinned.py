"""A topology that travels: what is pinned is what runs, in this process or another one, or nothing runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from penstock.errors import ConfigError, ModelCorrupt, ModelNotFound, TopologyError
from penstock.integrations import pinned as pinning
from penstock.integrations.pinned import ANYWHERE, Pinned, opened, pin
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models

TOPOLOGY = """\
topology: doubles
sources: {readings: {topic: readings, schema: reading.avsc, id: id}}
nodes: {double: {kind: model, model: double@production}}
sinks:
  doubled: {topic: doubled, fields: {id: id, y: double}}
  keyed: {topic: keyed, key: id, fields: {y: double}}
"""
SCHEMA = {"type": "record", "name": "Reading", "fields": [{"name": "id", "type": "string"}, {"name": "x", "type": "double"}]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A topology with its schemas and models, and a cache of its own."""
    (tmp_path / "doubles.yaml").write_text(TOPOLOGY)
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "reading.avsc").write_text(json.dumps(SCHEMA))
    registry = DirectoryRegistry(tmp_path / "models")
    for weight in (2.0, 3.0):
        registry.publish("double", models.linear([weight]))
    registry.alias("double", "production", "1")
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pinning, "_kept", type(pinning._kept)())
    return tmp_path


def pin_in(folder: Path) -> Pinned:
    return pin(folder / "doubles.yaml", models=folder / "models", schemas=folder / "schemas")


def test_pinned_version_runs_after_its_alias_has_moved(folder: Path) -> None:
    before = pin_in(folder)
    DirectoryRegistry(folder / "models").alias("double", "production", "2")
    after = pin_in(folder)
    event = {"id": "a", "x": 1.5}
    assert [opened(one.pack()).scorer.score(event)["doubled"]["y"] for one in (before, after)] == [3.0, 4.5]


def test_another_process_needs_the_registry_and_nothing_else(folder: Path) -> None:
    """Its topology and schemas come with the value, and its models into a cache of its own."""
    packed = pin_in(folder).pack()
    shutil.rmtree(folder / "cache")
    shutil.rmtree(folder / "schemas")
    (folder / "doubles.yaml").unlink()
    code = (
        "import sys; from penstock.integrations.pinned import opened;"
        "print(opened(bytes.fromhex(sys.argv[1])).scorer.score([{'id': 'a', 'x': 1.5}])[0]['keyed'])"
    )
    done = subprocess.run([sys.executable, "-c", code, packed.hex()], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout == "{'y': 3.0}\n"
    assert len([*(folder / "cache" / "models").glob("sha256-*/model.onnx")]) == 1


def test_process_opens_it_once(folder: Path) -> None:
    pinned = pin_in(folder)
    assert opened(pinned.pack()) is opened(pinned.pack())


def test_other_bytes_are_refused(folder: Path) -> None:
    packed = pin_in(folder).pack()
    shutil.rmtree(folder / "cache")
    pinning._kept.clear()
    shutil.copy(folder / "models/double/2/model.onnx", folder / "models/double/1/model.onnx")
    with pytest.raises(ModelCorrupt, match=r"double/1/model\.onnx is sha256:\w+, not sha256:\w+"):
        opened(packed).answers([])


def test_model_that_no_root_has_names_the_roots(folder: Path) -> None:
    packed = pin_in(folder).pack()
    pinning._kept.clear()
    for one in ("cache", "models"):
        shutil.rmtree(folder / one)
    with pytest.raises(ModelNotFound, match=str(folder / "models")):
        opened(packed).answers([])


def test_problems_are_found_where_it_is_pinned(folder: Path) -> None:
    (folder / "schemas" / "reading.avsc").write_text(json.dumps(SCHEMA).replace('"x"', '"z"'))
    with pytest.raises(TopologyError, match=f"^{folder}/doubles.yaml:3:9: nodes.double: nothing feeds"):
        pin_in(folder)


def test_large_folder_does_not_travel(folder: Path) -> None:
    with (folder / "schemas" / "dump.bin").open("wb") as file:
        file.truncate(17 * 1024**2)
    with pytest.raises(ConfigError, match="more than 16 MB"):
        pin_in(folder)


def test_records_are_answered_as_on_a_worker(folder: Path) -> None:
    """With a worker's bytes, headers, ids and places; where the client chooses the partition by the key, it is told so."""
    pinned = msgspec.structs.replace(pin_in(folder), generation=7)
    fine = Record("readings", b'{"id": "a", "x": 1.5}', b"k", (("trace", b"t"),), 1234, partition=3, offset=41)
    wrong = Record("readings", b'{"id": "b"}', None, (), 1235, partition=3, offset=42)
    doubled, keyed, letter = opened(pinned.pack()).answers([fine, wrong])
    assert doubled[:3] == ("doubled", b'{"id":"a","y":3.0}', b"k")
    assert (doubled.timestamp, doubled.partition) == (1234, 3)
    headers = dict(doubled.headers)
    assert headers["penstock-generation"] == b"7"
    assert headers["penstock-source"] == b"readings/3/41"
    assert (headers["penstock-id"], headers["trace"]) == (b"a", b"t")
    assert (keyed.key, keyed.partition) == (b"a", ANYWHERE)
    assert (letter.topic, letter.value, letter.partition) == ("readings.dead-letter", wrong.value, ANYWHERE)
    assert dict(letter.headers)["__streams.errors.offset"] == b"42"
    assert b"x" in (dict(letter.headers)["__streams.errors.message"] or b"")


def test_nothing_heavy_is_imported_with_the_package() -> None:
    code = "import sys, penstock; print([one for one in ('pyarrow', 'pyspark', 'pyflink', 'penstock.integrations') if one in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
