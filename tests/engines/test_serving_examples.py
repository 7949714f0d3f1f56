"""The applications of examples/serving, started as their first lines say, and called over HTTP."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pytest

import penstock
from penstock.testing import wait_for

ROOT: Final = Path(__file__).parents[2]
BIN: Final = Path(sys.executable).parent
with gzip.open(ROOT / "examples/flights/sample/departures.ndjson.gz", "rt") as lines:
    FLIGHTS: Final = [json.loads(line) for line in islice(lines, 20)]
BAD: Final = {**FLIGHTS[0], "origin": "BOS"}
REASON: Final = "Invalid enum value 'BOS' - at `$.origin`"
COMMANDS: Final = {
    "fastapi": [sys.executable, "-m", "uvicorn", "--app-dir", "examples/serving", "fastapi_app:app", "--port"],
    "flask": [sys.executable, "-m", "flask", "--app", "examples/serving/flask_app", "run", "--port"],
    "bentoml": [sys.executable, "-m", "bentoml", "serve", "--working-dir", "examples/serving", "bentoml_app:Flights", "--port"],
}


@contextlib.contextmanager
def running(name: str, folder: Path) -> Iterator[str]:
    """Starts the application, and yields its URL once it answers. It has to end when it is asked to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"BENTOML_HOME": str(folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "True", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*COMMANDS[name], str(port)], cwd=ROOT, env=os.environ | quiet, stdout=log, stderr=log, start_new_session=True
        )

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    try:
        wait_for(answers, f"{name} on port {port}", 90, 0.1)
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own group: what it started ends, too
        process.wait()


def post(url: str, body: Any) -> tuple[int, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.fixture(scope="module")
def expected() -> list[dict[str, Any]]:
    with penstock.open(ROOT / "topologies/flights.yaml", models=ROOT / "models", schemas=ROOT / "schemas") as plan:
        return [one for one in plan.score(FLIGHTS) if isinstance(one, dict)]


def same(answers: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(answers) == len(expected)
    for answer, right in zip(answers, expected, strict=True):
        assert answer == {name: value if isinstance(value, str) else pytest.approx(value, rel=0, abs=1e-6) for name, value in right.items()}


@pytest.mark.parametrize("name", ["fastapi", "flask"])
def test_application_answers_events(name: str, tmp_path: Path, expected: list[dict[str, Any]]) -> None:
    with running(name, tmp_path) as url:
        status, answer = post(f"{url}/score", FLIGHTS[0])
        assert status == 200
        same([answer], expected[:1])
        assert post(f"{url}/score", BAD) == (422, {"detail": REASON})
        _, answers = post(f"{url}/score-many", [*FLIGHTS, BAD])
        same(answers[:-1], expected)
        assert answers[-1] == {"failure": REASON}
        for path, body in (("score", 5), ("score", [1]), ("score", {}), ("score-many", 5), ("score-many", {}), ("score-many", [1])):
            assert post(f"{url}/{path}", body)[0] == 422, (path, body)


def test_service_of_bentoml_answers_events(tmp_path: Path, expected: list[dict[str, Any]]) -> None:
    with running("bentoml", tmp_path) as url:
        status, answers = post(f"{url}/score", {"events": [*FLIGHTS, BAD]})
        assert status == 200
        same(answers[:-1], expected)
        assert answers[-1] == {"failure": REASON}
