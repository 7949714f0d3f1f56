"""How commands edit a file that people edit, too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from penstock.errors import ConfigError, Problem
from penstock.host import locked, write_whole

__all__ = ["edit"]


def edit(path: Path, change: Callable[[str, str], str]) -> None:
    """Rewrites the file, whole or not at all; a link stays a link. `change` takes its text and its name, and returns the new text.

    Raises ConfigError when it cannot be written, and whatever `change` raises.
    """
    target = path.expanduser().resolve()
    if not target.parent.is_dir():  # a lock on it would make a file of its name
        raise ConfigError(Problem(str(path), 0, 0, "cannot be written: its folder does not exist"))
    try:
        with locked(target.parent, lambda: False):  # two edits at once would lose one, even a revocation
            before, mode = (target.read_text(encoding="utf-8"), target.stat().st_mode & 0o777) if target.exists() else ("", 0o644)
            write_whole(target, change(before, str(path)).encode(), mode=mode)
    except (OSError, UnicodeError) as error:
        raise ConfigError(Problem(str(path), 0, 0, f"cannot be written: {error}")) from None
