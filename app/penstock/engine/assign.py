"""Which arm a unit is in: by a keyed hash, the same on every worker, after a restart and in a replay.

A unit's number in [0, 1) is of the experiment's layer and salt, so that experiments of two layers are independent. An arm has a piece of
[0, 1). When the share of a candidate grows, units go from the live model to it, and not one goes back: its piece begins at 0.

The hash is BLAKE2b with the name as its key. CRC32 with a salt would confound two experiments wholly, and the hash of Kafka's partitioner
would give each partition one arm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["arms_of", "numbers_of"]

Floats = npt.NDArray[np.float64]

_LONGEST = 64  # bytes of BLAKE2b's key


def numbers_of(layer: str, experiment: str, salt: str, units: Iterable[bytes]) -> Floats:
    """Returns the number of each unit, float64 [N], uniform in [0, 1) with 53 bits. A unit is the bytes of its key, as on Kafka."""
    name = f"penstock/{layer}/{experiment}/{salt}".encode()
    begun = hashlib.blake2b(digest_size=8, key=name if len(name) <= _LONGEST else hashlib.blake2b(name).digest())
    found = []
    for unit in units:
        one = begun.copy()
        one.update(unit)
        found.append(one.digest())
    whole = np.frombuffer(b"".join(found), "<u8")
    return (whole >> np.uint64(11)).astype(np.float64) * 2.0**-53


def arms_of(numbers: Floats, shares: Sequence[float]) -> npt.NDArray[np.intp]:
    """Returns the arm of each number: the first whose cumulative share is above it; the last one takes the rest."""
    ends = np.cumsum(shares)[:-1]
    return np.searchsorted(ends, numbers, side="right")
