"""YAML text as marked values: every scalar, list and mapping has its line, and no text can harm the reader.

Scalars follow the YAML 1.2 core schema, as editors do: `no`, `on` and `12:30` are text, only `true` and `false` are
booleans. Nothing is constructed from tags and nothing is read from the environment. What anchors can multiply is limited
while it is read: size, depth, the number of aliases, and the number of values after aliases are expanded.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from penstock.errors import Problem
from penstock.topology.spec import Mark

__all__ = ["MAX_BYTES", "Listed", "Mapped", "Scalar", "Value", "read"]

MAX_BYTES: Final = 1_048_576
MAX_ALIASES: Final = 100
MAX_DEPTH: Final = 32
MAX_VALUES: Final = 20_000

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT: Final = re.compile(r"[-+]?[0-9]{1,30}")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INF: Final = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_ELEMENT: Final = re.compile(r"[^\s\[\]{},\"']+\[[0-9]+\]")  # between { } and [ ] YAML takes this [ for the begin of a list
# What a line that is not YAML looks like, where it is text that needs quotes, as expressions may be.
_ADVICE: Final = (
    (re.compile(r":\s+>=?\s*[-+.0-9]"), 'put text that begins with > in quotes: ">= 0.85"'),  # YAML takes it for the begin of a folded text
    (
        re.compile(r"^\s*[\w-]+:\s+(\"[^\"]*\"|'[^']*'|\[.*\]|\{.*\})\s*[^\s#]"),
        "put the whole text in quotes: a part of it is in quotes or brackets",
    ),
    (re.compile(r"^\s*[\w-]+:\s+[^\s'\"\[{|>#].*:\s"), "put text that has ': ' in it in quotes"),
)
_BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
# How a scalar is written, by its first character: pieces. A piece `one` is a character of its text that is no blank.
_PIECES: Final = defaultdict(
    lambda: re.compile(r"\s+|(?P<one>\S)"),
    {
        "'": re.compile(r"\A'|\s+|(?P<one>''|[^\s'])|'"),
        '"': re.compile(r'\A"|\s+|\\\s+|\\[nrt ]|(?P<one>\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|\\.|[^\s"])|"'),
        "|": re.compile(r"\A[^\n]*\n|\s+|(?P<one>\S)"),
        ">": re.compile(r"\A[^\n]*\n|\s+|(?P<one>\S)"),
    },
)


@dataclass(frozen=True, slots=True)
class Scalar:
    """One word: `value` is a str, int, float, bool or None; `text` is how the file writes it."""

    value: str | int | float | bool | None
    text: str
    mark: Mark
    weight: int = 1
    raw: str = field(default="", compare=False, repr=False)  # from its mark on, as the file has it

    def places(self) -> tuple[Mark, ...]:
        """Returns the place in the file of each character of `text`.

        Blanks, line breaks, quotes and the header of a block differ between the file and the text, so the other characters are
        matched in their order. An escape in double quotes is one of them. A blank has the place of the character before it.
        """
        line, column = self.mark.line, self.mark.column
        marks: list[Mark] = []
        for piece in _PIECES[self.raw[:1]].finditer(self.raw):
            if piece["one"]:
                marks.append(Mark(line, column))
            breaks = _BREAK.split(piece[0])
            line, column = line + len(breaks) - 1, len(breaks[-1]) + (column if len(breaks) == 1 else 1)
        found, seen = [], -1
        for one in self.text:
            seen += not one.isspace()
            found.append(marks[seen] if 0 <= seen < len(marks) else self.mark)
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Listed:
    """A sequence. `weight` counts the values inside, with every alias expanded."""

    items: tuple[Value, ...]
    mark: Mark
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Mapped:
    """A mapping: its keys in the file's order, without duplicates."""

    items: tuple[tuple[Scalar, Value], ...]
    mark: Mark
    weight: int = 1

    def get(self, name: str) -> Value | None:
        return next((value for key, value in self.items if key.text == name), None)


Value = Scalar | Listed | Mapped


class _Stop(Exception):
    """Ends the reading; the problem is in the list."""


