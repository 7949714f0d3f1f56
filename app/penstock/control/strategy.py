"""How a release replaces the live plan. A strategy is a value with a `kind`; each kind is one class, in the table `STRATEGIES`.

| kind | what an activation does |
|---|---|
| `single` | the release's models score every row from then on |

A reader refuses a kind, or a field of a kind, that it does not know (`unknown-strategy`): if the strategy were ignored, the release
would score every row at once. So data that no reader may ignore is a field of a strategy, never a field beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from penstock.errors import ControlError

__all__ = ["SINGLE", "STRATEGIES", "Single", "Strategy", "check_known", "kind_of"]


class Single(msgspec.Struct, frozen=True, tag_field="kind", tag="single", forbid_unknown_fields=True):
    """The models of the release score every row, from its activation on."""


Strategy = Single
SINGLE: Final = Single()
STRATEGIES: Final[Mapping[str, type[msgspec.Struct]]] = {"single": Single}
_UNKNOWN: Final = "unknown-strategy"


def kind_of(strategy: Strategy) -> str:
    """Returns the strategy's name, as people write it."""
    return str(type(strategy).__struct_config__.tag)


def check_known(given: Any) -> None:
    """Raises ControlError (`unknown-strategy`) for a strategy as JSON that has a kind or a field that this Penstock does not know.

    Raises ValueError for one without a kind. The decoder would accept it while there is only one kind.
    """
    if not isinstance(given, dict) or not isinstance(kind := given.get("kind"), str):
        raise ValueError("a strategy is an object with a `kind`")
    known = STRATEGIES.get(kind)
    if known is None:
        raise ControlError(f"a release with the strategy {kind!r}; this Penstock knows {', '.join(STRATEGIES)}: upgrade it", code=_UNKNOWN)
    if more := given.keys() - {"kind", *known.__struct_fields__}:
        listed = ", ".join(sorted(more))
        raise ControlError(f"a release whose strategy {kind!r} has {listed}, which this Penstock does not know: upgrade it", code=_UNKNOWN)
