"""Every registry keeps the contract."""

from pathlib import Path

from penstock.registry.directory import DirectoryRegistry
from penstock.testing.check_registry import check_registry


def test_directory_registry_keeps_the_contract(tmp_path: Path) -> None:
    check_registry(DirectoryRegistry(tmp_path / "models"))
