"""The audit log: its lines, its rotation, and what happens when it cannot be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.access import Audit
from penstock.access.audit import LINE
from penstock.control.rights import RELEASES
from penstock.errors import AuditLost, ConfigError
from tests.clock import Clock
from tests.unit.access.identity import NOW


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_line_says_who_did_what(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit.open(path, clock)
    audit.wrote(
        caller="shop", proof="key k3m7qa2tzx5b", call="score", outcome="ok", topology="flights", model="trees", version="2", generation=3,
        rows=0, request="a-1", address="127.0.0.1",
    )  # fmt: skip
    clock.now += 0.25
    audit.wrote(caller="admins", subject="alice", call="deploy", outcome="forbidden")
    assert lines(path) == [
        {
            "time": "2027-01-15T08:00:00.000Z", "caller": "shop", "proof": "key k3m7qa2tzx5b", "call": "score", "topology": "flights",
            "model": "trees", "version": "2", "outcome": "ok", "request": "a-1", "address": "127.0.0.1", "generation": 3, "rows": 0,
        },
        {"time": "2027-01-15T08:00:00.250Z", "caller": "admins", "subject": "alice", "call": "deploy", "outcome": "forbidden"},
    ]  # fmt: skip
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["x" * 1_000_000, "\x00" * 10_000, "😀" * 10_000, '"\\' * 10_000, "\x7f" * 10_000, "\ud800" * 10_000])
def test_texts_of_callers_are_bounded_and_harmless(tmp_path: Path, clock: Clock, text: str) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit.open(path, clock)
    audit.wrote(
        caller=text, subject=text, proof=text, call=text, outcome=text, topology=text, model=text, version=text, request=text, address=text,
        generation=2**63, rows=2**63,
    )  # fmt: skip
    data = path.read_bytes()
    assert len(data) <= LINE
    assert data.count(b"\n") == 1
    assert all(32 <= byte < 127 for byte in data[:-1])
    (line,) = lines(path)
    assert line["caller"].startswith(text[:5])


def test_short_texts_are_whole(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit.open(path, clock)
    for text in ("a\r\nb\x1b[2J", "ü" * 50, "x" * 300):
        audit.wrote(caller=text, call="score", outcome="ok")
    assert [line["caller"] for line in lines(path)] == ["a\r\nb\x1b[2J", "ü" * 50, "x" * 300]


def test_file_that_is_rotated_is_left(tmp_path: Path, clock: Clock) -> None:
    path, old = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    audit = Audit.open(path, clock)
    audit.wrote(caller="one", call="score", outcome="ok")
    path.rename(old)
    audit.wrote(caller="two", call="score", outcome="ok")
    clock.now += 1
    audit.wrote(caller="three", call="score", outcome="ok")
    path.unlink()
    audit.reopen()
    audit.wrote(caller="four", call="score", outcome="ok")
    assert [line["caller"] for line in lines(old)] == ["one", "two"]
    assert [line["caller"] for line in lines(path)] == ["four"]


def test_file_is_appended_to(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "audit.jsonl"
    for name in ("one", "two"):
        audit = Audit.open(path, clock)
        audit.wrote(caller=name, call="score", outcome="ok")
        audit.close()
    assert [line["caller"] for line in lines(path)] == ["one", "two"]


def test_file_that_cannot_be_written_is_an_error_at_the_start(tmp_path: Path, clock: Clock) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "missing" / "audit.jsonl", tmp_path / "pipe"):
        with pytest.raises(ConfigError, match="the audit log cannot be written"):
            Audit.open(path, clock)


def test_lost_lines_stop_releases_and_nothing_else(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing may change which models run without a trace; and predictions do not end with the disk."""
    path, moved = tmp_path / "audit" / "audit.jsonl", tmp_path / "moved"
    path.parent.mkdir()
    audit = Audit.open(path, clock)
    path.parent.rename(moved)
    for right in RELEASES:
        with pytest.raises(AuditLost, match=r"cannot be written .*, so this call is not made"):
            audit.wrote(caller="shop", call=right, outcome="begun")
    for _ in range(1000):
        audit.wrote(caller="shop", call="score", outcome="ok")
    audit.wrote(caller="shop", call="deploy", outcome="ok")  # of a release that was begun before: it is made
    assert audit.lost == 1004
    assert len(caplog.records) == 1
    moved.rename(path.parent)
    audit.wrote(caller="shop", call="deploy", outcome="begun")
    assert [line["call"] for line in lines(path)] == ["deploy"]


def test_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """The kernel takes a part of a line; when there is room again, the next line begins a new one. Here a process may write 1000 bytes."""
    path = tmp_path / "audit.jsonl"
    script = """
import resource, signal, sys
from pathlib import Path
from penstock.access import Audit
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
audit = Audit.open(Path(sys.argv[1]), lambda: 0.0)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
for number in range(20):
    audit.wrote(caller=f"caller-{number}", call="score", outcome="ok", request="x" * 50)
lost = audit.lost
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
audit.wrote(caller="last", call="deploy", outcome="begun")
print(lost)
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    written = path.read_text().splitlines()
    good = []
    for line in written:
        try:
            good.append(json.loads(line)["caller"])
        except ValueError:
            assert line == written[-2], "one line is torn, where the room ended"
    assert good[-1] == "last"
    assert len(good) - 1 + int(done.stdout) == 20
