"""The cache of fetched models, by digest: `CACHE/models/sha256-…/{model.toml, model.onnx, golden.json, model.sig}`.

A folder is named by the digest of its model.toml, which contains the digests of the other two. So one digest pins a whole version, and
two releases that bind the same version share it. Its rules:

1. A file exists whole, under its name, or in part (`.model.onnx.part`); a later fetch continues the part.
2. The digest of a file is checked at every read; a wrong file is deleted and fetched again.
3. One process at a time writes a folder (a lock beside it). The workers of a host share the cache.
4. model.sig is not pinned, since a version may be signed again: it is fetched anew, and the last one is used when no root answers.
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
_TRIES: Final = 5  # in a row without new bytes
_PAUSE: Final = 0.2  # seconds after the first of them; doubled after each
_DAY: Final = 24 * 3600.0


class Cache:
    """The cache in the folder `cache`, filled from `roots` in their order (folders and https URLs).

    `max_bytes` is the size of the largest model that is fetched. Raises SettingsError for a malformed root.
    """

    def __init__(self, cache: Path, roots: Sequence[str], max_bytes: int) -> None:
        self._roots = [root_of(text) for text in roots]
        self._max_bytes = max_bytes
        self._models = cache / "models"

    def fetch(self, binding: Binding, *, stopped: Callable[[], bool], signature: bool = False) -> Artifact:
        """Returns the version of the binding, in the cache, with the binding's digests; with `signature`, fetches its signature too.

        Raises ModelError, which names every root and its error, and Stopped when `stopped()` is true.
        """
        folder = private_folder(self._models) / binding.manifest.replace(":", "-")
        folder.mkdir(mode=0o700, exist_ok=True)
        reasons: list[tuple[Root, PenstockError]] = []
        with locked(folder.with_suffix(".lock"), stopped):
            folder.mkdir(mode=0o700, exist_ok=True)  # another worker may have removed it during the wait
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
        """Removes the versions unused for `unused_days`, and, longest unused first, those beyond `max_bytes` in total.

        `keep` are digests of manifests that always stay. Versions used within the last day stay too, since other workers of
        this host may be about to load them. `max_bytes` None means 20 times the size limit of a model. Returns the removed digests.
        """
        allowed = 20 * self._max_bytes if max_bytes is None else max_bytes
        now, total, gone = time.time(), 0, []
        kept = {digest.replace(":", "-") for digest in keep}
        found = [(*_use_of(one), one) for one in private_folder(self._models).iterdir() if one.suffix != ".lock"]
        for used, size, folder in sorted(found, reverse=True):
            age = now - used
            if folder.name not in kept and age > _DAY and (age > unused_days * _DAY or total + size > allowed):
                with contextlib.suppress(Stopped), locked(folder.with_suffix(".lock"), lambda: True):  # locked: it is in use
                    shutil.rmtree(folder, ignore_errors=True)
                    gone.append(folder.name.replace("-", ":", 1))
            else:
                total += size
        return gone

    def _complete(self, root: Root, folder: Path, binding: Binding, stopped: Callable[[], bool]) -> Artifact:
        """Returns the version with all its pinned files; fetches missing ones from `root`."""

        def take(file: str, digest: str, limit: int) -> None:
            _take(root, f"{binding.name}/{binding.version}/{file}", folder / file, digest, limit, stopped)

        take(MANIFEST_FILE, binding.manifest, _MANIFEST_LIMIT)
        try:
            artifact = open_artifact(folder, binding.name, binding.version)
        except ConfigError as error:
            raise ModelCorrupt(f"{MANIFEST_FILE}: {error}") from error
        if artifact.digest != binding.digest:
            raise ModelCorrupt(f"{MANIFEST_FILE} gives {MODEL_FILE} the digest {artifact.digest}, the release {binding.digest}")
        if artifact.size > self._max_bytes:
            raise ModelCorrupt(f"{MODEL_FILE} has {artifact.size:,} bytes, the limit is {self._max_bytes:,} (setting model_bytes)")
        take(GOLDEN_FILE, artifact.manifest.golden.digest, _GOLDEN_LIMIT)
        take(MODEL_FILE, artifact.digest, artifact.size)
        return artifact

    def _refresh_signature(self, folder: Path, binding: Binding, stopped: Callable[[], bool]) -> None:
        """Fetches the first signature that a root has. Without one, the last one stays. The policy is checked elsewhere."""
        for root in self._roots:
            try:
                with root.open(f"{binding.name}/{binding.version}/{BUNDLE_FILE}", 0, stopped) as opened:
                    write_whole(folder / BUNDLE_FILE, _at_most(BUNDLE_LIMIT, opened.pieces))
            except FetchError:
                continue
            return


def _take(root: Root, path: str, file: Path, digest: str, limit: int, stopped: Callable[[], bool]) -> None:
    """Puts the file with that digest in place, unless it is there already. Raises FetchError, ModelCorrupt, Stopped."""
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
        # The part may come from another root, or the disk lost some of it: fetch once more, from the start.


def _continue(root: Root, path: str, part: Path, start: int, limit: int, stopped: Callable[[], bool]) -> None:
    with root.open(path, start, stopped) as opened, open(part, "ab") as file:
        file.truncate(opened.start)
        size = opened.start
        for piece in opened.pieces:
            size += len(piece)
            if size > limit:
                file.truncate(0)
                raise ModelCorrupt(f"{path} is longer than the allowed {limit:,} bytes")
            file.write(piece)


def _use_of(folder: Path) -> tuple[float, int]:
    """Returns the Unix time of its last use, and its bytes; zeros when another worker removes it at the same time."""
    try:
        return folder.stat().st_mtime, sum(file.stat().st_size for file in folder.iterdir())
    except FileNotFoundError:
        return 0.0, 0


def _digest(file: Path, stopped: Callable[[], bool]) -> str | None:
    """Returns the digest of the file's content, None when there is no such file."""
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
    """Joins the pieces up to `limit` bytes, and one more, so that the reader can see that there are too many."""
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
    """Returns the error with all roots and their reasons. A corrupt version takes precedence over a missing one."""
    listed = "; ".join(f"{root}: {error}" for root, error in reasons)
    absent = all(isinstance(error, FetchError) and error.code == ABSENT for _, error in reasons)
    wrong = any(isinstance(error, ModelError) for _, error in reasons)
    kind = ModelCorrupt if wrong else ModelNotFound
    what = "is in no registry root" if absent else "could not be fetched from any registry root"
    return kind(f"{binding} {what}: {listed}", name=binding.name, version=binding.version)
