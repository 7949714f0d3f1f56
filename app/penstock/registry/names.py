"""The allowed names of models, versions and aliases: safe as a folder and in a topic's header, with distinct first characters.

A version begins with a digit and an alias with a letter, so `name@x` is never ambiguous.
"""

from __future__ import annotations

import re
from typing import Final

from penstock.binding import NAME, VERSION
from penstock.errors import ConfigError, Problem

__all__ = ["ALIAS", "NAME", "VERSION", "check_names"]

ALIAS: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,99}")

_RULES: Final = {
    NAME: ("model name", "lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit"),
    VERSION: ("version", "letters, digits, '.', '_' and '-', beginning with a digit"),
    ALIAS: ("alias", "letters, digits, '.', '_' and '-', beginning with a letter"),
}


def check_names(name: str, *, version: str | None = None, alias: str | None = None) -> None:
    """Raises ConfigError with every name that is not allowed; None is not checked."""
    problems = []
    for pattern, text in ((NAME, name), (VERSION, version), (ALIAS, alias)):
        if text is not None and not pattern.fullmatch(text):
            kind, rule = _RULES[pattern]
            problems.append(Problem("", 0, 0, f"{text!r} is not a valid {kind}: use {rule} (100 characters at most)"))
    if problems:
        raise ConfigError(problems)
