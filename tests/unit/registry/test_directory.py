"""A registry on disk stays whole: whoever publishes at once, is killed in between, or asks for paths."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from penstock.errors import ConfigError, ModelCorrupt, ModelExists, ModelNotFound, SettingsError
from penstock.host import private_folder
from penstock.model.verify import verify
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models

Make = Callable[[Path], None]


@pytest.fixture
def registry(tmp_path: Path) -> DirectoryRegistry:
    return DirectoryRegistry(tmp_path / "models")


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_version_is_three_files_that_nobody_may_write(registry: DirectoryRegistry) -> None:
    path = registry.publish("score", models.constant(1)).path
    assert path == registry.root / "score" / "1"
    assert entries(path) == ["golden.json", "model.onnx", "model.toml"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o444}
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_of_many_signatures_at_once_one_is_kept_whole(registry: DirectoryRegistry) -> None:
    """All others are told that it is signed, and nothing of theirs is left."""
    artifact = registry.publish("score", models.constant(1))
    bundles = [bytes([number]) * 100_000 for number in range(8)]

    def sign(bundle: bytes) -> bool:
        try:
            return registry.add_bundle(artifact, bundle) == artifact.path / "model.sig"
        except ModelExists:
            return False

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(sign, bundles))
    assert sum(won) == 1
    assert artifact.bundle() == bundles[won.index(True)]
    assert entries(artifact.path.parent) == ["1"]
    registry.add_bundle(artifact, b"another", replace=True)
    assert artifact.bundle() == b"another"


def test_a_refused_publish_leaves_nothing_behind(registry: DirectoryRegistry) -> None:
    registry.publish("score", models.constant(1))
    with pytest.raises(ModelExists, match=r"model score@1 exists, and versions never change; push it under the next version"):
        registry.publish("score", models.constant(2), version="1")
    assert entries(registry.root / "score") == ["1"]


def test_publishers_at_once_each_get_a_number_of_their_own(registry: DirectoryRegistry) -> None:
    barrier = threading.Barrier(8)

    def publish(value: int) -> tuple[str, int]:
        barrier.wait()
        return registry.publish("score", models.constant(value)).version, value

    with ThreadPoolExecutor(8) as pool:
        published = dict(pool.map(publish, range(8)))
    assert registry.versions("score") == [str(number) for number in range(1, 9)]
    assert entries(registry.root / "score") == sorted(registry.versions("score"))
    for version, value in published.items():
        artifact = registry.resolve("score", version)
        assert artifact.read() == models.constant(value)
        verify(artifact)


def test_of_publishers_of_one_version_exactly_one_wins(registry: DirectoryRegistry) -> None:
    barrier = threading.Barrier(8)

    def publish(value: int) -> int | None:
        barrier.wait()
        try:
            registry.publish("score", models.constant(value), version="7")
        except ModelExists:
            return None
        return value

    with ThreadPoolExecutor(8) as pool:
        (winner,) = [value for value in pool.map(publish, range(8)) if value is not None]
    assert registry.resolve("score", "7").read() == models.constant(winner)
    assert entries(registry.root / "score") == ["7"]


@pytest.mark.parametrize("file", ["model.onnx", "golden.json", "model.toml", "rename"])
def test_a_publisher_killed_at_any_point_leaves_no_half_version(registry: DirectoryRegistry, file: str) -> None:
    """The child kills itself with SIGKILL right after it wrote `file`, or right before the rename."""
    script = f"""
import os, signal, sys
from penstock.registry import directory
from penstock.testing import models

write, move = directory._write, directory._move

def die_after(path, data, **options):
    write(path, data, **options)
    if path.name == {file!r}:
        os.kill(os.getpid(), signal.SIGKILL)

def die_before(folder, place):
    os.kill(os.getpid(), signal.SIGKILL)

