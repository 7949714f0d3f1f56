"""The Kafka source without a broker: what it reports of itself."""

from __future__ import annotations

import asyncio

from penstock.settings import Settings
from penstock.telemetry import Metrics
from penstock.transports.kafka.source import KafkaSource


def test_paused_source_stands_still_with_a_reason() -> None:
    """Else the watchdog would end a worker that was paused for longer than `stall_timeout`."""

    async def main() -> list[bool]:
        source = KafkaSource(Settings(), "group", metrics=Metrics())
        rooms = [source.standing(room=True).room]
        source.pause()
        rooms.append(source.standing(room=True).room)
        source.resume()
        return [*rooms, source.standing(room=True).room]

    assert asyncio.run(main()) == [True, False, True]
