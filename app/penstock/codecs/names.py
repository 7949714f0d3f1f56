"""Names: which ones a schema can have, and one that resembles another."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Final

__all__ = ["NAME", "NO_ALIAS", "NO_UNICODE", "free", "plain"]

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")  # of Avro
NO_ALIAS: Final = re.compile(r'["\\\x00-\x1f\ud800-\udfff]')  # no JSON name that the decoder can look for
NO_UNICODE: Final = re.compile("[\ud800-\udfff]")
_NEITHER: Final = re.compile(r"[^A-Za-z0-9]+")


def plain(name: str) -> str:
    """Returns an Avro name that resembles another name."""
    plain = _NEITHER.sub("_", name).strip("_") or "field"
    return f"_{plain}" if plain[0].isdigit() else plain


def free(name: str, taken: Container[str], numbers: dict[str, int]) -> str:
    """Returns the name, with a number behind it if it is taken. `numbers` has the last one of each name."""
    free, number = name, numbers.get(name, 1)
    while free in taken:
        number += 1
        free = f"{name}{number}"
    numbers[name] = number
    return free
