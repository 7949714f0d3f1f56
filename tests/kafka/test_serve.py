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
from typing import Any

import pytest

from penstock.access.keys import digest, new_key
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models as onnx_models
from penstock.testing import wait_for
from tests.kafka.operating import CONFIG, configure, penstock, push, status
from tests.kafka.running import Job
from tests.serving.conftest import Answer, ask, served

pytestmark = pytest.mark.broker

PORT = re.compile(r"serving \S+ on http://\S*:(\d+)")


@contextmanager
def serving(job: Job, *flags: str) -> Iterator[tuple[int, subprocess.Popen[bytes], Path]]:
    log = job.folder / "serve.log"
    config = str(job.folder / CONFIG)
    command = [sys.executable, "-m", "penstock", "--config", config, "serve", str(job.file), "--http", "127.0.0.1:0", *flags]
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


def ready(port: int) -> None:
    wait_for(lambda: json.loads(ask(port, "GET", "/readyz").content)["ready"], lambda: ask(port, "GET", "/readyz").text, 60.0, 0.2)


def test_a_swap_loses_no_request_and_names_its_generation(job: Job) -> None:
    """Each answer is of the generation that its headers name; deploy returns when the service has it."""
    event = json.dumps({"id": "a", "x": 2.0})
    with serving(job) as (port, process, log):
        ready(port)
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


ACCESS = """
[callers.desk]
may = ["deploy", "rollback", "read", "score"]
topologies = ["doubles"]
[callers.desk.keys.{id}]
sha256 = "{digest}"
made = 2026-01-01T00:00:00Z
"""


def test_a_caller_deploys_through_the_service(job: Job) -> None:
    """The release is signed with the service's key and names the caller; its state is read by its id."""
    key, access = new_key(), job.folder / "access.toml"
    access.write_text(ACCESS.format(id=key.id, digest=digest(key.text)))
    access.chmod(0o600)
    with serving(job, "--access", str(access)) as (port, _, log):
        ready(port)

        def call(method: str, path: str, body: Any = None) -> Answer:
            return ask(port, method, path, json.dumps(body) if body is not None else b"", {"authorization": f"Bearer {key.text}"})

        def until_active(place: str) -> Any:
            wait_for(
                lambda: call("GET", place).json()["standing"] == "active", lambda: call("GET", place).text + log.read_text(), 60.0, 0.2
            )
            return call("GET", place).json()

        begun = call("POST", "/v1/releases", {"deploy": {"double": push(job, 3.0)}, "reason": "better"})
        assert begun.status_code == 202, begun.text
        found = until_active(begun.headers["location"])
        assert (found["generation"], found["requested_by"], found["reason"]) == (1, "desk", "better")
        assert [one["state"] for one in found["workers"]] == ["live"]
        assert call("GET", "/v1/releases").json()["releases"][0]["id"] == found["id"]
        back = call("POST", "/v1/releases", {"rollback": None})
        assert back.status_code == 202, back.text
        until_active(back.headers["location"])
        answer = call("POST", "/v1/topologies/doubles:score", {"id": "a", "x": 2.0})
        assert (answer.headers["penstock-generation"], answer.json()["y"]) == ("2", 4.0)
        for body, status in (
            ({"deploy": {"nothing": "double@1"}}, (400, "config-error")),
            ({"deploy": {"double": "double@99"}}, (409, "model-not-found")),
            ({}, (400, "malformed")),
            ({"deploy": {}, "rollback": 1}, (400, "malformed")),
            ({"rollback": 99}, (409, "illegal")),
        ):
            refused = call("POST", "/v1/releases", body)
            assert (refused.status_code, refused.json()["code"]) == status, (body, refused.text)
        assert call("GET", "/v1/releases/unknown").status_code == 409
        assert ask(port, "POST", "/v1/releases", "{}").status_code == 401


