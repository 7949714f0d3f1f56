"""A binding: the model version that a node runs, by the digests of its files, and the parameters that it runs with.

Releases, the registry and its cache share it. The URI is the place to look for the version; the digests identify its content.
The names of models and versions are safe as a folder and in a URL. People read them, so they are one line without control characters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from penstock.tame import CONTROLS

__all__ = ["END", "LINE", "NAME", "VERSION", "Binding", "Parameter", "same"]

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
VERSION: Final = re.compile(r"[0-9][A-Za-z0-9._-]{0,99}")

END: Final = r"$(?!\n)"  # Python's $ alone also matches before a line break at the end
LINE: Final = f"^[^{CONTROLS}]*{END}"
_URI: Final = f"^models:/{NAME.pattern}/{VERSION.pattern}{END}"

Digest = Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}" + END)]
Parameter = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=LINE)]

_ENCODER: Final = msgspec.json.Encoder(order="deterministic")


class Binding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The model version that a node runs: the place to look for it, and the digests of its content."""

    uri: Annotated[str, msgspec.Meta(pattern=_URI, description="models:/NAME/VERSION, in any registry that the worker may use.")]
    digest: Annotated[Digest, msgspec.Meta(description="The digest of model.onnx.")]
    manifest: Annotated[Digest, msgspec.Meta(description="The digest of model.toml, which names that of the golden records.")]
    parameters: Annotated[
        dict[Parameter, Any],
        msgspec.Meta(description="Constants that feed input tensors of the model: booleans, numbers, strings, and lists of these."),
    ] = {}

    def __post_init__(self) -> None:
        for name, value in self.parameters.items():
            if not _constant(value):
                raise ValueError(f"parameter {name}: a boolean, a finite number, an integer of 64 bits, a string, or a list of these")

    @property
    def name(self) -> str:
        return self.uri.split("/")[1]

    @property
    def version(self) -> str:
        return self.uri.split("/")[2]

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


def same(one: Mapping[str, Binding], other: Mapping[str, Binding]) -> bool:
    """Returns whether both bind the same files with the same parameters, wherever they were found."""
    return {node: _identity(binding) for node, binding in one.items()} == {node: _identity(binding) for node, binding in other.items()}


def _identity(binding: Binding) -> tuple[str, str, str]:
    return binding.digest, binding.manifest, _ENCODER.encode(binding.parameters).decode()


def _constant(value: Any) -> bool:
    """Returns whether this can feed a tensor."""
    if isinstance(value, list | tuple):
        return all(_constant(one) for one in value)
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return math.isfinite(value) if isinstance(value, float) else isinstance(value, str)
