"""The code of the how-to pages does what the pages promise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.settings import Settings

ROOT = Path(__file__).parents[2]


def snippets(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "docs/how-to" / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


CONTRACTS = {"codec.md": "test_msgpack_keeps_the_contract", "transport.md": "test_table_keeps_the_contract"}
# A line of each page whose loss breaks a promise.
BROKEN = {"codec.md": "failures.append(Failure(row, DecodeError(str(error))))", "transport.md": "self._open.clear()"}


def contract(page: str, tmp_path: Path, without: str = "") -> None:
    """Runs the code of a page, and then its test."""
    namespace: dict[str, Any] = {}
    for text in snippets(page, "python"):
        exec(compile(text.replace(without, "pass") if without else text, page, "exec"), namespace)
    test = namespace[CONTRACTS[page]]
    test(*([tmp_path] if test.__code__.co_argcount else []))


@pytest.mark.parametrize("page", CONTRACTS)
def test_code_of_the_page_keeps_the_contract(page: str, tmp_path: Path) -> None:
    contract(page, tmp_path)


@pytest.mark.parametrize("page", CONTRACTS)
def test_contract_notices_a_broken_promise(page: str, tmp_path: Path) -> None:
    """Otherwise the test above could not fail."""
    assert any(BROKEN[page] in text for text in snippets(page, "python"))
    with pytest.raises(AssertionError):
        contract(page, tmp_path, BROKEN[page])


def test_deployment_names_real_settings_and_waits_for_the_worker() -> None:
    """Each PENSTOCK_* variable is a setting, and the grace period is longer than what a worker may take to stop."""
    (text,) = snippets("kubernetes.md", "yaml")
    pod = yaml.safe_load(text)["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    names = [one["name"].removeprefix("PENSTOCK_").lower() for one in worker["env"]]
    settings = Settings()
    assert [name for name in names if not hasattr(settings, name)] == []
    assert pod["terminationGracePeriodSeconds"] > settings.drain_timeout + settings.session_timeout
    assert {one["name"] for one in worker["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
