"""Events one at a time: a framed one is read by the schema that its frame names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from penstock.codecs import event_reader, event_writer, load_schema
from penstock.schema import Schema


def schema(folder: Path, name: str, *fields: str) -> Schema:
    declared = [{"name": field, "type": "string"} for field in fields]
    (folder / name).write_text(json.dumps({"type": "record", "name": "Event", "fields": declared}))
    return load_schema(folder / name)


def test_framed_event_is_read_by_the_schema_that_wrote_it(tmp_path: Path) -> None:
    """Topics hold events of earlier schemas, which have other ids and other fields."""
    (tmp_path / "ids").mkdir()
    schema(tmp_path / "ids", "7.avsc", "a")
    schema(tmp_path / "ids", "300.avsc", "a", "b")
    then, now = schema(tmp_path, "then.avsc", "a"), schema(tmp_path, "now.avsc", "a", "b")
    old, new = event_writer("avro-confluent", then)({"a": "x"}), event_writer("avro-confluent", now)({"a": "x", "b": "y"})
    assert (old[:5], new[:5]) == (b"\0\0\0\0\7", b"\0\0\0\1\x2c")
    read = event_reader("avro-confluent", now)
    assert (read(old), read(new)) == ({"a": "x"}, {"a": "x", "b": "y"})


@pytest.mark.parametrize("value", [b"", b"\0\0\0\0", b"\1\0\0\0\7\2x", b"\0\0\0\0\x08\2x"])
def test_event_without_a_known_frame_is_refused(tmp_path: Path, value: bytes) -> None:
    (tmp_path / "ids").mkdir()
    schema(tmp_path / "ids", "7.avsc", "a")
    with pytest.raises(ValueError, match=r"no Confluent frame|unknown schema id 8"):
        event_reader("avro-confluent", schema(tmp_path, "now.avsc", "a"))(value)
