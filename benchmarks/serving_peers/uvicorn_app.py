"""The floors of an HTTP service in Python: uvicorn, as `penstock serve` has it, and an application that is as small as can be.

`/nothing` reads a request and answers the same to each. `/score` runs the models by hand, without checking anything.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import uvicorn

from benchmarks.serving_peers.scoring import score

ANSWER = bytes(200)  # about as long as a prediction
KIND = (b"content-type", b"application/json")


async def app(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    body = message["body"]
    while message["more_body"]:
        message = await receive()
        body += message["body"]
    answer = msgspec.json.encode(score([msgspec.json.decode(body)])[0]) if scope["path"] == "/score" else ANSWER
    await send({"type": "http.response.start", "status": 200, "headers": [KIND, (b"content-length", b"%d" % len(answer))]})
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False, lifespan="off", loop="uvloop")
