"""Schemas for one test, written where `load_schema` reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.codecs import load_schema
from penstock.schema import Schema

MakeSchema = Callable[..., Schema]


@pytest.fixture
def make_schema(tmp_path: Path) -> MakeSchema:
    """`make_schema({"x": "float"}, {"name": "y", "type": "int", "default": 0})`: fields by name and type, or as Avro has them."""

    def make(*fields: dict[str, Any], path: str = "event.avsc") -> Schema:
        declared = []
        for field in fields:
            declared += [field] if "type" in field else [{"name": name, "type": type} for name, type in field.items()]
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"type": "record", "name": "Event", "fields": declared}))
        return load_schema(file)

    return make
