"""One place turns settings into the registry and the cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.binding import Binding
from penstock.errors import ModelNotFound, SettingsError
from penstock.registry.open import open_cache, open_registry
from penstock.settings import Settings
from penstock.testing import models


def test_models_are_looked_for_in_the_registry_and_then_in_the_other_roots(tmp_path: Path) -> None:
    roots = f" {tmp_path / 'second'}, ,{tmp_path / 'third'} "
    settings = Settings(models=tmp_path / "first", roots=roots, cache=tmp_path / "cache")
    published = open_registry(tmp_path / "third").publish("score", models.identity())
    binding = Binding(uri="models:/score/1", digest=published.digest, manifest=published.manifest_digest)
    assert open_cache(settings).fetch(binding, stopped=lambda: False).read() == published.read()
    elsewhere = Binding(uri="models:/score/2", digest=published.digest, manifest=f"sha256:{0:064}")
    with pytest.raises(ModelNotFound, match=rf"{tmp_path}/first: .*; {tmp_path}/second: .*; {tmp_path}/third: there is no score/2/"):
        open_cache(settings).fetch(elsewhere, stopped=lambda: False)


def test_a_root_that_cannot_be_one_is_a_setting_to_edit(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="roots: ftp://somewhere"):
        open_cache(Settings(models=tmp_path, roots="ftp://somewhere", cache=tmp_path))
