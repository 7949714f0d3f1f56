"""Which control messages are accepted: `keys`, the trust `file` that names them, and the `judge` of each control topic entry."""

from penstock.control.trust.file import Trust
from penstock.control.trust.judge import CLOCK_MS, MAX_SEALED, NEXT, Judge, seal
from penstock.control.trust.keys import SigningKey

__all__ = ["CLOCK_MS", "MAX_SEALED", "NEXT", "Judge", "SigningKey", "Trust", "seal"]
