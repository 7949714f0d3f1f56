"""Flask: one run of the models per request, in the threads of gunicorn."""

from __future__ import annotations

import orjson
from flask import Flask, Response, request

from benchmarks.serving_peers.scoring import score

app = Flask(__name__)


@app.post("/score")
def one() -> Response:
    return Response(orjson.dumps(score([orjson.loads(request.data)])[0]), mimetype="application/json")
