"""Artifact: one registered model version on disk, and its manifest. It is a value; nothing is loaded.

A version is a folder of three files: `model.onnx`, `model.toml` (the manifest) and `golden.json` (the golden records), and
`model.sig` when they are signed (`penstock.model.trust`). An artifact fixes the digests of the three when it is opened,
and returns no byte that differs from them, so a signature over these digests covers what is loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from penstock.errors import ConfigError, ModelCorrupt
from penstock.host import read_regular
from penstock.model import golden, manifest
from penstock.model.contents import MAX_BYTES
from penstock.model.golden import GoldenRecord
from penstock.model.manifest import Manifest
from penstock.signature import Signature

__all__ = ["BUNDLE_FILE", "BUNDLE_LIMIT", "GOLDEN_FILE", "MANIFEST_FILE", "MODEL_FILE", "Artifact", "digest_of", "open_artifact"]

MODEL_FILE: Final = "model.onnx"
MANIFEST_FILE: Final = "model.toml"
GOLDEN_FILE: Final = "golden.json"
BUNDLE_FILE: Final = "model.sig"
MANIFEST_LIMIT: Final = 1024**2
BUNDLE_LIMIT: Final = 1024**2  # a bundle is 2 KB with a key, and 1 KB more for each certificate


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model version. `digest` is "sha256:..." of model.onnx, `size` its bytes; both are those of the manifest.

    `manifest_digest` is "sha256:..." of the bytes of model.toml that were read.
    """

    name: str
    version: str
    path: Path
    digest: str
    size: int
    signature: Signature
    manifest: Manifest
    manifest_digest: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def digests(self) -> Mapping[str, str]:
        """The digest of each of the three files, by the file's name. `read` and `golden_records` compare the files with them."""
        return {MODEL_FILE: self.digest, MANIFEST_FILE: self.manifest_digest, GOLDEN_FILE: self.manifest.golden.digest}

    def bundle(self) -> bytes | None:
        """Returns the content of model.sig, at most one byte more than BUNDLE_LIMIT; None without the file. Raises ModelCorrupt."""
        try:
            return read_regular(self.path / BUNDLE_FILE, BUNDLE_LIMIT + 1, whole=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self.corrupt(BUNDLE_FILE, f"cannot be read: {error.strerror}") from error

    def read(self, *, max_bytes: int = MAX_BYTES) -> bytes:
        """Returns the bytes of model.onnx. Raises ModelCorrupt when the file is too large, or is not the one that was pushed."""
        if self.size > max_bytes:
            raise self.corrupt(MODEL_FILE, f"has {self.size:,} bytes, the limit is {max_bytes:,}")
        return self._read(MODEL_FILE, self.digest, max_bytes)

    def golden_records(self) -> tuple[GoldenRecord, ...]:
        """Returns the golden records. Raises ModelCorrupt when the file is not the one that was pushed, or does not fit the signature."""
        data = self._read(GOLDEN_FILE, self.manifest.golden.digest, MAX_BYTES)
        try:
            return golden.parse(data.decode(), self.signature, file=str(self.path / GOLDEN_FILE))
        except (ConfigError, UnicodeDecodeError) as error:
            raise self.corrupt(GOLDEN_FILE, f"cannot be used: {error}") from error

    def corrupt(self, file: str, what: str) -> ModelCorrupt:
        """Returns the error for a problem with one of the version's files."""
        return ModelCorrupt(f"model {self}: {self.path / file} {what}", name=self.name, version=self.version)

    def _read(self, file: str, digest: str, max_bytes: int) -> bytes:
        try:
            data = read_regular(self.path / file, max_bytes + 1, whole=False)
        except OSError as error:
            raise self.corrupt(file, f"cannot be read: {error.strerror}") from error
        found = digest_of(data)
        if found != digest:
            raise self.corrupt(
                file, f"is not the file that was pushed: {MANIFEST_FILE} has {digest}, the file has {found}; push it as a new version"
            )
        return data


def digest_of(data: bytes) -> str:
    """ "sha256:" and the hexadecimal digest of the bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def open_artifact(path: Path, name: str, version: str) -> Artifact:
    """Opens the version in the folder `path`, which must be registered under `name` and `version`.

    Reads the manifest only. Raises ConfigError that names file and key when it cannot be used.
    """
    file = path / MANIFEST_FILE
    try:
        data = read_regular(file, MANIFEST_LIMIT)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ModelCorrupt(
            f"model {name}@{version}: {file} cannot be read: {what}; push it as a new version", name=name, version=version
        ) from error
    found = manifest.parse(text, file=str(file))
    if (found.name, found.version) != (name, version):
        problem = f"{file} describes {found.name}@{found.version}, but it is in the folder of {name}@{version}"
        raise ModelCorrupt(f"model {name}@{version}: {problem}: do not rename or copy folders; push it again", name=name, version=version)
    return Artifact(name, version, path, found.digest, found.size, found.signature, found, digest_of(data))