directory._write = die_after
directory._move = die_before
directory.DirectoryRegistry({str(registry.root)!r}).publish("score", models.constant(1))
"""
    died = subprocess.run([sys.executable, "-c", script], check=False)
    assert died.returncode == -signal.SIGKILL
    (leftover,) = (registry.root / "score").iterdir()
    assert (registry.names(), registry.versions("score")) == ([], [])
    with pytest.raises(ModelNotFound):
        registry.resolve("score", "1")

    assert registry.publish("score", models.constant(2)).version == "1"
    assert leftover.exists(), "it may belong to a publisher that is still at work"
    registry.alias("score", "live", "1")
    alias_left = registry.root / "score" / "aliases" / ".push-x"
    alias_left.write_text("1")
    an_hour_ago = time.time() - 3700
    for old in (leftover, alias_left):
        os.utime(old, (an_hour_ago, an_hour_ago))
    registry.publish("score", models.constant(3))
    assert entries(registry.root / "score") == ["1", "2", "aliases"]
    assert entries(registry.root / "score" / "aliases") == ["live"]


def test_an_alias_is_never_seen_half_written_while_it_moves(registry: DirectoryRegistry) -> None:
    for value in (1, 2):
        registry.publish("score", models.constant(value))
    registry.alias("score", "live", "1")
    moved = threading.Event()

    def move() -> None:
        for turn in range(100):
            registry.alias("score", "live", str(turn % 2 + 1))
        moved.set()

    seen = set()
    mover = threading.Thread(target=move)
    mover.start()
    while not moved.is_set():
        seen.add(registry.resolve("score", "live").version)
        assert set(registry.aliases("score")) == {"live"}
    mover.join()
    assert seen <= {"1", "2"}, "anything else would be half a name"
    assert entries(registry.root / "score" / "aliases") == ["live"]


def test_other_things_in_the_folder_are_no_models(registry: DirectoryRegistry) -> None:
    registry.publish("score", models.constant(1))
    (registry.root / "README.md").write_text("models live here")
    (registry.root / ".git").mkdir()
    (registry.root / "empty").mkdir()
    (registry.root / "score" / "notes").mkdir()
    (registry.root / "score" / "2").write_text("a file, no folder")
    assert registry.names() == ["score"]
    assert registry.versions("score") == ["1"]


def test_versions_sort_as_people_count(registry: DirectoryRegistry) -> None:
    for version in ("10", "9", "1.10", "1.9", "1.9-rc", "2024.1"):
        registry.publish("score", models.constant(1), version=version)
    assert registry.versions("score") == ["1.9", "1.9-rc", "1.10", "9", "10", "2024.1"]
    assert registry.publish("score", models.constant(1)).version == "11"


def test_an_alias_whose_version_was_removed_by_hand_says_so(registry: DirectoryRegistry) -> None:
    registry.publish("score", models.constant(1))
    registry.publish("score", models.constant(2))
    registry.alias("score", "live", "2")
    (registry.root / "score" / "2").rename(registry.root / "elsewhere")
    with pytest.raises(ModelNotFound, match=r"alias 'live' of score points at '2', which is not in .*; versions and aliases: 1, live"):
        registry.resolve("score", "live")


def test_a_name_that_is_nearly_right_is_suggested(registry: DirectoryRegistry) -> None:
    registry.publish("flight-lr", models.constant(1))
    with pytest.raises(ModelNotFound, match=r"there is no model 'flights-lr' in .*; did you mean 'flight-lr'\?; models: flight-lr"):
        registry.resolve("flights-lr", "1")


def test_an_empty_registry_says_how_to_fill_it(registry: DirectoryRegistry) -> None:
    with pytest.raises(ModelNotFound, match=r"push one with `penstock model push`"):
        registry.resolve("score", "1")


# --- what is in the place of a file, and is none -----------------------------------------------------------------------


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def link(path: Path) -> None:
    (path.parent / "other").write_text("1\n")
    path.symlink_to(path.parent / "other")


def loop(path: Path) -> None:
    path.symlink_to(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")


def no_version(path: Path) -> None:
    path.write_text("../../elsewhere\n")


KINDS = (pipe, folder, link, loop, device, bound_socket, no_text, no_version)


@pytest.mark.parametrize("make", KINDS)
def test_alias_that_is_no_file_is_one_error_that_names_it_and_what_to_do(registry: DirectoryRegistry, make: Make) -> None:
    """It never waits, and what is asked for by its version is found."""
    registry.publish("score", models.constant(1))
    registry.alias("score", "champion", "1")
    place = registry.root / "score" / "aliases" / "production"
    make(place)
    for ask in (lambda: registry.resolve("score", "production"), lambda: registry.aliases("score")):
        with pytest.raises(ModelCorrupt, match=rf"the alias {place} cannot be read: .*penstock model alias score production VERSION"):
            ask()
    assert registry.resolve("score", "1").version == "1"
    if make is folder:
        with pytest.raises(ConfigError, match="remove what is there"):
            registry.alias("score", "production", "1")
        place.rmdir()
    registry.alias("score", "production", "1")
    assert registry.resolve("score", "production").version == "1"


@pytest.mark.parametrize("file", ["model.onnx", "model.toml", "golden.json", "model.sig"])
@pytest.mark.parametrize("make", [pipe, folder, loop, device, bound_socket])
def test_model_file_that_is_no_file_is_one_error_that_names_it(registry: DirectoryRegistry, file: str, make: Make) -> None:
    path = registry.publish("score", models.constant(1)).path / file
    path.unlink(missing_ok=True)
    make(path)

    def use() -> None:
        artifact = registry.resolve("score", "1")
        artifact.bundle()
        artifact.read()
        artifact.golden_records()

    with pytest.raises(ModelCorrupt, match=rf"{path} (cannot be read|is a link out of the registry)"):
        use()


def test_version_folder_that_is_a_link_out_of_the_registry_is_one_error(registry: DirectoryRegistry, tmp_path: Path) -> None:
    made = registry.publish("score", models.constant(1)).path.rename(tmp_path / "elsewhere")
    (registry.root / "score" / "1").symlink_to(made)
    with pytest.raises(ModelCorrupt, match=r"score/1 is a link out of the registry, to .*elsewhere: copy what is there"):
        registry.resolve("score", "1")
    assert registry.publish("score", models.constant(2)).version == "2", "its number is taken"
    (registry.root / "score" / "3").symlink_to("2")
    with pytest.raises(ModelCorrupt, match=r"it is in the folder of score@3: do not rename or copy"):
        registry.resolve("score", "3")


def test_registry_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    """By the rights of its user in practice; here by what even root cannot list."""
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("file", "loop"):
        one = DirectoryRegistry(tmp_path / name)
        for ask in (one.names, lambda one=one: one.resolve("score", "1")):
            with pytest.raises(ConfigError, match=rf"{name}: cannot be listed: .*setting `models`"):
                ask()
        with pytest.raises(ConfigError, match=r"cannot be (listed|written)"):
            one.publish("score", models.constant(1))
    assert DirectoryRegistry(tmp_path / "absent").names() == []


def test_private_folder_below_one_that_others_may_replace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(SettingsError, match="other users may replace"):
        private_folder(tmp_path / "open" / "cache")
    (tmp_path / "open").chmod(0o1777)
    assert private_folder(tmp_path / "open" / "cache").is_dir()
    if not os.geteuid():
        os.chown(tmp_path / "open", 12345, -1)
        with pytest.raises(SettingsError, match="other users may replace"):
            private_folder(tmp_path / "open" / "cache")
