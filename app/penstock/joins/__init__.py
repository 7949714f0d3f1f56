"""Which records of several streams belong to one event, and when that is enough. Pure: no I/O and no clock; time is an argument."""

from penstock.joins.quorum import END, Added, Bounds, Decided, Groups, Quorum
from penstock.joins.rows import DEADLINE, MASK, OVERDUE, Rows, present

__all__ = ["DEADLINE", "END", "MASK", "OVERDUE", "Added", "Bounds", "Decided", "Groups", "Quorum", "Rows", "present"]
