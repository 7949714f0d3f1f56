"""An execution provider: the part of onnxruntime that computes a model, on a processor or an accelerator, with its options.

Names and options are onnxruntime's, handed to it as they are. A value only: which providers a host has is known to `model/session`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["CPU", "NAME", "Provider", "named"]

NAME: Final = r"^[A-Za-z][A-Za-z0-9]*ExecutionProvider$"


@dataclass(frozen=True, slots=True)
class Provider:
    """`name` as onnxruntime has it, and the options in their order. Every value is text: onnxruntime reads no other."""

    name: str
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.name + (f" ({', '.join(f'{key}={value}' for key, value in self.options)})" if self.options else "")


CPU: Final = (Provider("CPUExecutionProvider"),)


def named(text: str) -> tuple[Provider, ...]:
    """Returns the providers of a list of names, separated by commas, without options."""
    return tuple(Provider(name) for one in text.split(",") if (name := one.strip()))
