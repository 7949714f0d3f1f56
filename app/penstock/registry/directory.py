"""A registry on disk: `ROOT/NAME/VERSION/{model.onnx, model.toml, golden.json}` and `ROOT/NAME/aliases/ALIAS`, one file per alias.

No locks are needed, on local disks or shared ones, because of three rules:
1. A version is written in a folder beside its place (`.push-…`), synced, and renamed into place: it exists whole or not at all. When
   two publishers choose the same number, the second rename fails.
2. A version's files are never written again (and are read-only). Its signature, `model.sig`, is put beside them by a rename.
3. An alias is a separate file, replaced by rename, so a reader sees the old version or the new one.
Versions and aliases are regular files. A pipe, a device or a folder in the place of one, a link out of the registry, and an alias that is a
link are errors that name it: what lies elsewhere can change. Links within the registry are followed: some mounts are made of them.
A publisher that was killed leaves a `.push-…` folder or file. No reader uses it; a later push removes it once it is an hour old.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from penstock.errors import ConfigError, InferenceError, ModelCorrupt, ModelExists, ModelNotFound, Problem
from penstock.host import read_regular
from penstock.model.artifact import BUNDLE_FILE, GOLDEN_FILE, MANIFEST_FILE, MODEL_FILE, Artifact, digest_of, open_artifact
from penstock.model.golden import ATOL, RTOL, GoldenRecord, dump
from penstock.model.golden import parse as parse_golden
from penstock.model.manifest import PROVENANCE, Golden, Manifest, Source, render
from penstock.model.manifest import parse as parse_manifest
from penstock.model.session import Session
from penstock.model.synthetic import synthetic_records
from penstock.model.verify import check_golden
from penstock.registry.names import ALIAS, NAME, VERSION, check_names

__all__ = ["DirectoryRegistry"]

_ALIASES: Final = "aliases"
_PUSH: Final = ".push-"
_STALE_S: Final = 3600.0
_ALIAS_LIMIT: Final = 1024  # bytes


class DirectoryRegistry:
    """The models under one folder. Safe to use from several processes at once."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def __repr__(self) -> str:
        return f"DirectoryRegistry({str(self.root)!r})"

    def publish(
        self,
        name: str,
        model: bytes,
        *,
        version: str | None = None,
        golden: Sequence[GoldenRecord] | None = None,
        metrics: Mapping[str, float] | None = None,
        provenance: Mapping[str, str] | None = None,
        description: str = "",
        rows: int | None = None,
        tolerance: tuple[float, float] | None = None,
        source: Source | None = None,
    ) -> Artifact:
        """See `Registry.publish`."""
        check_names(name, version=version)
        if version is not None and (self.root / name / version).exists():
            raise _exists(name, version)
        _known(provenance or {})
        atol, rtol = tolerance or (ATOL, RTOL)
        if not all(0 <= one < math.inf for one in (atol, rtol)):
            raise ConfigError(f"a tolerance is 0 or more, absolute and relative, not {atol:g} and {rtol:g}")
        session = Session.load(model, rows=rows)
        records = synthetic_records(session) if golden is None else _met(session, golden, atol, rtol)
        home = self.root / name
        with _writing(home):
            home.mkdir(parents=True, exist_ok=True)
            _sweep(home)
            folder = Path(tempfile.mkdtemp(prefix=_PUSH, dir=home))
        try:
            golden_text = dump(records).encode()
            _write(folder / MODEL_FILE, model)
            _write(folder / GOLDEN_FILE, golden_text)
            while True:
                manifest = Manifest(
                    name=name,
                    version=version or self._next(name),
                    created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                    digest=digest_of(model),
                    size=len(model),
                    signature=session.signature,
                    golden=Golden(digest_of(golden_text), atol, rtol, "synthetic" if golden is None else "given"),
                    description=description,
                    metrics=metrics or {},
                    provenance=provenance or {},
                    rows=rows,
                    source=source,
                )
                text = render(manifest)
                parse_manifest(text, file=MANIFEST_FILE)  # a version that cannot be read back must not be published
                _write(folder / MANIFEST_FILE, text.encode())
                if _move(folder, home / manifest.version):
                    return self.resolve(name, manifest.version)
                if version is not None:
                    raise _exists(name, version)
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # missing when it was renamed

    def resolve(self, name: str, version: str) -> Artifact:
        """See `Registry.resolve`."""
        if not NAME.fullmatch(name) or name not in self.names():
            raise self._not_found(name, version, f"there is no model {name!r} in {self.root}", name, self.names(), "models")
        versions = self.versions(name)
        aliases = {} if version in versions else self.aliases(name)
        found = aliases.get(version, version)
        if found not in versions:
            what = (
                f"alias {version!r} of {name} points at {found!r}, which" if found != version else f"version or alias {version!r} of {name}"
            )
            raise self._not_found(name, version, f"{what} is not in {self.root}", version, [*versions, *aliases], "versions and aliases")
        folder = self.root / name / found
        for path in (folder, *(folder / file for file in (MANIFEST_FILE, MODEL_FILE, GOLDEN_FILE, BUNDLE_FILE))):
            self._stays_inside(path, name, found)
        return open_artifact(folder, name, found)

    def add_bundle(self, artifact: Artifact, bundle: bytes, *, replace: bool = False) -> Path:
        """See `Registry.add_bundle`."""
        place = artifact.path / BUNDLE_FILE
        descriptor, name = tempfile.mkstemp(prefix=_PUSH, dir=self.root / artifact.name)
        os.close(descriptor)
        written = Path(name)
        try:
            _write(written, bundle)
            if replace:
                os.replace(written, place)
            else:
                os.link(written, place)  # unlike a rename, it does not replace
        except FileExistsError as error:
            what = f"model {artifact} is signed already ({place}); replace the signature with --replace"
            raise ModelExists(what, name=artifact.name, version=artifact.version) from error
        finally:
            written.unlink(missing_ok=True)
        _sync_folder(artifact.path)
        return place

    def names(self) -> list[str]:
        """See `Registry.names`."""
        return sorted(name for name in _folders(self.root) if NAME.fullmatch(name) and self.versions(name))

    def versions(self, name: str) -> list[str]:
        """See `Registry.versions`."""
        if not NAME.fullmatch(name):
            return []
        return sorted((version for version in _folders(self.root / name) if VERSION.fullmatch(version)), key=_natural)

    def alias(self, name: str, alias: str, version: str) -> None:
        """See `Registry.alias`."""
        check_names(name, alias=alias)
        target = self.resolve(name, version).version
        folder = self.root / name / _ALIASES
        with _writing(folder / alias):
            folder.mkdir(exist_ok=True)
            descriptor, written = tempfile.mkstemp(prefix=_PUSH, dir=folder)
            os.close(descriptor)
            try:
                _write(Path(written), f"{target}\n".encode(), mode=0o644)
                os.replace(written, folder / alias)
            finally:
                Path(written).unlink(missing_ok=True)
            _sync_folder(folder)

    def aliases(self, name: str) -> dict[str, str]:
        """See `Registry.aliases`."""
        folder = self.root / name / _ALIASES
        if not NAME.fullmatch(name):
            return {}
        return {alias: _target(folder / alias, name) for alias in sorted(_entries(folder)) if ALIAS.fullmatch(alias)}

    def _stays_inside(self, path: Path, name: str, version: str) -> None:
        try:
            real = path.resolve()
        except (OSError, RuntimeError) as error:  # a link to itself
            raise ModelCorrupt(f"{path} cannot be read: {error}", name=name, version=version) from error
        if not real.is_relative_to(self.root.resolve()):
            what = f"is a link out of the registry, to {real}: copy what is there to this place, or push the model again"
            raise ModelCorrupt(f"{path} {what}", name=name, version=version)

    def _next(self, name: str) -> str:
        return str(max((int(version) for version in self.versions(name) if version.isdecimal()), default=0) + 1)

    def _not_found(self, name: str, version: str, what: str, asked: str, there: Iterable[str], kind: str) -> ModelNotFound:
        known = list(there)
        close = difflib.get_close_matches(asked, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        listed = f"; {kind}: {', '.join(known)}" if known else "; push one with `penstock model push`"
        return ModelNotFound(f"{what}{hint}{listed}", name=name, version=version)


def _known(provenance: Mapping[str, str]) -> None:
    unknown = sorted(provenance.keys() - set(PROVENANCE))
    if unknown:
        raise ConfigError(f"provenance has no {', '.join(unknown)}; it has {', '.join(PROVENANCE)}")


def _met(session: Session, golden: Sequence[GoldenRecord], atol: float, rtol: float) -> tuple[GoldenRecord, ...]:
    """Returns the records as they will be read back. Raises ModelCorrupt when the model does not meet them."""
    records = parse_golden(dump(golden), session.signature)
    try:
        check_golden(session, records, atol=atol, rtol=rtol)
    except InferenceError as error:
        fix = "if that is near enough, push it with a wider --atol or --rtol"
        raise ModelCorrupt(f"the model does not meet its golden records: {error}; {fix}") from error
    return records


def _exists(name: str, version: str) -> ModelExists:
    return ModelExists(
        f"model {name}@{version} exists, and versions never change; push it under the next version", name=name, version=version
    )


def _folders(path: Path) -> list[str]:
    """Returns the names of the folders in this one."""
    return [name for name in _entries(path) if (path / name).is_dir()]


def _entries(path: Path) -> list[str]:
    """Returns the names in a folder; none when it does not exist. Raises ConfigError when it cannot be read."""
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        what = f"{error.strerror}; the registry needs a folder that this user may read (setting `models`)"
        raise ConfigError(Problem(str(path), 0, 0, f"cannot be listed: {what}")) from error


@contextlib.contextmanager
def _writing(place: Path) -> Iterator[None]:
    """Turns an error of the file system into a ConfigError that names the place."""
    try:
        yield
    except OSError as error:
        fix = "remove what is there, or give this user the right to write in the registry"
        raise ConfigError(Problem(str(place), 0, 0, f"cannot be written: {error.strerror}", fix)) from error


def _target(file: Path, name: str) -> str:
    """Returns the version that the alias names. Raises ModelCorrupt that names the file when it is no text of ours."""
    try:
        target = read_regular(file, _ALIAS_LIMIT, follow=False).decode().strip()
    except OSError as error:
        problem = error.strerror or str(error)
    except UnicodeDecodeError:
        problem = "it is not UTF-8"
    else:
        if VERSION.fullmatch(target):
            return target
        problem = f"it names no version: {target[:40]!r}"
    fix = f"remove it, then set it again: penstock model alias {name} {file.name} VERSION"
    raise ModelCorrupt(f"the alias {file} cannot be read: {problem}; {fix}", name=name, version=file.name)


def _natural(version: str) -> list[tuple[int, int, str]]:
    """Returns a key that sorts 2 before 10, and 1.2 before 1.10; numbers before words."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.findall(r"[0-9]+|[^0-9]+", version)]


def _write(path: Path, data: bytes, *, mode: int = 0o444) -> None:
    """Writes the file and waits until it is on the disk."""
    path.unlink(missing_ok=True)  # an earlier try at another number left it read-only
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    path.chmod(mode)


def _move(folder: Path, place: Path) -> bool:
    """Renames the folder to its place; False when the place is taken."""
    folder.chmod(0o755)  # mkdtemp makes it private, but other users read a registry
    _sync_folder(folder)
    try:
        folder.rename(place)
    except OSError:
        if place.exists():
            return False
        raise
    _sync_folder(place.parent)
    return True


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(home: Path) -> None:
    """Removes what killed publishers left more than an hour ago; a push takes seconds."""
    for leftover in [*home.glob(f"{_PUSH}*"), *(home / _ALIASES).glob(f"{_PUSH}*")]:
        try:
            stale = time.time() - leftover.stat().st_mtime > _STALE_S
        except FileNotFoundError:  # another push swept it, or finished
            continue
        if stale and leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        elif stale:
            leftover.unlink(missing_ok=True)
