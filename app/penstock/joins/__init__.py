"""Which records of several streams belong to one event, and when that is enough. Pure: no I/O and no clock; time is an argument.

`quorum` has the rule, as values: a topology has it without loading numpy. `groups` and `rows` keep it.
"""

from penstock.joins.quorum import BOUNDS, END, Bounds, Quorum, present

__all__ = ["BOUNDS", "END", "Bounds", "Quorum", "present"]
