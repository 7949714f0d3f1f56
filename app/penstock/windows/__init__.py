"""Features of the recent events of a key: columns in, columns out, without I/O and without a clock."""

from penstock.windows.definition import Aggregate, Definition, LookBack
from penstock.windows.exact import Exact
from penstock.windows.partition import Partition, Windowed
from penstock.windows.rows import Mark, keys_of
from penstock.windows.sawtooth import Sawtooth

__all__ = ["Aggregate", "Definition", "LookBack", "Mark", "Partition", "Windowed", "keys_of", "open_partition"]


def open_partition(definition: Definition) -> Partition:
    """Returns the windows of a partition that has no events yet."""
    return Exact(definition) if definition.exact else Sawtooth(definition)
