"""Results files are read back as they were written, targets are judged by medians, pages get their block and keep the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.report import block, write
from benchmarks.results import Result, Sitting, Target
from penstock.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "one.jsonl"
    results.append(path, results.machine(broker="Kafka 4.1.1", flights="a sample"))
    for speed in (80_000, 100_000, 300_000):
        results.append(path, Result("throughput", "penstock", 900_000, {"ev_s": speed, "cpu_us_ev": 4.0}, "ok"))
    results.append(path, Result("throughput", "faust", 45_000, {"ev_s": 4_000}, "ok"))
    return path


def test_results_are_read_back_as_written(file: Path) -> None:
    sitting = results.load(file)
    assert sitting.figures("throughput", "penstock", "ev_s") == [80_000, 100_000, 300_000]
    assert sitting.results[-1] == Result("throughput", "faust", 45_000, {"ev_s": 4_000.0}, "ok")
    assert {"cpu", "cores", "kernel", "python", "versions", "date", "commit"} <= sitting.machine.keys()


def test_target_divides_medians(file: Path) -> None:
    point = "throughput", "penstock", "ev_s"
    target = Target("speed", point, 25, at_least=True, over=("throughput", "faust", "ev_s"))
    assert target.value(results.load(file)) == 25
    assert target.met(25)
    assert not target.met(24.9)
    assert Target("time", point, 25).met(24.9)


def test_target_of_what_was_not_measured_is_unknown(file: Path) -> None:
    assert Target("speed", ("paced", "penstock", "p50_ms"), 3).value(results.load(file)) is None


def test_a_damaged_line_is_named(file: Path) -> None:
    with file.open("a") as opened:
        opened.write('{"mode": "throughput"}\n')
    with pytest.raises(ConfigError, match=r"one\.jsonl:6 "):
        results.load(file)


def test_a_file_without_a_machine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ConfigError, match="machine"):
        results.load(tmp_path / "empty.jsonl")


def test_page_keeps_what_is_around_the_block(file: Path, tmp_path: Path) -> None:
    """The first time there is only the opening marker; after that the block is replaced."""
    page = tmp_path / "page.md"
    page.write_text("before\n\n<!-- benchmark -->\n\nafter\n")
    write(page, "old")
    write(page, block(results.load(file)))
    text = page.read_text()
    assert text.startswith("before\n\n<!-- benchmark -->\n### ")
    assert text.endswith("\n<!-- /benchmark -->\n\nafter\n")
    assert "old" not in text
    assert "| Penstock, 1 worker | 3 | 900,000 | 100,000 | 4.00 |" in text


def test_block_has_the_targets(file: Path) -> None:
    text = block(results.load(file))
    assert "### Targets" in text
    assert "| events/s, 1 worker over plain Faust | 25.00 | ≥ 40 | no |" in text


def test_page_without_a_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("nothing")
    with pytest.raises(ConfigError, match="benchmark"):
        write(tmp_path / "page.md", "block")


def test_empty_sitting_draws_nothing() -> None:
    assert Sitting({}, ()).median("throughput", "penstock", "ev_s") is None
