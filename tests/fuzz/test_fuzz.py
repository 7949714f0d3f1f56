"""The corpus is read as it should be, and the fuzzers see what they are there for: a raise, a loop, a bomb, a byte too far."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.fuzz import driver, engine
from tests.fuzz.engine import Target, corpus, explore, limited, mutated, shrunk
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_known_input_is_taken_as_it_should(target: Target) -> None:
    """What once failed does not fail again; here without sanitizers, so it is part of every run of the tests."""
    assert [limited(target, data) for data in corpus(target)]


def test_the_corpus_has_targets_and_is_small() -> None:
    files = [path for path in engine.CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files} <= {target.name for target in TARGETS}
    assert sum(path.stat().st_size for path in files) < 500_000


def test_the_same_seed_gives_the_same_inputs() -> None:
    inputs: list[list[bytes]] = []
    for seed in ("a", "a", "b"):
        random, data = Random(seed), b'{"a": 12, "b": [1, 2, 3]}'
        inputs.append([mutated(data, random, [data], [b"word"]) for _ in range(200)])
    assert inputs[0] == inputs[1] != inputs[2]
    assert len(set(inputs[0])) > 150


def brittle(data: bytes) -> str:
    """A decoder that forgot an exception of its own."""
    return {b"a": "first", b"": "none"}[data[:1]] if data[:1] in b"a\0" else "other"


def test_a_raise_is_found_and_made_short(tmp_path: Path) -> None:
    target = Target("brittle", brittle, lambda: [b"a long input that does not fail"], [b"\0"])
    ran = explore(target, seconds=60, seed="1", folder=tmp_path)
    assert isinstance(ran.problem, KeyError)
    assert ran.failing is not None
    assert shrunk(target, ran.failing, ran.problem) == b"\0"


def test_an_input_with_a_new_outcome_is_kept_and_mutated(tmp_path: Path) -> None:
    """Three words in a row are not found by chance alone; each one that is there makes the next more likely."""

    def maze(data: bytes) -> str:
        depth = next(n for n in range(5) if n == 4 or not data.startswith(b"<|>#"[: n + 1]))
        assert depth < 4
        return "abcd"[depth]

    ran = explore(Target("maze", maze, lambda: [b"...."], [b"<", b"|", b">", b"#"]), seconds=60, seed="1", folder=tmp_path)
    assert isinstance(ran.problem, AssertionError)
    assert len(ran.fresh) >= 3


def test_too_much_memory_is_a_finding() -> None:
    """In a process of its own: this one may have needed as much before."""
    code = """
from tests.fuzz import engine
engine.limited(engine.Target("bomb", lambda data: str(len(bytearray(b"x") * (400 << 20))), list), b"")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert re.search(r"AssertionError: an input of 0 bytes took \d+ MiB of memory", done.stderr), done.stderr


def test_too_much_time_ends_the_process() -> None:
    code = """
from tests.fuzz import engine
engine.CPU_SECONDS = 0.2
def loop(data):
    while True: pass
engine.limited(engine.Target("loop", loop, list), b"")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode == -27, done.stderr  # SIGPROF


def test_missing_sanitizers_are_said_and_fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(driver, "COMPILER", "no-such-compiler")
    assert driver.main([]) == 2
    assert "make fuzz needs no-such-compiler" in capsys.readouterr().err


@pytest.mark.skipif(driver.missing() != "", reason=driver.missing() or "the sanitizers are here")
def test_bytes_too_far_in_the_native_part_are_found(tmp_path: Path) -> None:
    """A fault is planted in a copy: keys and values may be longer than what is left."""
    text = driver.SOURCE.read_text(encoding="utf-8")
    right, wrong = "if (r->bad || size > r->end - r->p) {", "if (r->bad || size > r->end - r->p + 64) {"
    assert text.count(right) == 1
    (tmp_path / "_native.c").write_text(text.replace(right, wrong), encoding="utf-8")
    native = driver.build(tmp_path, tmp_path / "_native.c")
    (outcome,) = driver.search(native, ["records"], seconds=200, seed="1", folder=tmp_path / "corpus")
    assert outcome.failing is not None
    assert "AddressSanitizer: heap-buffer-overflow" in outcome.report
    again = tmp_path / "records" / "found"
    again.parent.mkdir()
    again.write_bytes(outcome.failing)
    (repeated,) = driver.search(native, ["records"], seconds=0, seed="1", files=[again])
    assert repeated.failing == outcome.failing, "the input alone repeats it"
