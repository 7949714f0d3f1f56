"""The client of a schema registry with Confluent's API (Confluent, Redpanda, Karapace, Apicurio): schemas by id, subjects, registering."""

from __future__ import annotations

from penstock.codecs.schema_registry.client import Client
from penstock.codecs.schema_registry.shelf import SchemaRegistry
from penstock.settings import Settings

__all__ = ["Client", "SchemaRegistry", "open_schema_registry"]


def open_schema_registry(settings: Settings, *, dry: bool = True) -> SchemaRegistry | None:
    """Returns the registry that the settings name, None without one. Nothing is asked yet. `dry` registers nothing.

    Raises SettingsError for a certificate that cannot be used.
    """
    return SchemaRegistry(Client(settings), settings, dry=dry) if settings.schema_registry_url else None
