"""FastAPI: a pydantic model in and out, on the event loop. `/score` runs the models per request, `/score-batch` per turn of the loop."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI

from benchmarks.serving_peers.schemas import Flight, Score
from benchmarks.serving_peers.scoring import score

app = FastAPI()
waiting: list[tuple[dict[str, Any], asyncio.Future[dict[str, Any]]]] = []


@app.post("/score")
async def one(flight: Flight) -> Score:
    return Score(**score([flight.__dict__])[0])


@app.post("/score-batch")
async def batched(flight: Flight) -> Score:
    loop = asyncio.get_running_loop()
    if not waiting:
        loop.call_soon(run)  # after all the requests that this turn of the loop has found
    answer: asyncio.Future[dict[str, Any]] = loop.create_future()
    waiting.append((flight.__dict__, answer))
    return Score(**await answer)


def run() -> None:
    for made, (_, answer) in zip(score([flight for flight, _ in waiting]), waiting, strict=True):
        if not answer.done():  # its caller may have gone
            answer.set_result(made)
    waiting.clear()


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
