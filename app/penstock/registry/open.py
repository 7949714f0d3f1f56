"""The registry and the cache that settings name: the one place that chooses a backend."""

from __future__ import annotations

from pathlib import Path

from penstock.registry.base import Registry
from penstock.registry.cache import Cache
from penstock.registry.directory import DirectoryRegistry
from penstock.settings import Settings

__all__ = ["open_cache", "open_registry"]


def open_registry(models: Path | str) -> Registry:
    """The registry that the setting `models` names: a folder."""
    return DirectoryRegistry(models)


def open_cache(settings: Settings) -> Cache:
    """Where the models of releases come from: the registry, then the other roots. Raises SettingsError for a root that cannot be used."""
    roots = [str(settings.models), *(root for one in settings.roots.split(",") if (root := one.strip()))]
    return Cache(settings.cache.expanduser(), roots, settings.model_bytes)
