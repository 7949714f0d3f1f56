"""Opens the registry and the cache that settings name: the one place that chooses a backend."""

from __future__ import annotations

from pathlib import Path

from penstock.registry.base import Registry
from penstock.registry.cache import Cache
from penstock.registry.directory import DirectoryRegistry
from penstock.settings import Settings

__all__ = ["open_cache", "open_registry"]


def open_registry(models: Path | str) -> Registry:
    """Returns the registry that the setting `models` names: a folder."""
    return DirectoryRegistry(models)


def open_cache(settings: Settings) -> Cache:
    """Returns the cache, filled from the registry, then from the other roots. Raises SettingsError for an unusable root."""
    roots = [str(settings.models), *(root for one in settings.roots.split(",") if (root := one.strip()))]
    return Cache(settings.cache.expanduser(), roots, settings.model_bytes)
