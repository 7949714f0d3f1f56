"""Wraps the prose of Markdown pages at 120 columns; code, tables, headings, link targets and figures stay as they are.

python docs/wrap.py FILE...    rewrites the files; `make format` does it for the README and the pages that people write
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["WIDTH", "prose", "wrapped"]

WIDTH: Final = 120
_FIXED: Final = re.compile(r"\||<|#|\[[^\]]+\]: |\[!?\[|:::|Medians, measured|CPU µs per event in|\s*$|---")
_ITEM: Final = re.compile(r"(\s*)([-*] |\d+\. )")
_WORD: Final = re.compile(r"(?:`[^`]*`|\[[^\]]*\](?=[(\[])|\S)+")  # code and the text of a link stay in one piece


def prose(text: str) -> Iterator[tuple[int, str]]:
    """The lines that may be wrapped, with their numbers from 1: no code, table, heading, link target or comment."""
    code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code and not _FIXED.match(line):
            yield number, line


def wrapped(text: str) -> str:
    """The same text with every paragraph and list item filled up to WIDTH."""
    lines, flowing = text.splitlines(), {number for number, _ in prose(text)}
    out: list[str] = []
    block: list[str] = []
    for number, line in enumerate(lines, 1):
        if number not in flowing or _ITEM.match(line):
            out += _filled(block)
            block = []
        if number in flowing:
            block.append(line)
        else:
            out.append(line)
    return "\n".join([*out, *_filled(block)]) + "\n"


def _filled(block: list[str]) -> Iterator[str]:
    """One paragraph or list item; what follows an item's marker is indented as far as it."""
    if not block:
        return
    item = _ITEM.match(block[0])
    first = item[0] if item else re.match(r"\s*", block[0])[0]  # type: ignore[index]  # zero spaces match, too
    rest = " " * len(first)
    words = _WORD.findall(" ".join([block[0][len(first) :], *block[1:]]))
    line = first
    for word in words:
        if line.strip() and line != first and len(line) + 1 + len(word) > WIDTH:
            yield line
            line = rest + word
        else:
            line += word if line in (first, rest) else f" {word}"
    yield line


def main() -> int:
    for name in sys.argv[1:]:
        path = Path(name)
        text = path.read_text(encoding="utf-8")
        if (new := wrapped(text)) != text:
            path.write_text(new, encoding="utf-8")
            print(f"{name}: wrapped")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
