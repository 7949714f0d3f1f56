"""Workers and operators of two versions on one real Kafka: the code before version 2 of the control messages beside today's.

The old code comes out of this repository's history, and runs in processes of its own with the same interpreter.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from penstock.control.log import Log
from penstock.control.messages import encode
from penstock.control.messages import parse as parse_message
from penstock.errors import ControlError
from penstock.operate.operator import operate
from penstock.settings import load
from penstock.topology.parse import parse
from tests.kafka.operating import (
    CONFIG,
    Flow,
    penstock,
    push,
    state_of,
    status,
    told_by,
    wait_until,
    wait_until_ready,
    wait_until_stands,
)  # fmt: skip
from tests.kafka.running import Job, Running
from tests.unit.cli.done import Done
from tests.unit.control.making import release

pytestmark = pytest.mark.broker

ROOT = Path(__file__).parents[3]
OLD = "782d42f58aad034f5d6e2821bfce9a867e02d5c3"  # the last commit that reads and writes version 1 only


@pytest.fixture(scope="module")
def old_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the package as it was."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), "archive", OLD, "app"], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("the old version comes out of the repository's history, and there is no git here")
    if done.returncode:
        pytest.skip(f"commit {OLD[:7]} is not at hand (no repository, or a shallow clone): {done.stderr.decode(errors='replace').strip()}")
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    # Faust finds the transport by an entry point; that of the installed package names a module which the old one has elsewhere.
    metadata = folder / "app" / "penstock-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: penstock\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text("[faust.transports]\npenstock = penstock.transports.kafka.transport:Transport\n")
    return folder / "app"


@contextmanager
def old_worker(job: Job, code: Path) -> Iterator[Running]:
    with Running(job, code=code) as running:
        yield running


def by_old(job: Job, code: Path, *arguments: str) -> Done:
    """What a command of the old Penstock came to."""
    line = [sys.executable, "-m", "penstock", "--config", str(job.folder / CONFIG), *arguments]
    done = subprocess.run(
        line, cwd=job.folder, env={**os.environ, "PYTHONPATH": str(code)}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def log_of(job: Job) -> Log:
    return operate(load({}, file=job.folder / CONFIG), parse(job.file), lambda it: it.state())


def test_old_code_takes_a_release_with_a_strategy_for_one_without(old_code: Path, tmp_path: Path) -> None:
    """The reason for a new version. And it is the old code that runs: else everything below would hold of one version beside itself."""
    smuggled = json.dumps({**json.loads(encode(release(version=1))), "strategy": {"kind": "canary", "share": 0.01}})
    line = "import sys, penstock, penstock.control.messages as it; print(penstock.__file__, it.parse(sys.stdin.buffer.read()).id)"
    env = {**os.environ, "PYTHONPATH": str(old_code)}
    done = subprocess.run([sys.executable, "-c", line], cwd=tmp_path, env=env, input=smuggled, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(old_code / "penstock" / "__init__.py"), release().id]
    with pytest.raises(ControlError, match="version 1 has no strategy"):
        parse_message(smuggled.encode())


def test_fleet_is_upgraded_under_load_and_nothing_is_released_half(job: Job, old_code: Path) -> None:
    """First the workers, then the operators; each step as an operator sees it."""
    three, four = push(job, 3.0), push(job, 4.0)
    with old_worker(job, old_code) as old, job.run() as new, Flow(job) as flow:
        wait_until_ready(job, old, new)
        name = told_by(job, old)["worker"]

        done = by_old(job, old_code, "deploy", "doubles", f"double={three}")
        assert done.code == 0, done.err
        assert log_of(job).version == 1
        for worker in (old, new):
            wait_until(job, worker, "what the old operator released", lambda told: told["generation"] == told["wanted"] == 1)
        assert by_old(job, old_code, "status", "doubles").code == 0, "an old operator reads what a new worker reports"
        done = by_old(job, old_code, "deploy", "doubles", f"double={four}", "--no-wait")
        assert done.code == 0, done.err

        position, (pending,) = log_of(job).position, log_of(job).pending
        for command in (
            ["deploy", "doubles", f"double={four}"],
            ["deploy", "doubles", f"double={four}", "--min-ready", "1"],
            ["deploy", "doubles", f"double={four}", "--no-wait"],
            ["deploy", "doubles", "--resume", pending.id, "--min-ready", "0"],
            ["rollback", "doubles"],
            ["rollback", "doubles", "--to", "0", "--min-ready", "1"],
            ["abort", "doubles", pending.id],
        ):
            done = penstock(job, *command)
            assert done.code == 8, (command, done)
            assert "1 of 2 live workers run an older Penstock. Nothing was written;" in done.err
            assert f"\n  {name}: it reads control messages up to version 1; this Penstock writes version 2" in done.err
        done = penstock(job, "status", "doubles")
        assert done.code == 1
        assert f"! {name} runs an older Penstock: it reads control messages up to version 1" in " ".join(done.out.split())
        assert {one["pid"]: one["reads"] for one in status(job)["workers"]} == {old.process.pid: 1, new.process.pid: 2}
        assert (log_of(job).position, log_of(job).generation) == (position, 1)
        flow.wait_for_more()

        assert old.stop() == 0, old.log
        done = penstock(job, "deploy", "doubles", "--resume", pending.id)
        assert done.code == 0, done.err
        assert penstock(job, "rollback", "doubles").code == 0
        assert penstock(job, "status", "doubles").code == 0
        log = log_of(job)
        assert (log.version, [one.release.version for one in log.generations]) == (2, [1, 1, 2])
        assert told_by(job, new)["generation"] == 3
        flow.wait_for_more()
    scored = flow.scored(twice=True)
    assert {(1, 3.0), (3, 3.0)} <= scored <= {(0, 2.0), (1, 3.0), (2, 4.0), (3, 3.0)}


def test_old_worker_that_starts_late_is_named_with_what_it_refused(job: Job, old_code: Path) -> None:
    """Between `release` and `activate`, and once version 2 stands in the log."""
    three, four = push(job, 3.0), push(job, 4.0)
    with job.run() as new:
        wait_until_ready(job, new)
        done = penstock(job, "deploy", "doubles", f"double={three}", "--no-wait", "--format", "json")
        id = done.json["release"]["id"]
        wait_until_stands(job, new, id, "ready")
        with old_worker(job, old_code) as old:
            told = wait_until(job, old, "the release refused", lambda told: told.get("refused") == {"newer": 1})
            assert state_of(told, id) == ("", "")
            for flags in ([], ["--min-ready", "1"]):
                done = penstock(job, "deploy", "doubles", "--resume", id, *flags)
                assert done.code == 8
                assert f"{told['worker']}: it reads control messages up to version 1 and has refused 1 of a newer version;" in done.err
            assert log_of(job).generation == 0
        assert penstock(job, "deploy", "doubles", "--resume", id, "--min-ready", "1").code == 8, (
            "killed, it may come back: it is live still"
        )
        wait_until(job, new, "the old one lost", lambda _: not all(one["live"] for one in status(job)["workers"]))
        assert penstock(job, "deploy", "doubles", "--resume", id).code == 0

        done = by_old(job, old_code, "deploy", "doubles", f"double={four}", "--min-ready", "1")
        assert done.code == 8, "an old operator is ahead of nothing"
        assert "upgrade it" in done.err
        log = log_of(job)
        assert (log.generation, log.position, dict(log.refused)) == (1, 2, {})
