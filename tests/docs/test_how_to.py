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


def test_codec_of_the_page_keeps_the_contract() -> None:
    namespace: dict[str, Any] = {}
    for text in snippets("codec.md", "python"):
        exec(compile(text, "codec.md", "exec"), namespace)
    namespace["test_msgpack_keeps_the_contract"]()


def test_codec_check_notices_a_lost_row() -> None:
    """Otherwise the test above could not fail."""
    namespace: dict[str, Any] = {}
    for text in snippets("codec.md", "python"):
        exec(compile(text.replace("failures.append(", "print("), "codec.md", "exec"), namespace)
    with pytest.raises(AssertionError):
        namespace["test_msgpack_keeps_the_contract"]()


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
