"""The keyed state of a partition: get, put, checkpoint, restore. It is the one store of what Penstock remembers about keys."""

from penstock.state.base import NEVER, Entry, Keyed, Standing
from penstock.state.rows import Change, Rows
from penstock.state.snapshot import Refused, load, save
from penstock.state.states import Checkpoint, OneAfterAnother, States
from penstock.state.table import Table

__all__ = [
    "NEVER", "Change", "Checkpoint", "Entry", "Keyed", "OneAfterAnother", "Refused", "Rows", "Standing", "States", "Table", "load", "save",
]  # fmt: skip
