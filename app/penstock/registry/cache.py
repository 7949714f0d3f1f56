"""Models that were fetched, by what they are: `CACHE/models/sha256-…/{model.toml, model.onnx, golden.json, model.sig}`.

A folder is named by the digest of its model.toml, which names the digests of the other two: so one digest pins a version whole, and two
releases that bind the same version share it. Its rules:

1. A file is there whole, under its name, or as the beginning of it (`.model.onnx.part`), which is continued.
2. A file is believed by its digest only, whenever it is read; one that is wrong is thrown away and fetched again.
3. One process at a time writes a folder (a lock beside it). The workers of a host share all of it.
4. model.sig is not pinned, since one may sign again: it is asked for anew, and the last one serves when no root answers.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Final

from penstock.binding import Binding
from penstock.errors import ConfigError, FetchError, ModelCorrupt, ModelError, ModelNotFound, PenstockError, Stopped
from penstock.host import locked, private_folder, write_whole
from penstock.model.artifact import BUNDLE_FILE, BUNDLE_LIMIT, GOLDEN_FILE, MANIFEST_FILE, MODEL_FILE, Artifact, open_artifact
from penstock.registry.roots import ABSENT, AGAIN, Root, root_of

__all__ = ["Cache"]

_MANIFEST_LIMIT: Final = 1024**2
_GOLDEN_LIMIT: Final = 64 * 1024**2
_PIECE: Final = 1024**2
_TRIES: Final = 5  # in a row that bring nothing new
_PAUSE: Final = 0.2  # seconds after the first of them, then twice as long, and so on
_DAY: Final = 24 * 3600.0


class Cache:
    """The cache in the folder `cache`, filled from `roots` in their order (folders and https URLs).

    `max_bytes` is the size of the largest model that is fetched. Raises SettingsError when a root is none.
    """

    def __init__(self, cache: Path, roots: Sequence[str], max_bytes: int) -> None:
        self._roots = [root_of(text) for text in roots]
        self._max_bytes = max_bytes
        self._models = cache / "models"

    def fetch(self, binding: Binding, *, stopped: Callable[[], bool], signature: bool = False) -> Artifact:
        """The version that the binding names, in the cache, with the digests that it says; with `signature`, also what signs it.

        Raises ModelError that names every root and why it did not do, and Stopped when `stopped()` is true.
        """
        folder = private_folder(self._models) / binding.manifest.replace(":", "-")
        folder.mkdir(mode=0o700, exist_ok=True)
        reasons: list[tuple[Root, PenstockError]] = []
        with locked(folder.with_suffix(".lock"), stopped):
            folder.mkdir(mode=0o700, exist_ok=True)  # it may have been given back while we waited
            os.utime(folder)  # used now: see `prune`
            for root in self._roots:
                try:
                    artifact = self._complete(root, folder, binding, stopped)
                except (FetchError, ModelError) as error:
                    reasons.append((root, error))
                else:
                    if signature:
                        self._refresh_signature(folder, binding, stopped)
                    return artifact
        raise _nowhere(binding, reasons)

    def prune(self, keep: Collection[str], *, unused_days: float = 30.0, max_bytes: int | None = None) -> list[str]:
        """Gives back the versions that no release has used for so long, or, longest unused first, those beyond `max_bytes` in all.

        `keep` are digests of manifests that stay in any case; what was used within the last day stays too, since other
        workers of this host may be about to load it. `max_bytes` None stands for 20 of the largest models. Returns what went.
        """
        allowed = 20 * self._max_bytes if max_bytes is None else max_bytes
        now, total, gone = time.time(), 0, []
        kept = {digest.replace(":", "-") for digest in keep}
        found = [(*_use_of(one), one) for one in private_folder(self._models).iterdir() if one.suffix != ".lock"]
        for used, size, folder in sorted(found, reverse=True):
            age = now - used
            if folder.name not in kept and age > _DAY and (age > unused_days * _DAY or total + size > allowed):
                with contextlib.suppress(Stopped), locked(folder.with_suffix(".lock"), lambda: True):  # held: it is in use
                    shutil.rmtree(folder, ignore_errors=True)
                    gone.append(folder.name.replace("-", ":", 1))
            else:
                total += size
        return gone

    def _complete(self, root: Root, folder: Path, binding: Binding, stopped: Callable[[], bool]) -> Artifact:
        """The version with all that it pins, what is missing from `root`."""

        def take(file: str, digest: str, limit: int) -> None:
            _take(root, f"{binding.name}/{binding.version}/{file}", folder / file, digest, limit, stopped)

        take(MANIFEST_FILE, binding.manifest, _MANIFEST_LIMIT)
        try:
            artifact = open_artifact(folder, binding.name, binding.version)
        except ConfigError as error:
            raise ModelCorrupt(f"{MANIFEST_FILE}: {error}") from error
        if artifact.digest != binding.digest:
            raise ModelCorrupt(f"{MANIFEST_FILE} says that {MODEL_FILE} is {artifact.digest}, the release says {binding.digest}")
        if artifact.size > self._max_bytes:
            raise ModelCorrupt(f"{MODEL_FILE} has {artifact.size:,} bytes, the limit is {self._max_bytes:,} (setting model_bytes)")
        take(GOLDEN_FILE, artifact.manifest.golden.digest, _GOLDEN_LIMIT)
        take(MODEL_FILE, artifact.digest, artifact.size)
        return artifact

    def _refresh_signature(self, folder: Path, binding: Binding, stopped: Callable[[], bool]) -> None:
        """The first signature that a root has. Without one, the last one stays: whether there must be one is not asked here."""
        for root in self._roots:
            try:
                with root.open(f"{binding.name}/{binding.version}/{BUNDLE_FILE}", 0, stopped) as opened:
                    write_whole(folder / BUNDLE_FILE, _at_most(BUNDLE_LIMIT, opened.pieces))
            except FetchError:
                continue
            return


def _take(root: Root, path: str, file: Path, digest: str, limit: int, stopped: Callable[[], bool]) -> None:
    """The file with that digest: the one that is there already, or the root's."""
    if _digest(file, stopped) == digest:
        return
    part = file.with_name(f".{file.name}.part")
    fruitless = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _continue(root, path, part, before, limit, stopped)
        except FetchError as error:
            gained = part.exists() and part.stat().st_size > before
            fruitless = 0 if gained else fruitless + 1
            if error.code != AGAIN or fruitless >= _TRIES:
                raise
            _pause(_PAUSE * 2**fruitless, stopped)
            continue
        found = _digest(part, stopped)
        if found == digest:
            os.replace(part, file)
            return
        part.unlink()
        if not before:
            raise ModelCorrupt(f"{path} is {found}, not {digest}")
        # What was continued was perhaps begun elsewhere, or the disk lost some of it: once more, from the start.


