"""Mutation of known inputs, and the bounds that every input has to keep: what a target refuses without saying so is a finding.

The inputs are drawn from a seed, so the same seed gives the same inputs. An input whose outcome is new (a message of an error, a kind
of result) joins the inputs that are mutated: this takes the place of coverage, which the C compiler cannot report to Python.

Three bounds per input hold everywhere: `CPU_SECONDS`, `MEMORY_BYTES`, and no exception. An input that uses too much processor time
ends the process by SIGPROF, one that breaks memory by SIGABRT; `driver` finds the input in the file that was written before it ran.
"""

from __future__ import annotations

import hashlib
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from tests.memory import begin_peak, peak

__all__ = ["CORPUS", "CPU_SECONDS", "MEMORY_BYTES", "Ran", "Target", "corpus", "explore", "limited", "mutated", "name_of", "shrunk"]

CORPUS: Final = Path(__file__).parent / "corpus"
CPU_SECONDS: Final = 10.0  # of the whole process per input; under the sanitizers an input takes at most some 50 ms
MEMORY_BYTES: Final = 256 << 20  # that the process may grow by per input
_POOL: Final = 2_000  # inputs that are mutated; more are not kept
_SHRINK_SECONDS: Final = 10.0

# Numbers at the edges of types and lengths.
_EDGES: Final = [sign * (1 << bits) + step for bits in (0, 3, 7, 8, 15, 16, 31, 32, 53, 63, 64) for step in (-1, 0, 1) for sign in (1, -1)]
_NUMBER: Final = re.compile(rb"-?\d+(?:\.\d+)?")
_VARIABLE: Final = re.compile(r"0x[0-9a-f]+|'[^']*'|\"[^\"]*\"|\d+")


class Target(NamedTuple):
    """A part that reads what others write: `check` runs it on one input, and returns the outcome in a few words.

    `check` catches the exceptions that the part declares, and raises for everything else, and for each law that does not hold.
    `seeds` are inputs to begin with, `words` what is put into them, `most` the bytes that an input has at most.
    """

    name: str
    check: Callable[[bytes], str]
    seeds: Callable[[], Sequence[bytes]]
    words: Sequence[bytes] = ()
    most: int = 4096


class Ran(NamedTuple):
    """What a search did: inputs, outcomes that differ, those of them with an input that no file had, and the finding with its input."""

    inputs: int
    outcomes: int
    fresh: list[bytes]
    failing: bytes | None = None
    problem: BaseException | None = None


def corpus(target: Target, folder: Path = CORPUS) -> list[bytes]:
    """Returns the target's seeds and files."""
    return [*target.seeds(), *(path.read_bytes() for path in sorted((folder / target.name).glob("*")))]


def name_of(data: bytes) -> str:
    """Returns the name of the input's file."""
    return hashlib.sha256(data).hexdigest()[:16]


def limited(target: Target, data: bytes) -> str:
    """Runs one input within the bounds; returns its outcome. Raises what the target raises, and AssertionError for memory."""
    before = begin_peak()  # else this input could take what an earlier one has taken
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # SIGPROF ends the process, also inside C
    try:
        outcome = target.check(data)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    grown = peak() - before
    assert grown < MEMORY_BYTES, f"an input of {len(data)} bytes took {grown >> 20} MiB of memory"
    return outcome


def explore(target: Target, *, seconds: float, seed: str, note: Callable[[bytes], None] = lambda _: None, folder: Path = CORPUS) -> Ran:
    """Runs the corpus, then mutations of it, until the time is over or an input fails. `note` is called with each input before it runs."""
    random = Random(f"{seed} {target.name}")
    pool: list[bytes] = []
    seen: set[str] = set()
    fresh: list[bytes] = []
    end, inputs = time.monotonic() + seconds, 0
    for data, known in _inputs(target, pool, random, folder):
        if not known and time.monotonic() > end:
            break
        note(data)
        inputs += 1
        try:
            outcome = _VARIABLE.sub("#", limited(target, data))[:200]
        except Exception as problem:  # noqa: BLE001  whatever it is, it is what was looked for
            return Ran(inputs, len(seen), fresh, data, problem)
        if known or (outcome not in seen and len(pool) < _POOL):
            pool.append(data)
        if not known and outcome not in seen:
            fresh.append(data)
        seen.add(outcome)
    return Ran(inputs, len(seen), fresh)


