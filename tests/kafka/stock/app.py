"""A worker on stock Faust as its documentation shows it, started with its options as one JSON object.

An event is `{"id": 7, "fate": "ok", "text": ""}` and its answer `{"id": 7, "text": ""}`. The fate says what the model does with
the event: `ok` scores it at once, `slow` takes `slow_s` seconds, `poison` raises, and the answer to `cross` goes to the other partition.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import faust

OPTIONS: dict[str, Any] = {
    "concurrency": 1,
    "guarantee": "at_least_once",
    "reads_its_output": False,
    "slow_s": 0.0,
    "drains": True,
    "max_poll_interval": 1000.0,
    "commit_interval": 2.8,  # Faust's default
    **json.loads(sys.argv.pop(1)),
}

app = faust.App(
    OPTIONS["group"],
    broker=f"kafka://{OPTIONS['brokers']}",
    store="memory://",
    datadir=OPTIONS["folder"],
    broker_client_id=OPTIONS["name"],
    processing_guarantee=OPTIONS["guarantee"],
    consumer_auto_offset_reset="earliest",
    broker_session_timeout=3.0,
    broker_heartbeat_interval=0.5,
    broker_commit_interval=OPTIONS["commit_interval"],
    broker_max_poll_interval=OPTIONS["max_poll_interval"],
    stream_wait_empty=OPTIONS["drains"],
    topic_disable_leader=True,
    web_enabled=False,
)
source = app.topic(OPTIONS["source"], value_type=bytes, value_serializer="raw", key_serializer="raw")
sink = app.topic(OPTIONS["sink"], value_type=bytes, value_serializer="raw", key_serializer="raw")


@app.agent(source, concurrency=OPTIONS["concurrency"])
async def score(stream: Any) -> None:
    """The agent of Faust's quick start: take an event, compute, send."""
    async for event in stream.events():
        values = json.loads(event.value)
        partition = event.message.partition
        answer = {"id": values["id"], "text": values["text"]}
        match values["fate"]:
            case "slow":
                print("slow event under work", flush=True)
                await asyncio.sleep(OPTIONS["slow_s"])
            case "poison":
                raise ValueError("the model does not like this event")
            case "cross":
                partition = 1 - partition
        await sink.send(key=event.key, value=json.dumps(answer).encode(), partition=partition)


if OPTIONS["reads_its_output"]:

    @app.agent(sink)
    async def read(stream: Any) -> None:
        """Faust sends inside a transaction only what goes to a topic that the app itself consumes."""
        async for _ in stream:
            pass


if __name__ == "__main__":
    sys.argv[1:] = ["worker", "--loglevel", "warn", "--without-web"]
    app.main()
