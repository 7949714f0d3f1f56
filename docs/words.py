"""Keeps the prose in plain technical English: idioms that are not used, and how many of them each file still has.

It reads the README and the pages, and of `app/penstock` the docstrings, comments and strings. `docs/words.txt` allows a number of
findings per file. Their sum may only shrink: a file that is not listed has none, and one that has fewer than its number must lower it.
When a file moves, `--write` moves its number. Decisions are never edited, and reference pages are made from the code: neither is read.

python docs/words.py           lists what is too much; exit 1 when there is any
python docs/words.py --all     lists every finding
python docs/words.py --write   writes docs/words.txt; refuses to raise the sum
"""

from __future__ import annotations

import argparse
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Finding", "allowed", "check", "find", "findings"]

ROOT: Final = Path(__file__).resolve().parents[1]
ALLOWED: Final = ROOT / "docs" / "words.txt"

_THINGS: Final = "file|page|log|message|record|schema|topology|worker|broker|header|error|model|command|reader|it"
_MANY: Final = "once|one|each|agent|agents|event|events|flow|line|module|process|processes|record|records|row|rows|table|worker|µs|ms"
_UNITS: Final = "class|command|core|event|field|file|format|host|line|model|node|partition|record|row|second|sink|source|table|topic|worker"

# What is not written, and what to write instead. One row per idiom; each is tried without regard to case, across line ends.
IDIOMS: Final[Mapping[str, str]] = {
    "(?:is|are|was|were|be|been) told": "reports, prints, receives",
    "tells|told(?! apart)": "shows, reports",
    "nobody|somebody|everybody": "name who acts, or use the passive",
    "whoever|whomever": "the process, the person, the reader that ...",
    "held against": "compared with",
    "in force": "active, current",
    "given back|gives? back": "released, returned",
    "of which|of whom": "split the sentence",
    "(?:is|are|that) (?-i:none)": "is not a ...",
    "of its own": "separate, its",
    "stands (?:in|on|at|for|there|still)": "is in, is at",
    "meanwhile": "while ..., during",
    "a word of|not a word|said a word": "a message, a report",
    f"(?:{_THINGS}) says?": "contains, reports, prints",
    "what (?:it|they|he|she) (?:says?|said)": "the report, the content",
    f"(?:{_MANY}) an? (?:{_UNITS})": "per",
    "at hand|in hand": "available, received",
    "goes? its way|goes? on as ever": "continues",
    "for ever": "forever, without end",
    "spoken to|speaks? (?:to|for|itself)": "connected to",
}
_PATTERNS: Final = {idiom: re.compile(r"\b(?:" + idiom.replace(" ", r"\s+(?:[#*]\s*)?") + r")\b", re.IGNORECASE) for idiom in IDIOMS}
_CODE: Final = re.compile(r"^```.*?^```$|`[^`\n]+`|\]\([^)]*\)|<!--.*?-->", re.MULTILINE | re.DOTALL)


class Finding(NamedTuple):
    """An idiom in a file: where, the words, and what to write instead."""

    file: str
    line: int
    words: str
    instead: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.words!r}; write: {self.instead}"


def find(text: str, file: str = "") -> list[Finding]:
    """Every idiom in prose. Words that two rows match are one finding."""
    found: dict[int, Finding] = {}
    for idiom, pattern in _PATTERNS.items():
        for match in pattern.finditer(text):
            if not any(start <= match.start() < start + len(one.words) for start, one in found.items()):
                found[match.start()] = Finding(file, text.count("\n", 0, match.start()) + 1, match[0], IDIOMS[idiom])
    return [one for _, one in sorted(found.items())]


def findings(root: Path = ROOT) -> dict[str, list[Finding]]:
    """The findings of every file that has some, by its path."""
    pages = [root / "README.md", root / "ARCHITECTURE.md", root / "CONTRIBUTING.md", *(root / "docs").rglob("*.md")]
    pages = [page for page in pages if page.parent.name not in ("decisions", "reference") and page.is_file()]
    texts = {page: _blanked(page.read_text(encoding="utf-8"), _CODE) for page in pages}
    texts |= {module: _prose_of(module.read_text(encoding="utf-8")) for module in (root / "app" / "penstock").rglob("*.py")}
    named = {path.relative_to(root).as_posix(): text for path, text in sorted(texts.items())}
    return {file: found for file, text in named.items() if (found := find(text, file))}


def _blanked(text: str, what: re.Pattern[str]) -> str:
    """The text without what matches; lines keep their numbers."""
    return what.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def _prose_of(module: str) -> str:
    """Comments and strings of a module, each on the lines where it is; the parts of an f-string, too."""
    kinds = {tokenize.COMMENT, tokenize.STRING} | {getattr(tokenize, name) for name in ("FSTRING_MIDDLE",) if hasattr(tokenize, name)}
    lines = [""] * (module.count("\n") + 2)
    for token in tokenize.generate_tokens(io.StringIO(module).readline):
        if token.type in kinds:
            for offset, text in enumerate(token.string.splitlines()):
                lines[token.start[0] - 1 + offset] += f" {text}"
    return "\n".join(lines)


def allowed(path: Path | None = None) -> dict[str, int]:
    """The number of findings that each file may have: "COUNT FILE" lines."""
    rows = [line.split() for line in (path or ALLOWED).read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {file: int(count) for count, file in rows}


def check(found: Mapping[str, list[Finding]], limits: Mapping[str, int]) -> Iterator[str]:
    """What is wrong: files with more findings than allowed, and numbers that are too high."""
    for file in sorted(found.keys() | limits.keys()):
        many, limit = len(found.get(file, ())), limits.get(file, 0)
        if many > limit:
            yield f"{file}: {many} idioms, {limit} are allowed"
            yield from (f"  {one}" for one in found[file])
        elif many < limit:
            yield f"{file}: {many} idioms, and docs/words.txt still allows {limit}; run `python docs/words.py --write`"


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the prose for idioms that are not used.")
    parser.add_argument("--all", action="store_true", help="list every finding")
    parser.add_argument("--write", action="store_true", help="write what there is to docs/words.txt")
    arguments = parser.parse_args()
    found = findings()
    if arguments.all:
        print("\n".join(str(one) for many in found.values() for one in many))
        return 0
    limits = allowed()
    if arguments.write:
        many, sum_before = sum(map(len, found.values())), sum(limits.values())
        if many > sum_before:
            print(f"{many} idioms, and only {sum_before} are allowed; see `python docs/words.py`")
            return 1
        _write({file: len(one) for file, one in found.items()})
        return 0
    wrong = list(check(found, limits))
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


def _write(limits: Mapping[str, int]) -> None:
    head = [line for line in ALLOWED.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    rows = [f"{count:>3} {file}" for file, count in sorted(limits.items()) if count]
    ALLOWED.write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