def _inputs(target: Target, pool: list[bytes], random: Random, folder: Path) -> Iterator[tuple[bytes, bool]]:
    """Yields inputs without end, and whether each was known before."""
    for data in corpus(target, folder):
        yield data, True
    while True:
        yield mutated(random.choice(pool), random, pool, target.words)[: target.most], False


def shrunk(target: Target, data: bytes, problem: BaseException) -> bytes:
    """Returns a shorter input with the same kind of problem: pieces are taken out while it stays."""
    end = time.monotonic() + _SHRINK_SECONDS
    size = len(data) // 2
    while size and time.monotonic() < end:
        at = 0
        while at < len(data) and time.monotonic() < end:
            shorter = data[:at] + data[at + size :]
            try:
                limited(target, shorter)
                at += size
            except Exception as found:  # noqa: BLE001  it is compared
                if type(found) is type(problem):
                    data = shorter
                else:
                    at += size
        size //= 2
    return data


# -- mutation ------------------------------------------------------------------------------------------------------------


def mutated(data: bytes, random: Random, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Returns the input after one to six changes."""
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        data = random.choice(_CHANGES)(data, random, others, words)
    return data


def _flip(data: bytes, random: Random, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    if not data:
        return random.randbytes(4)
    changed = bytearray(data)
    changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _byte(data: bytes, random: Random, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + bytes([random.choice((0, 1, 2, 0x7F, 0x80, 0xFE, 0xFF, random.randrange(256)))]) + data[at + 1 :]


def _step(data: bytes, random: Random, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """A byte, which may be a length, becomes a little larger or smaller."""
    if not data:
        return b"\1"
    changed = bytearray(data)
    at = random.randrange(len(data))
    changed[at] = (changed[at] + random.choice((-4, -2, -1, 1, 2, 4))) % 256
    return bytes(changed)


def _cut(data: bytes, random: Random, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    at, size = random.randrange(len(data) + 1), random.choice((1, 1, 2, 4, 8, 64))
    return data[:at] + data[at + size :]


def _end(data: bytes, random: Random, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _repeat(data: bytes, random: Random, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    at, size = random.randrange(len(data) + 1), random.choice((1, 4, 16, 64))
    return data[: at + size] + data[at : at + size] * random.choice((1, 1, 2, 30)) + data[at + size :]


def _word(data: bytes, random: Random, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    at, gone = random.randrange(len(data) + 1), random.choice((0, 0, 1, 4))
    return data[:at] + (random.choice(words) if words else random.randbytes(3)) + data[at + gone :]


def _splice(data: bytes, random: Random, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    other = random.choice(others)
    start, at = random.randrange(len(other) + 1), random.randrange(len(data) + 1)
    piece = other[start : start + random.choice((4, 16, 64, 256, len(other)))]
    return data[:at] + piece + data[at + random.choice((0, len(piece))) :]


def _binary(data: bytes, random: Random, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """A number of 1, 2, 4 or 8 bytes, or a varint, is overwritten."""
    number, at, size = random.choice(_EDGES), random.randrange(len(data) + 1), random.choice((1, 2, 4, 8))
    if random.random() < 0.5:
        return data[:at] + (number & (1 << 8 * size) - 1).to_bytes(size, random.choice(("big", "little"))) + data[at + size :]
    left, out = number & (1 << 64) - 1, bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    return data[:at] + bytes([*out, left]) + data[at + 1 :]


def _decimal(data: bytes, random: Random, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """A number that is written in digits is replaced."""
    found = [*_NUMBER.finditer(data)]
    if not found:
        return _byte(data, random, others, words)
    number = random.choice(found)
    text = random.choice((b"%d" % random.choice(_EDGES), b"1e400", b"-0.0", b"1e-5", b"00", b"9" * 30, b"nan", b"inf"))
    return data[: number.start()] + text + data[number.end() :]


_CHANGES: Final = (_flip, _byte, _step, _step, _cut, _end, _repeat, _word, _word, _splice, _binary, _decimal)
