"""`penstock serve` on a real Kafka: a service answers while releases swap its models, and a deploy waits for it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from penstock.testing import Broker, wait_for
from tests.kafka.operating import CONFIG, must_be_signed, penstock, push, status
from tests.kafka.running import Job, make_job
from tests.serving.conftest import ask

pytestmark = pytest.mark.broker

PORT = re.compile(r"serving \S+ on http://\S*:(\d+)")


@pytest.fixture
def job(broker: Broker, tmp_path: Path) -> Job:
    made = make_job(broker, tmp_path)
    must_be_signed(made)
    return made


@contextmanager
def serving(job: Job, *flags: str) -> Iterator[tuple[int, subprocess.Popen[bytes], Path]]:
    log = job.folder / "serve.log"
    command = [
        sys.executable,
        "-m",
        "penstock",
        "--config",
        str(job.folder / CONFIG),
        "serve",
        str(job.file),
        "--http",
        "127.0.0.1:0",
        *flags,
    ]
    with log.open("wb") as written:
        process = subprocess.Popen(command, cwd=job.folder, stdout=written, stderr=written)
    try:
        wait_for(lambda: "ready: doubles" in log.read_text() or process.poll() is not None, log.read_text, 60.0, 0.1)
        assert process.poll() is None, log.read_text()
        found = PORT.search(log.read_text())
        assert found is not None
        yield int(found[1]), process, log
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def test_a_swap_loses_no_request_and_names_its_generation(job: Job) -> None:
    """Each answer is of the generation that its headers name; deploy returns when the service has it."""
    event = json.dumps({"id": "a", "x": 2.0})
    with serving(job) as (port, process, log):
        wait_for(lambda: json.loads(ask(port, "GET", "/readyz").content)["ready"], lambda: ask(port, "GET", "/readyz").text, 60.0, 0.2)
        seen: list[tuple[int, float]] = []
        over = threading.Event()
        wrong: list[str] = []

        def call() -> None:
            while not over.is_set():
                answer = ask(port, "POST", "/v1/topologies/doubles:score", event)
                if answer.status_code != 200:
                    wrong.append(answer.text)
                    return
                seen.append((int(answer.headers["penstock-generation"]), answer.json()["y"]))

        callers = [threading.Thread(target=call) for _ in range(3)]
        for caller in callers:
            caller.start()
        try:
            done = penstock(job, "deploy", "doubles", f"double={push(job, 3.0)}", "--format", "json")
            assert done.code == 0, done.err
            after = ask(port, "POST", "/v1/topologies/doubles:score", event)
            assert (after.headers["penstock-generation"], after.json()["y"]) == ("1", 6.0)
        finally:
            over.set()
            for caller in callers:
                caller.join()
        assert wrong == []
        assert {*seen} == {(0, 4.0), (1, 6.0)}
        model = ask(port, "GET", "/v2/models/doubles").json()
        assert model["versions"] == ["1"]
        assert {one.get("role") for one in status(job)["workers"]} == {"service"}
        process.terminate()
        assert process.wait(60) == 0, log.read_text()
        assert status(job)["workers"] == []
