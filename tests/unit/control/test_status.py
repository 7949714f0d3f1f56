"""What workers tell: read as it was written, by those who believe little."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.control.status import Boundary, Cause, DeadLetters, Place, Progress, Status, WorkerStatus, encode, json_schema, key_of, parse
from penstock.errors import ControlError

PUBLISHED = Path(__file__).parents[3] / "schemas/status.schema.json"
TIME = "2027-01-15T08:00:00.000Z"
PLAIN = WorkerStatus(
    worker="host-1/17", topology="flights", host="host-1", pid=17, started=TIME, time=TIME, generation=2, wanted=3, ready=True
)
FULL = WorkerStatus(
    worker="w", topology="flights", host="host-1", pid=17, started=TIME, time=TIME, generation=0, wanted=0, ready=False,
    models={"trees": "flight-trees@2"}, partitions={"flights/0": Place(position=2**62, lag=0), "flights/1": Place(position=0)},
    releases=[Progress(id="1", state="failed", detail="größer")], refused={"unsigned": 3}, problems=["look"], unsigned=True, reads=2,
    dead_letters=DeadLetters(seconds=59.9, records=100, causes=[Cause(step="trees", reason="InferenceError", total=7, recent=2)]),
)  # fmt: skip
BOUNDARY = Boundary(topic="flights", partition=3, offset=17, generation=2, worker="w", time=TIME)


@pytest.mark.parametrize("said", [PLAIN, FULL, BOUNDARY])
def test_status_reads_as_it_was_written(said: Status) -> None:
    assert parse(encode(said)) == said
    jsonschema.Draft202012Validator(json_schema()).validate(json.loads(encode(said)))


def test_published_schema_is_in_step() -> None:
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    assert published == json_schema(), "penstock schema status > schemas/status.schema.json"
    jsonschema.Draft202012Validator.check_schema(published)


def test_each_worker_and_each_boundary_has_its_key() -> None:
    assert key_of(PLAIN) == b"worker/host-1/17"
    assert key_of(BOUNDARY) == b"boundary/flights/3/17"


def test_text_steers_no_terminal() -> None:
    """A stranger may write here, and a worker may quote what strangers sent."""
    said = json.loads(encode(FULL))
    said["problems"] = ["\x1b[2Jall is\nwell\x9b"]
    said["models"] = {"tr\x07ees": "\u202ex"}
    found = parse(json.dumps(said).encode())
    assert isinstance(found, WorkerStatus)
    assert found.problems == [" [2Jall is well "]
    assert found.models == {"tr ees": " x"}


@pytest.mark.parametrize(
    "changed",
    [
        {"offset": -1}, {"offset": 2**63}, {"offset": "17"}, {"partition": None}, {"generation": 0.5}, {"kind": "bound"}, {"topic": 1},
        {"version": 0}, {"version": "2"},
    ],
)  # fmt: skip
def test_what_is_no_status_is_refused(changed: dict[str, Any]) -> None:
    said = {**json.loads(encode(BOUNDARY)), **changed}
    with pytest.raises(ControlError, match="not a status record") as caught:
        parse(json.dumps(said).encode())
    assert caught.value.code == "malformed"
    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(said)


def test_worker_that_does_not_name_what_it_reads_reads_version_1() -> None:
    """Workers before version 2 of the control messages did not know the question."""
    found = parse(encode(PLAIN))
    assert b"reads" not in encode(PLAIN)
    assert isinstance(found, WorkerStatus)
    assert found.reads == 1


def test_worker_that_does_not_count_its_dead_letters_is_older() -> None:
    found = parse(encode(PLAIN))
    assert b"dead_letters" not in encode(PLAIN)
    assert isinstance(found, WorkerStatus)
    assert found.dead_letters is None


@pytest.mark.parametrize("reads", [0, -1, "2", 2**31 + 1, 1.5])
def test_worker_that_reads_no_version_is_refused(reads: Any) -> None:
    with pytest.raises(ControlError, match="not a status record"):
        parse(json.dumps({**json.loads(encode(FULL)), "reads": reads}).encode())


def test_status_of_a_later_version_is_not_guessed_at() -> None:
    assert parse(json.dumps({**json.loads(encode(BOUNDARY)), "mood": 1}).encode()) == BOUNDARY
    with pytest.raises(ControlError, match="upgrade") as caught:
        parse(json.dumps({**json.loads(encode(BOUNDARY)), "version": 2}).encode())
    assert caught.value.code == "newer"


@pytest.mark.parametrize("data", [b"", b"null", b"[" * 100_000, b'{"a":' * 100_000, b"\xff"])
def test_junk_is_refused(data: bytes) -> None:
    with pytest.raises(ControlError):
        parse(data)


@given(st.binary(max_size=100))
def test_parser_raises_nothing_but_control_errors(data: bytes) -> None:
    with pytest.raises(ControlError):
        parse(data)
