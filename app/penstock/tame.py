"""One way to make foreign text safe to show: on a terminal, in a log and on a page.

Names, descriptions and reasons come from records, model files and messages that others wrote. Escape sequences in them could
change what a terminal shows, and direction marks what a person reads.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["CONTROLS", "UNPRINTABLE", "tame", "tame_json"]

# Control characters (C0, C1), line and paragraph separators, marks of direction: a set of a regular expression, here and in JSON Schema.
CONTROLS: Final = r"\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069"
UNPRINTABLE: Final = re.compile(f"[{CONTROLS}]")
_IN_LINES: Final = re.compile(f"(?![\\n\\t])[{CONTROLS}\\u061c\\u200e\\u200f\\ud800-\\udfff]")  # and lone surrogates


def tame(text: str) -> str:
    """Returns the text with its control characters as visible escapes (`\\x1b`); line ends and tabs stay."""
    return _IN_LINES.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def tame_json(text: str) -> str:
    """Returns a JSON document with the control characters of its strings as escapes of JSON: it holds the same values."""
    return _IN_LINES.sub(lambda found: "".join(f"\\u{unit:04x}" for unit in _units(found[0])), text)


def _units(character: str) -> list[int]:
    data = character.encode("utf-16-be", errors="surrogatepass")
    return [int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2)]
