"""The last picture of a run as an SVG, titled with the machine and the date: what the README shows.

    penstock demo --record docs/assets/demo.svg

The title is also in the file as text, so a test can read when and where the picture was made.
"""

from __future__ import annotations

import io
import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console, RenderableType

__all__ = ["WIDTH", "save", "title"]

WIDTH: Final = 112
_FONTS: Final = re.compile(r"@font-face \{.*?\}", re.DOTALL)
_HEIGHT: Final = 100  # more than the picture needs, so that nothing is left out


def console() -> Console:
    """A console that remembers what is printed on it and shows nothing."""
    return Console(record=True, width=WIDTH, height=_HEIGHT, file=io.StringIO(), force_terminal=True)


def save(path: Path, picture: RenderableType, onto: Console) -> None:
    """Writes the picture, drawn for `onto`, a console of `console()`."""
    onto.print(picture)
    drawn = onto.export_svg(title=title(), unique_id="demo")  # one id, so that two recordings differ in what they show
    # Rich's picture asks a server for its letters; ours takes the monospace letters that the reader has.
    path.write_text(_FONTS.sub("", drawn), encoding="utf-8")


def title() -> str:
    """The command, the machine and the date."""
    return f"penstock demo, {os.cpu_count()} cores of {_processor()}, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}"


def _processor() -> str:
    """The processor's name, as Linux gives it; elsewhere its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