def _continue(root: Root, path: str, part: Path, start: int, limit: int, stopped: Callable[[], bool]) -> None:
    with root.open(path, start, stopped) as opened, open(part, "ab") as file:
        file.truncate(opened.start)
        size = opened.start
        for piece in opened.pieces:
            size += len(piece)
            if size > limit:
                file.truncate(0)
                raise ModelCorrupt(f"{path} goes on after {limit:,} bytes, where it had to end")
            file.write(piece)


def _use_of(folder: Path) -> tuple[float, int]:
    """When it was used last, and its bytes; long ago and nothing when another worker gives it back at this moment."""
    try:
        return folder.stat().st_mtime, sum(file.stat().st_size for file in folder.iterdir())
    except FileNotFoundError:
        return 0.0, 0


def _digest(file: Path, stopped: Callable[[], bool]) -> str | None:
    """Of the file's content, None when there is no such file."""
    hashed = hashlib.sha256()
    try:
        with open(file, "rb", buffering=0) as opened:
            while piece := opened.read(_PIECE):
                if stopped():
                    raise Stopped
                hashed.update(piece)
    except FileNotFoundError:
        return None
    return f"sha256:{hashed.hexdigest()}"


def _at_most(limit: int, pieces: Iterator[bytes]) -> bytes:
    """Of longer ones one byte more, so that the reader sees that it is too long."""
    taken = b""
    for piece in pieces:
        taken += piece
        if len(taken) > limit:
            break
    return taken[: limit + 1]


def _pause(seconds: float, stopped: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if stopped():
            raise Stopped
        time.sleep(min(left, 0.1))


def _nowhere(binding: Binding, reasons: list[tuple[Root, PenstockError]]) -> ModelError:
    """All roots and their reasons; a version that is there but wrong weighs more than one that is not there."""
    told = "; ".join(f"{root}: {error}" for root, error in reasons)
    absent = all(isinstance(error, FetchError) and error.code == ABSENT for _, error in reasons)
    wrong = any(isinstance(error, ModelError) for _, error in reasons)
    kind = ModelCorrupt if wrong else ModelNotFound
    what = "is in no registry root" if absent else "could be fetched from no registry root"
    return kind(f"{binding} {what}: {told}", name=binding.name, version=binding.version)
