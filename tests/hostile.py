"""A text that somebody made to steer a terminal, and what must hold of everything that is printed."""

from __future__ import annotations

__all__ = ["EVIL", "harmless"]

# Clears the screen, sets the title, C1's CSI, turns the direction, begins what looks like a record of a log, ends a row of markup.
EVIL = "[/]a\x1b[2Jb\x1b]0;pwn\x07c\x9b31m\x85d\u202ee\u2066f\x7fg\u2028h\r12:30:01.250 INFO  penstock: forged[/]\x00"


def harmless(text: str) -> bool:
    return all(one in "\n\t" or one.isprintable() for one in text)
