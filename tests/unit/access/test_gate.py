"""From what a request shows to its caller; the file as it changes; and what strangers cannot fill."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from penstock.access import Gate
from penstock.access.file import ApiKey, with_key, with_revocation
from penstock.access.keys import digest, new_key
from penstock.access.meter import Limits
from penstock.access.rules import Rules
from penstock.errors import ConfigError, Forbidden, RateLimited, Unauthenticated
from tests.clock import Clock
from tests.unit.access.identity import NOW

SHOP = Rules("shop", frozenset({"score"}), frozenset({"flights"}), limits=Limits(requests=2))
KEY, OTHER = new_key(), new_key()


def stored(key: Any, **more: Any) -> ApiKey:
    return ApiKey(**{"id": key.id, "sha256": digest(key.text), "made": NOW, **more})


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An access file with one caller and one key."""
    path = tmp_path / "access.toml"
    write(path, with_key("", SHOP, "shop", stored(KEY, expires=NOW + 100), file="f"))
    return path


def write(path: Path, text: str) -> None:
    """Replaces the file, as `penstock access` does."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


def refused(gate: Gate, authorization: str | None, certificate: bytes | None = None) -> str:
    with pytest.raises(Unauthenticated) as found:
        gate.admit(authorization, certificate)
    return found.value.code


def test_key_admits_its_caller(path: Path, clock: Clock) -> None:
    caller = Gate.open(path, clock).admit(f"Bearer {KEY.text}", None)
    assert (caller.name, caller.subject, caller.proof) == ("shop", "", f"key {KEY.id}")
    caller.check("score", topology="flights")
    with pytest.raises(Forbidden):
        caller.check("score", topology="trains")
    assert caller.allows("score", topology="flights", model="trees", version="1")


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "no-credential"),
        ("", "bad-header"),
        ("Bearer", "unknown-key"),
        ("Bearer ", "unknown-key"),
        (KEY.text, "bad-header"),
        (f"Basic {KEY.text}", "bad-header"),
        (f"Bearer {KEY.text} x", "unknown-key"),
        (f"Bearer {KEY.text}, Bearer {KEY.text}", "bad-header"),  # two headers, as some servers join them
        (f"Bearer {KEY.text[:-1]}", "unknown-key"),
        (f"Bearer {KEY.text}A", "unknown-key"),
        (f"Bearer {KEY.text.upper()}", "unknown-key"),
        (f"Bearer penstock_{KEY.id}_{OTHER.text[-43:]}", "unknown-key"),
        (f"Bearer {OTHER.text}", "unknown-key"),
        (f"Bearer {KEY.text}\n", "unknown-key"),
        (f"Bearer\t{KEY.text}", "bad-header"),
        (f"Bearer {KEY.text}\x00", "unknown-key"),
        (f"Bearer ünïcödé {KEY.text}", "bad-header"),
        ("Bearer \ud800", "bad-header"),
        ("Bearer " + "x" * 1_000_000, "bad-header"),
        ("Bearer " + KEY.text * 20_000, "bad-header"),
        ("Bearer a.b.c", "unknown-key"),
    ],
)  # fmt: skip
def test_other_headers_do_not(path: Path, clock: Clock, header: str | None, code: str) -> None:
    assert refused(Gate.open(path, clock), header) == code


def test_scheme_is_read_without_regard_to_case(path: Path, clock: Clock) -> None:
    assert Gate.open(path, clock).admit(f"bEARER  {KEY.text} ", None).name == "shop"


def test_key_ends_at_its_time(path: Path, clock: Clock) -> None:
    gate = Gate.open(path, clock)
    clock.now = NOW + 99.9
    gate.admit(f"Bearer {KEY.text}", None)
    clock.now = NOW + 100
    assert refused(gate, f"Bearer {KEY.text}") == "expired"
    assert refused(gate, f"Bearer penstock_{KEY.id}_{OTHER.text[-43:]}") == "unknown-key", "only who has the key learns that it expired"


def test_keys_of_a_caller_share_what_it_may_send(path: Path, clock: Clock) -> None:
    """A second key is a replacement, not a second allowance."""
    write(path, with_key(path.read_text(), None, "shop", stored(OTHER), file="f"))
    gate = Gate.open(path, clock)
    first, second = (gate.admit(f"Bearer {key.text}", None) for key in (KEY, OTHER))
    first.spend(1)
    second.spend(1)
    for one in (first, second):
        with pytest.raises(RateLimited):
            one.spend(1)
    clock.now += 0.5
    second.spend(1)


def test_without_a_file_everyone_is_anonymous(clock: Clock) -> None:
    caller = Gate.open(None, clock).admit("Bearer whatever", None)
    assert (caller.name, caller.proof) == ("anonymous", "")
    caller.check("score", topology="flights")
    with pytest.raises(Forbidden):
        caller.check("deploy", topology="flights")


# --- the file changes -------------------------------------------------------------------------------------------------


def test_revoked_key_is_refused_within_a_second(path: Path, clock: Clock) -> None:
    gate = Gate.open(path, clock)
    write(path, with_revocation(path.read_text(), [KEY.id], NOW, file="f"))
    clock.now += 1
    assert refused(gate, f"Bearer {KEY.text}") == "revoked"


def test_new_key_is_admitted_within_a_second(path: Path, clock: Clock) -> None:
    gate = Gate.open(path, clock)
    assert refused(gate, f"Bearer {OTHER.text}") == "unknown-key"
    write(path, with_key(path.read_text(), None, "shop", stored(OTHER), file="f"))
    assert refused(gate, f"Bearer {OTHER.text}") == "unknown-key", "the file is looked at once per second, however many requests come"
    clock.now += 1
    assert gate.admit(f"Bearer {OTHER.text}", None).name == "shop"


def test_change_gives_nobody_a_new_allowance(path: Path, clock: Clock) -> None:
    gate = Gate.open(path, clock)
    for _ in range(2):
        gate.admit(f"Bearer {KEY.text}", None).spend(1)
    write(path, path.read_text() + "# changed\n")
    clock.now += 1
    caller = gate.admit(f"Bearer {KEY.text}", None)
    caller.spend(1)
    caller.spend(1)  # a second has filled two
    with pytest.raises(RateLimited):
        caller.spend(1)


def test_bad_new_file_leaves_the_old_one_and_is_reported(path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    gate, good = Gate.open(path, clock), path.read_text()
    write(path, "[callers.shop")
    clock.now += 1
    assert gate.admit(f"Bearer {KEY.text}", None).name == "shop"
    assert "not TOML" in gate.problem
    clock.now += 1
    gate.admit(f"Bearer {KEY.text}", None)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["the access file stays as it was"], "once per change"
    path.unlink()
    clock.now += 1
    gate.admit(f"Bearer {KEY.text}", None)
    assert "does not exist" in gate.problem
    write(path, with_revocation(good, [KEY.id], NOW, file="f"))
    clock.now += 1
    assert refused(gate, f"Bearer {KEY.text}") == "revoked"
    assert gate.problem == ""


def test_bad_file_at_the_start_is_an_error(path: Path, clock: Clock) -> None:
    write(path, "[callers.shop")
    with pytest.raises(ConfigError, match="not TOML"):
        Gate.open(path, clock)


# --- strangers --------------------------------------------------------------------------------------------------------


def test_strangers_fill_neither_memory_nor_log(path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Ten thousand wrong keys in a hundred seconds: counted by reason, a log record in ten seconds, nothing kept."""
    caplog.set_level(logging.INFO, "penstock.access")
    gate = Gate.open(path, clock)
    for number in range(10_000):
        clock.now += 0.01
        refused(gate, f"Bearer penstock_{'abcdefghijkl'}_{number:043d}")
    assert gate.refusals == {"unknown-key": 10_000}
    assert len(caplog.records) <= 11
    assert "unknown-key" in caplog.records[-1].getMessage()
    assert "0000" not in caplog.text, "what was tried is in no log"
    assert len(gate._checked) == 0
