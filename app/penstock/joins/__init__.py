"""Which records of several streams belong to one event, and when that is enough. Pure: no I/O and no clock; time is an argument.

`quorum` has the rule, as values: a topology has it without loading numpy. `groups` and `rows` keep it.
`sides` keeps the events of two streams that are matched by a key of their own, within a time.
"""

from penstock.joins.quorum import BOUNDS, END, MATCH_FORMAT, Bounds, Quorum, present

__all__ = ["BOUNDS", "END", "MATCH_FORMAT", "Bounds", "Quorum", "present"]
