"""Outputs on their way: what waits for them is released when they have arrived."""

from __future__ import annotations

import gc
import weakref

from penstock.transports.base import Sent


class Held:
    """What a callback holds: the records of a group."""


def test_settled_outputs_keep_nothing_alive() -> None:
    """A callback often holds the object that it waits for. That cycle kept a busy worker's records in memory until the collector came."""
    sent, held = Sent(1), Held()
    alive = weakref.ref(held)
    sent.add_done_callback(lambda _, held=held, sent=sent: None)  # type: ignore[misc]  # mypy cannot infer the defaults
    del held
    gc.disable()
    try:
        sent.settle()
        assert alive() is None
    finally:
        gc.enable()