def read(text: str, file: str) -> tuple[Value | None, list[Problem]]:
    """Returns the only document in `text` (None when nothing usable is left), and every problem with it as YAML."""
    reader = _Reader(file)
    try:
        reader.measure(text)
        for event in yaml.parse(text, Loader=_Loader):
            reader.take(event)
        if reader.root is None:
            reader.stop(Mark(1, 1), "the file is empty", "begin with 'topology: NAME'")
    except _Stop:
        return None, reader.problems
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError: raised by the pure Python reader for impossible escapes
        reader.problems.append(_syntax(error, text, file))
        return None, reader.problems
    return reader.root, reader.problems


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end was not read yet."""

    event: Any
    mark: Mark
    items: list[Value] = field(default_factory=list)


class _Reader:
    """Folds parse events into values with an explicit stack, so that depth cannot exhaust Python's."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.root: Value | None = None
        self._open: list[_Open] = []
        self._anchors: dict[str, Value] = {}
        self._aliases = 0
        self._documents = 0
        self._values = 0
        self._lines = 1
        self._text = ""

    def report(self, mark: Mark, message: str, fix: str = "") -> None:
        self.problems.append(Problem(self.file, mark.line, mark.column, message, fix))

    def stop(self, mark: Mark, message: str, fix: str = "") -> None:
        self.report(mark, message, fix)
        raise _Stop

    def measure(self, text: str) -> None:
        self._lines = len(_BREAK.findall(text)) + 1
        self._text = text
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            line = len(_BREAK.findall(text[: error.start])) + 1
            self.stop(Mark(line, 1), "half a surrogate pair is not a character", "save the file as UTF-8")
        else:
            if size > MAX_BYTES:
                self.stop(Mark(1, 1), f"the file has {size:,} bytes, the limit is {MAX_BYTES:,}", "split the topology")

    def take(self, event: Any) -> None:
        # The reader places the value of an empty document on the line after the last one.
        mark = Mark(min(event.start_mark.line + 1, self._lines), event.start_mark.column + 1)
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    self.stop(mark, "a second document begins here", "write one topology per file")
            case yaml.AliasEvent():
                self._alias(event, mark)
            case yaml.ScalarEvent():
                self._no_tag(event, mark)
                plain = event.implicit[0] and not event.style
                raw = self._text[event.start_mark.index : event.end_mark.index] if event.start_mark and event.end_mark else ""
                self._add(Scalar(_resolve(event.value) if plain else event.value, event.value, mark, raw=raw), event.anchor)
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                self._no_tag(event, mark)
                if len(self._open) >= MAX_DEPTH:
                    self.stop(mark, f"nested more than {MAX_DEPTH} levels deep", "a topology needs only six")
                self._open.append(_Open(event, mark))
            case yaml.SequenceEndEvent():
                done = self._open.pop()
                self._add(Listed(tuple(done.items), done.mark, _weight(done.items)), done.event.anchor)
            case yaml.MappingEndEvent():
                done = self._open.pop()
                self._add(Mapped(self._pairs(done.items), done.mark, _weight(done.items)), done.event.anchor)

    def _add(self, value: Value, anchor: str | None) -> None:
        self._values += 1
        if max(value.weight, self._values) > MAX_VALUES:
            self.stop(value.mark, f"more than {MAX_VALUES:,} values once the aliases are expanded", "write it without anchors")
        if anchor:
            self._anchors[anchor] = value
        if self._open:
            self._open[-1].items.append(value)
        else:
            self.root = value

    def _alias(self, event: Any, mark: Mark) -> None:
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            self.stop(mark, f"more than {MAX_ALIASES} aliases", "write it without anchors")
        if event.anchor not in self._anchors:
            self.stop(mark, f"the alias *{event.anchor} has no anchor that ends before it", f"write &{event.anchor} first")
        self._add(self._anchors[event.anchor], None)

    def _no_tag(self, event: Any, mark: Mark) -> None:
        if event.tag is not None:
            self.report(mark, f"the tag {event.tag!r} is not allowed: a topology is plain data", "remove the tag")

    def _pairs(self, items: list[Value]) -> tuple[tuple[Scalar, Value], ...]:
        pairs: dict[str, tuple[Scalar, Value]] = {}
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, Scalar):
                self.report(key.mark, "a list or mapping cannot be a key", "write the key as plain text")
            elif key.text == "<<":
                self.report(key.mark, "merge keys (<<) are not supported", "write the keys out, or use one alias for the whole value")
            elif key.text in pairs:
                first = pairs[key.text][0].mark.line
                self.report(key.mark, f"duplicate key {key.text!r}, first on line {first}", "keep one of the two")
            else:
                pairs[key.text] = (key, value)
        return tuple(pairs.values())


def _weight(items: list[Value]) -> int:
    return 1 + sum(item.weight for item in items)


def _resolve(text: str) -> str | int | float | bool | None:
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if infinite := _INF.fullmatch(text):
        return -math.inf if infinite[1] == "-" else math.inf
    return math.nan if text in {".nan", ".NaN", ".NAN"} else text


def _syntax(error: Exception, text: str, file: str) -> Problem:
    """Turns a YAML error into a Problem on a line that the file has: the mark of an unexpected end is after the last one."""
    lines = _BREAK.split(text)
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        position = min(int(getattr(error, "position", 0) or 0), len(text))
        line = len(_BREAK.findall(text[:position])) + 1
        message = getattr(error, "reason", None) or str(error)
        return Problem(file, line, 1, f"not YAML: {message}", "remove the character, save the file as UTF-8")
    if mark.line >= len(lines) - 1 and getattr(error, "context_mark", None) is not None:
        mark = min((mark, error.context_mark), key=lambda one: one.line)  # type: ignore[attr-defined]  # the place where the unclosed value begins
    line = min(mark.line + 1, len(lines))
    column = mark.column + 1 if mark.line < len(lines) else len(lines[-1]) + 1
    message = " ".join(part for part in (getattr(error, "context", None), getattr(error, "problem", None)) if part)
    indent = lines[line - 1][: len(lines[line - 1]) - len(lines[line - 1].lstrip())]
    fix = (
        "replace the tab: YAML is indented with spaces only"
        if "\t" in indent
        else "check indentation, quotes and brackets here and just above"
    )
    began = getattr(error, "context_mark", None)
    if "flow" in (getattr(error, "context", None) or "") and began is not None and began.line < line - 1:
        fix = f"close the {lines[began.line][began.column]} of line {began.line + 1}"
    fix = next((advice for pattern, advice in _ADVICE if pattern.search(lines[line - 1])), fix)
    element = next((one[0] for one in _ELEMENT.finditer(lines[line - 1]) if one.start() < column - 1 < one.end()), "")
    if element:
        fix = f'put quotes around {element}, as "{element}": within {{ }} and [ ], YAML begins a list at a ['
    return Problem(file, line, column, f"not YAML: {message}", fix)
