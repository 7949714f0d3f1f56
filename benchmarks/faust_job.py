"""The same job on plain Faust, as in its documentation: `async for`, one event at a time, each sent separately.

Faster options are used where they exist: raw serializers with msgspec for the JSON (Faust's own would use the standard
library), no web server, no leader topic, 5 ms of linger.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import faust
import msgspec

from benchmarks.workload import Scorer


def make_app(arguments: argparse.Namespace) -> Any:
    """The Faust app of the job."""
    app = faust.App(
        arguments.group, broker=f"kafka://{arguments.bootstrap}", store="memory://", datadir=arguments.state, topic_disable_leader=True,
        web_enabled=False, consumer_auto_offset_reset="earliest", broker_max_poll_records=4096, stream_buffer_maxsize=16384,
        producer_linger=0.005, producer_max_batch_size=131072,
    )  # fmt: skip
    source = app.topic(arguments.input, key_serializer="raw", value_serializer="raw")
    sink = app.topic(arguments.output, key_serializer="raw", value_serializer="raw")
    scorer = Scorer(Path(arguments.models))

    async def score(stream: Any) -> None:
        async for event in stream.events():
            flight = msgspec.json.decode(event.value)
            lr, gb = (probability.item() for probability in scorer.run(scorer.feeds([flight])))
            output = {"event_id": flight["event_id"], "score": (lr + gb) / 2, "lr": lr, "gb": gb}
            await sink.send(key=event.key, value=msgspec.json.encode(output))

    app.agent(source)(score)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("bootstrap", "input", "output", "models", "group", "state"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()
    sys.argv = ["faust", "worker", "--loglevel", "warn", "--without-web"]
    make_app(arguments).main()


if __name__ == "__main__":
    main()