def test_a_caller_deploys_what_it_may_and_leaves_a_trace(job: Job) -> None:
    """One version of one node; and nothing that cannot be written to the audit log first."""
    allowed, other = push(job, 3.0), push(job, 4.0)
    key, access, audit = new_key(), job.folder / "access.toml", job.folder / "audit" / "audit.jsonl"
    models = f'models = ["doubles.double@{allowed.partition("@")[2]}"]\n[callers.desk.keys'
    access.write_text(ACCESS.format(id=key.id, digest=digest(key.text)).replace("[callers.desk.keys", models))
    audit.parent.mkdir()
    version = allowed.partition("@")[2]
    DirectoryRegistry(job.folder / "models").publish("strange", onnx_models.linear([5.0]), version=version)
    with serving(job, "--access", str(access), "--audit", str(audit)) as (port, _, _):
        ready(port)

        def call(method: str, body: Any = None) -> Answer:
            content = json.dumps(body) if body is not None else b""
            return ask(port, method, "/v1/releases", content, {"authorization": f"Bearer {key.text}"})

        wanted: list[Any] = [
            {"deploy": {"double": other}}, {"deploy": {"double": "double@champion"}}, {"deploy": {"double": f"strange@{version}"}},
            {"deploy": {}}, {"rollback": None},
        ]  # fmt: skip
        for body in wanted:
            assert call("POST", body).status_code == 403, body
        audit.parent.rename(job.folder / "full")
        assert call("POST", {"deploy": {"double": allowed}}).status_code == 503
        assert call("GET").json()["releases"] == []
        (job.folder / "full").rename(audit.parent)
        assert call("POST", {"deploy": {"double": allowed}}).status_code == 202
        made = call("GET").json()["releases"]
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [line["outcome"] for line in lines if line["call"] == "deploy"][-2:] == ["begun", "ok"]
    last = [line for line in lines if line["call"] == "deploy"][-1]
    assert (last["caller"], last["request"]) == ("desk", made[0]["id"])
    refused = [(line["call"], line["outcome"]) for line in lines if line["outcome"] == "forbidden"]
    assert refused == [("deploy", "forbidden")] * 4 + [("rollback", "forbidden")], "each is noted once, by the right that it needs"


def test_a_service_without_a_key_shows_releases_and_makes_none(job: Job) -> None:
    """Whoever may read sees the releases that others make."""
    configure(job, trust=str(job.folder / "trust.toml"))
    key, access = new_key(), job.folder / "access.toml"
    access.write_text(ACCESS.format(id=key.id, digest=digest(key.text)))
    access.chmod(0o600)
    with serving(job, "--access", str(access)) as (port, _, _):
        ready(port)
        alice = str(job.folder / "alice.pem")
        done = penstock(job, "deploy", "doubles", f"double={push(job, 3.0)}", "--signing-key", alice, "--format", "json")
        assert done.code == 0, done.err

        def call(method: str, body: str = "") -> Answer:
            return ask(port, method, "/v1/releases", body, {"authorization": f"Bearer {key.text}"})

        assert [one["bindings"] for one in call("GET").json()["releases"]] == [{"double": "double@2"}]
        refused = call("POST", '{"rollback": null}')
        assert (refused.status_code, refused.json()["code"], "--signing-key" in refused.text) == (400, "no-key", True)


def test_a_fault_of_the_service_is_not_its_callers(job: Job) -> None:
    """A trust file that is gone, or lacks the key, is 503: no caller can mend it, and none is shown a place on this host."""
    key, access = new_key(), job.folder / "access.toml"
    access.write_text(ACCESS.format(id=key.id, digest=digest(key.text)))
    access.chmod(0o600)
    with serving(job, "--access", str(access)) as (port, _, log):
        ready(port)
        body = json.dumps({"deploy": {"double": push(job, 3.0)}})
        for gone in (False, True):
            (job.folder / "trust.toml").unlink() if gone else (job.folder / "trust.toml").write_text("")
            refused = ask(port, "POST", "/v1/releases", body, {"authorization": f"Bearer {key.text}"})
            assert (refused.status_code, refused.json()["code"]) == (503, "unusable")
            assert str(job.folder) not in refused.text
        assert "trust.toml" in log.read_text()


def test_a_service_without_the_keys_is_told_what_it_can_be_given(job: Job) -> None:
    """`--from-file`, which it has."""
    with serving(job) as (port, _, _):
        ready(port)
        done = penstock(job, "deploy", "doubles", f"double={push(job, 3.0)}", "--format", "json")
        assert done.code == 0, done.err
    other = job.folder / "other.toml"
    other.write_text("")
    refused = penstock(job, "serve", str(job.file), "--http", "127.0.0.1:0", "--trust", str(other))
    assert (refused.code, "start with --from-file" in " ".join(refused.err.split())) == (2, True), refused.err
    with serving(job, "--trust", str(other), "--from-file") as (port, _, _):
        ready(port)
        assert ask(port, "POST", "/v1/topologies/doubles:score", '{"id": "a", "x": 2.0}').json()["y"] == 4.0


def test_without_brokers_there_are_no_releases_to_make() -> None:
    """The refusal says how there would be."""
    with served("topologies/flights.yaml", doors=("http",)) as alone:
        refused = alone.post("/v1/releases", "{}")
    assert (refused.status_code, "--brokers" in refused.json()["error"]) == (400, True)
