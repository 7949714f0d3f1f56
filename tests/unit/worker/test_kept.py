"""The file of what a program keeps of the control log: it is used whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.errors import ControlError, SettingsError
from penstock.transports.kafka.journal import Entry
from penstock.worker.kept import Keeper, Kept

KEPT = Kept(
    cluster="c", topic="app.flights.control", id="abc", position=9,
    entries=(Entry(3, 1_700_000_000_000, True, b"key", b"\x00\xff{}"), Entry(8, 1, False, None, b"x")),
)  # fmt: skip


@pytest.fixture
def keeper(tmp_path: Path) -> Keeper:
    return Keeper(tmp_path, "localhost:9092", "app.flights.control")


def test_nothing_is_kept_at_first(keeper: Keeper) -> None:
    assert keeper.load() is None


def test_what_was_saved_last_is_loaded(keeper: Keeper) -> None:
    keeper.save(Kept(cluster="other", topic="app.flights.control", position=0, entries=()))
    keeper.save(KEPT)
    assert keeper.load() == KEPT


def test_other_brokers_and_topics_have_other_files(keeper: Keeper, tmp_path: Path) -> None:
    keeper.save(KEPT)
    for brokers, topic in (("far:9092", "app.flights.control"), ("localhost:9092", "app.trains.control")):
        assert Keeper(tmp_path, brokers, topic).load() is None


@pytest.mark.parametrize("damage", [b"", b"x", b"\n", b"sha256:00\n{}"])
def test_a_file_with_another_content_is_refused(keeper: Keeper, damage: bytes) -> None:
    keeper.save(KEPT)
    keeper.file.write_bytes(damage)
    with pytest.raises(ControlError, match="checksum"):
        keeper.load()


def test_every_changed_byte_is_noticed(keeper: Keeper) -> None:
    keeper.save(KEPT)
    whole = keeper.file.read_bytes()
    for at in range(len(whole)):
        keeper.file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ControlError):
            keeper.load()


def test_what_is_no_file_is_refused(keeper: Keeper) -> None:
    keeper.file.mkdir()
    with pytest.raises(ControlError, match="a folder"):
        keeper.load()


def test_a_folder_that_others_may_write_to_is_refused(keeper: Keeper, tmp_path: Path) -> None:
    keeper.file.parent.chmod(0o777)
    with pytest.raises(SettingsError, match="other users may write"):
        Keeper(tmp_path, "localhost:9092", "app.flights.control")


def test_its_age_is_that_of_the_last_confirmation(keeper: Keeper) -> None:
    keeper.save(KEPT)
    os.utime(keeper.file, (1, 1))
    assert keeper.age() > 1e9
    keeper.confirm()
    assert keeper.age() < 60
