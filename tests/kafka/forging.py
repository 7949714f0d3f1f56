"""Versions in a registry that are not what was pushed: what a push would have refused, but a root may hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from penstock.model.artifact import GOLDEN_FILE, MANIFEST_FILE, MODEL_FILE, Artifact, digest_of, open_artifact
from penstock.model.manifest import render


def forge(artifact: Artifact, *, model: bytes | None = None, golden: bytes | None = None) -> Artifact:
    """Puts other files into a version, and their digests into its manifest."""
    manifest = artifact.manifest
    if model is not None:
        replace_file(artifact.path / MODEL_FILE, model)
        manifest = replace(manifest, digest=digest_of(model), size=len(model))
    if golden is not None:
        replace_file(artifact.path / GOLDEN_FILE, golden)
        manifest = replace(manifest, golden=replace(manifest.golden, digest=digest_of(golden)))
    replace_file(artifact.path / MANIFEST_FILE, render(manifest).encode())
    return open_artifact(artifact.path, artifact.name, artifact.version)


def replace_file(path: Path, data: bytes) -> None:
    """Other content for a file that a registry wrote."""
    path.unlink()
    path.write_bytes(data)
