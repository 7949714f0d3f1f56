"""Text that others wrote cannot steer a terminal: every way out of a command or a log passes one function."""

from __future__ import annotations

import io
import json
import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from penstock.cli import output
from penstock.tame import tame, tame_json
from penstock.telemetry.logs import configure
from tests.hostile import harmless

HOSTILE = "a\x1b[2Jb\x1b]0;pwn\x07c\x9b31md\u202ee\u2066f\x7fg\ud800h"


@given(st.text(st.characters()))
def test_tamed_text_has_no_control_characters_and_other_text_is_not_changed(text: str) -> None:
    assert not any((one < " " and one not in "\n\t") or "\x7f" <= one <= "\x9f" or one in "\u202e\u2066" for one in tame(text))
    if harmless(text):
        assert tame(text) == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_tamed_json_holds_the_same_values(text: str) -> None:
    assert json.loads(tame_json(json.dumps({text: text}, ensure_ascii=False))) == {text: text}


def test_everything_that_commands_print_is_tamed(capsys: pytest.CaptureFixture[str]) -> None:
    table = output.table("title", "COLUMN")
    table.add_row(HOSTILE)
    for console in (output.out, output.err):
        console.print(HOSTILE, markup=False)
        console.print(Text(HOSTILE, style="red"))
        console.print(table)
    output.print_json({HOSTILE: HOSTILE})
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert harmless(text)
        assert "\\x1b[2J" in text or "\\u001b[2J" in text


@pytest.mark.parametrize("form", ["text", "json"])
def test_every_line_of_the_log_is_tamed(form: str) -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        configure("INFO", form, stream=stream)
        logging.getLogger("penstock.test").warning("%s", HOSTILE, extra={"name_of": HOSTILE})
    finally:
        root.handlers[:], root.level = before, level
    assert "pwn" in stream.getvalue()
    assert harmless(stream.getvalue())


def test_text_of_others_begins_no_line_of_the_log() -> None:
    """What looks like a record, in a message, in a field and in an error, is not at the beginning of a line."""
    stream = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    forged = "\n12:30:01.250 INFO  penstock: forged\r\n12:30:01.250 INFO  penstock: forged"
    try:
        configure("INFO", "text", stream=stream)
        try:
            raise ValueError(forged)
        except ValueError:
            logging.getLogger("penstock.test").exception("x%s", forged, extra={"name_of": forged})
    finally:
        root.handlers[:], root.level = before, level
    first, *others = stream.getvalue().splitlines()
    assert "penstock.test: x" in first
    assert len(others) > 6
    assert all(one.startswith("    ") for one in others)


def test_commands_print_by_one_function() -> None:
    """`print` is refused by the linter; `click.echo` stands in one file."""
    folder = Path(output.__file__).parent
    found = [str(file.relative_to(folder)) for file in folder.rglob("*.py") if re.search(r"click\.s?echo\(|\.show\(\)", file.read_text())]
    assert [one for one in found if not one.startswith("new/project")] == ["echo.py"]
