"""Flights scored by a Flask application: pip install flask; flask --app examples/serving/flask_app run

One event gets its answer, or 422 with the reason. A list gets a list, with {"failure": reason} in the place of an event that failed.
"""

from __future__ import annotations

from typing import Any

from flask import Flask, request

import penstock

app = Flask(__name__)
plan = penstock.open("flights")  # once per process: threads share it


@app.post("/score")
def score() -> tuple[dict[str, Any], int]:
    event = request.get_json()
    if not isinstance(event, dict):
        return {"detail": "the body is an event, an object"}, 422
    try:
        return plan.score(event), 200
    except penstock.RecordError as error:
        return {"detail": str(error)}, 422


@app.post("/score-many")
def score_many() -> tuple[dict[str, Any] | list[dict[str, Any]], int]:
    events = request.get_json()
    if not isinstance(events, list) or not all(isinstance(one, dict) for one in events):
        return {"detail": "the body is a list of events, which are objects"}, 422
    answers = plan.score(events)
    return [{"failure": str(one.error)} if isinstance(one, penstock.Failure) else one for one in answers], 200
