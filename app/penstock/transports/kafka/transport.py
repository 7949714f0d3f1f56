"""Where Faust is told to use this transport: `faust.App(..., broker="penstock://host:port")`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import faust
from faust.tables.manager import TableManager
from faust.transport import base
from mode.types import ServiceT
from yarl import URL

from penstock.transports.kafka.consumer import Consumer
from penstock.transports.kafka.options import FAUST_LOGGER, TransportOptions
from penstock.transports.kafka.producer import Producer

__all__ = ["App", "Transport"]


class Transport(base.Transport):
    """Faust's transport interface over `consumer` and `producer`."""

    Consumer: ClassVar[type[Consumer]] = Consumer
    Producer: ClassVar[type[Producer]] = Producer
    default_port: ClassVar[int] = 9092
    driver_version = "penstock"


class NoTables(TableManager):
    """Faust's table manager without tables: it still drives the end of a rebalance, but waits a second for none to be declared."""

    logger = FAUST_LOGGER

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()


class App(faust.App):
    """A Faust app that carries the transport's options, with the parts of Faust switched off that are not used."""

    logger = FAUST_LOGGER

    def _create_directories(self) -> None:
        """None: nothing is kept on disk."""

    def on_init_dependencies(self) -> Iterable[ServiceT]:
        """With a sensor that does nothing in place of Faust's monitor, which keeps figures of every event that nobody reads."""
        dependencies = super().on_init_dependencies()
        self.sensors.remove(self.monitor)
        self.sensors.add(faust.Sensor())
        return dependencies

    def __init__(self, id: str, brokers: str, options: TransportOptions) -> None:
        self.penstock = options
        super().__init__(
            id,
            broker=[URL(f"penstock://{address.strip()}") for address in brokers.split(",")],
            store="memory://",
            topic_disable_leader=True,
            topic_allow_declare=False,
            web_enabled=False,
            autodiscover=False,
            broker_commit_interval=options.commit_interval,
            broker_session_timeout=options.session_timeout,
            # Longer than our own patience, which `perform_seek` has four times: when this one ends, Faust's recovery service ends
            # without a word.
            broker_request_timeout=max(options.broker_timeout, options.session_timeout) * 5,
            stream_wait_empty=True,
            stream_buffer_maxsize=options.max_in_flight_batches + 1,
            processing_guarantee="at_least_once",
            TableManager=NoTables,
        )
