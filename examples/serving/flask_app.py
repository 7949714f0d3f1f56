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
    try:
        return plan.score(request.get_json()), 200
    except penstock.RecordError as error:
        return {"detail": str(error)}, 422


@app.post("/score-many")
def score_many() -> list[dict[str, Any]]:
    answers = plan.score([*request.get_json()])
    return [{"failure": str(one.error)} if isinstance(one, penstock.Failure) else one for one in answers]
