"""The transport's options are the settings: a default is declared once."""

from __future__ import annotations

from dataclasses import MISSING, fields

from penstock.settings import Settings
from penstock.transports.kafka.options import TransportOptions

DECLARED = {one.name: one for one in fields(Settings)}


def test_every_option_that_is_a_setting_comes_from_it() -> None:
    settings = Settings(brokers="localhost:9092", max_batch_rows=7, fetch_linger_ms=0.5)
    options = TransportOptions.of(settings, writes=("out",))
    shared = [one.name for one in fields(TransportOptions) if one.name in DECLARED]
    assert len(shared) >= 13
    assert {name: getattr(options, name) for name in shared} == {name: getattr(settings, name) for name in shared}
    assert (options.writes, options.connection["bootstrap_servers"]) == (("out",), "localhost:9092")


def test_no_option_that_is_a_setting_has_a_default_of_its_own() -> None:
    """Two had drifted: 4096 rows for 2048, and 1 ms for 2."""
    assert [one.name for one in fields(TransportOptions) if one.name in DECLARED and one.default is not MISSING] == []
