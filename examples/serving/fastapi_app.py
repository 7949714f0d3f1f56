"""Flights scored by a FastAPI application: pip install fastapi uvicorn; uvicorn --app-dir examples/serving fastapi_app:app

One event gets its answer, or 422 with the reason. A list gets a list, with {"failure": reason} in the place of an event that failed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException

import penstock


@asynccontextmanager
async def opened(app: FastAPI) -> AsyncIterator[None]:
    with penstock.open("flights") as app.state.plan:  # verified and warm before the first request
        yield


app = FastAPI(lifespan=opened)


@app.post("/score")
def score(event: dict[str, Any]) -> dict[str, Any]:  # not `async`: FastAPI runs it in a thread, and the event loop stays free
    try:
        answer: dict[str, Any] = app.state.plan.score(event)
    except penstock.RecordError as error:
        raise HTTPException(422, str(error)) from error
    return answer


@app.post("/score-many")
def score_many(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    answers = app.state.plan.score(events)
    return [{"failure": str(one.error)} if isinstance(one, penstock.Failure) else one for one in answers]
