"""What is wrong in an expression, and where in its text."""

from __future__ import annotations

__all__ = ["ExpressionError", "Unresolved"]


class ExpressionError(Exception):
    """What is wrong (`message`), what to do (`fix`, may be empty), and where: `at` is the offset in the text, in characters."""

    def __init__(self, message: str, at: int, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.at = at
        self.fix = fix


class Unresolved(ExpressionError):
    """A name without a type. The scope has reported the reason, or waits for another error to be corrected."""

    def __init__(self, name: str, at: int) -> None:
        super().__init__(f"{name!r} has no type", at)
