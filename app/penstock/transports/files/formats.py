"""The formats of files, one row each, and the one that a name ends with."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Final, Literal

from penstock.transports.files.base import Read

__all__ = ["FORMATS", "PACKED", "Format", "format_of"]

PACKED: Final = (".gz", ".zst")  # endings behind those of formats of lines


@dataclass(frozen=True, slots=True)
class Format:
    """A format: its endings; how its outputs are encoded; whether it is read as columns, these without types; whether it packs lines."""

    name: str
    endings: tuple[str, ...]
    encodes: Literal["json", "avro", "columns"]
    columns: bool = True
    text: bool = False
    packs: bool = False

    @property
    def module(self) -> Any:
        """The module that reads and writes it, imported when it is needed."""
        return importlib.import_module(f"penstock.transports.files.{self.name}")

    @property
    def read(self) -> Read:
        read: Read = self.module.read
        return read


FORMATS: Final = {
    one.name: one
    for one in (
        Format("ndjson", (".ndjson", ".jsonl", ".json"), "json", columns=False, packs=True),
        Format("csv", (".csv",), "columns", text=True, packs=True),
        Format("parquet", (".parquet", ".pq"), "columns"),
        Format("arrow", (".arrow", ".feather", ".ipc", ".arrows"), "columns"),
        Format("avro", (".avro",), "avro"),
    )
}


def format_of(name: str) -> tuple[Format, str] | None:
    """Returns the format that a name ends with, and the whole ending, such as `.csv.gz`; None for another ending."""
    low = name.lower()
    packed = next((ending for ending in PACKED if low.endswith(ending)), "")
    bare = low.removesuffix(packed)
    for one in FORMATS.values():
        ending = next((ending for ending in one.endings if bare.endswith(ending)), "")
        if ending and (one.packs or not packed):
            return one, name[len(name) - len(ending) - len(packed) :]
    return None
