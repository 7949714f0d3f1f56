"""What programs give, as a producer would write it: Python's values, series, arrays and times."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import msgspec
import numpy as np

from penstock.batch import Array
from penstock.codecs.table import holds_truth

__all__ = ["BYTES", "JSON", "SAME", "array_of", "each", "is_null", "key_of", "list_of", "odd", "text_of", "ticks", "to_bytes"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NULLS: Final = frozenset(("NAType", "NaTType"))  # of pandas
BYTES: Final = (bytes, bytearray, memoryview)
SAME: Final = frozenset((str, int, bool, type(None)))  # what JSON holds as it is


def each(what: str, given: Any, count: int) -> Sequence[Any]:
    """Returns what was given for each event; None for each when nothing was. Raises ValueError for another number of them."""
    if given is None:
        return [None] * count
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise TypeError(f"{what} of several events are a list with one for each of them, not {type(given).__name__}")
    listed = list(given)
    if len(listed) != count:
        raise ValueError(f"{len(listed)} {what} for {count} events: give one for each, or None")
    return listed


def key_of(key: Any) -> bytes | None:
    """Returns the bytes of a key: text, bytes or an object; None for none. Raises TypeError."""
    if key is None or isinstance(key, str | bytes):
        return None if key is None else to_bytes(key)
    if (found := odd(key)) is not None:
        raise TypeError(f"no key holds {found!r}")
    written = JSON.encode(key)
    if written != b"null" and not isinstance(key, Mapping):
        raise TypeError(f"{key!r} is something else")
    return None if written == b"null" else written  # NaN and NA too


def to_bytes(text: Any) -> bytes:
    """Returns text or bytes as bytes. Raises TypeError."""
    if not isinstance(text, str | bytes):
        raise TypeError(f"{text!r} is something else")
    return text.encode() if isinstance(text, str) else bytes(text)


def is_null(value: Any) -> bool:
    """Whether a cell of a frame says that there is nothing: None, NaN, NA, NaT."""
    return value is None or type(value).__name__ in _NULLS or (isinstance(value, float) and value != value)


def text_of(name: Any) -> str:
    """Returns the name of a header. Raises TypeError, and UnicodeEncodeError for half a surrogate pair."""
    if not isinstance(name, str):
        raise TypeError(f"{name!r} is something else")
    name.encode()
    return name


def odd(value: Any) -> Any:
    """Returns what the value holds, or is, and JSON would change: infinity to null, and bytes to base64; None for nothing.

    Raises RecursionError for a value inside itself.
    """
    if type(value) is list and (kinds := {*map(type, value)}) == {float}:
        return None if math.isfinite(sum(value)) else next(filter(math.isinf, value), None)
    if type(value) is list and kinds <= SAME:
        return None
    if isinstance(value, Mapping):
        return next((found for one in value.values() if (found := odd(one)) is not None), None)
    if isinstance(value, list | tuple | set | frozenset):
        return next((found for one in value if (found := odd(one)) is not None), None)
    return value if isinstance(value, BYTES) or (isinstance(value, float) and math.isinf(value)) else None


def array_of(name: str, values: Any) -> Array:
    """Returns a column as an array; text as objects, lists of different lengths as an object per row. Raises TypeError."""
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if isinstance(values, np.ma.MaskedArray) and values.ndim != 1:
        made: Array = np.ma.filled(values.astype(object), None)  # a null inside an array, which no array may have
    elif isinstance(values, np.ndarray):
        made = values
    elif isinstance(values, list | tuple):
        try:
            made = np.array(values)
        except ValueError:  # lists of different lengths
            made = _each_alone(values)
        if made.dtype.kind in "iuf" and holds_truth(values):
            made = _each_alone(values)  # a truth value stays one, and its row fails
        if made.dtype.kind not in "biufM":
            made = made if made.dtype == object else np.array(values, object)
    else:
        raise TypeError(f"the column {name!r} is an array or a list, not {type(values).__name__}")
    if not made.ndim:
        raise TypeError(f"the column {name!r} is an array or a list, not one value")
    return made.astype(object) if made.dtype.kind in "Uc" else made  # no field holds complex numbers


def _each_alone(values: Sequence[Any]) -> Array:
    made = np.empty(len(values), object)
    for at, value in enumerate(values):
        made[at] = value
    return made


def list_of(values: Any) -> Sequence[Any] | None:
    """Returns a column as a list: of a list, a tuple, an array, a series; None for one value."""
    if isinstance(values, list | tuple):
        return values
    if getattr(values, "ndim", 0) and hasattr(values, "tolist"):
        return cast(list[Any], values.tolist())
    return cast(list[Any], values.to_list()) if hasattr(values, "to_list") else None


def ticks(value: Any, unit: timedelta) -> int | None:
    """Returns the time in units since the epoch; None for none."""
    if value != value:  # NaT
        return None
    moment: Any = value.astype("datetime64[us]").item() if isinstance(value, np.datetime64) else value
    if not isinstance(moment, datetime):
        raise ValueError(f"{value!r} is no time between the years 1 and 9999")
    since = (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment) - _EPOCH
    return int(since // unit)


def plain(value: Any) -> Any:
    """Returns what JSON can hold instead of what it cannot. Raises TypeError."""
    if isinstance(value, np.ndarray | np.generic):
        made = value.tolist()
        if isinstance(made, np.floating):  # longer than a float of Python
            made = float(made)
        if (found := odd(made)) is not None:
            raise TypeError(f"no event holds {found!r}")
        return made
    if isinstance(value, Mapping):
        return dict(value)
    if type(value).__name__ in _NULLS:
        return None
    raise TypeError(f"it holds a {type(value).__name__}")


JSON: Final = msgspec.json.Encoder(enc_hook=plain)
