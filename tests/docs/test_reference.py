"""Every setting, command, error and metric has its line of documentation, and the pages are those that the code makes."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from docs import generate
from penstock import errors
from penstock.settings import Settings
from penstock.telemetry.metrics import FAMILIES, SUPERVISOR

REFERENCE = generate.REFERENCE


@pytest.mark.parametrize("page", generate.PAGES)
def test_page_is_in_step_with_the_code(page: str) -> None:
    """`make docs` writes it again."""
    assert page not in generate.stale()


def test_changed_page_is_noticed(tmp_path: Path) -> None:
    """Otherwise the test above could not fail."""
    for name, page in generate.PAGES.items():
        (tmp_path / name).write_text(page(), encoding="utf-8")
    assert generate.stale(tmp_path) == []
    with (tmp_path / "metrics.md").open("a") as page_file:
        page_file.write("more\n")
    (tmp_path / "cli.md").unlink()
    assert generate.stale(tmp_path) == ["cli.md", "metrics.md"]


def test_every_setting_metric_and_error_has_a_row() -> None:
    for page, names in {
        "settings.md": [one.name for one in fields(Settings)],
        "metrics.md": [one.exported for one in (*FAMILIES.values(), *SUPERVISOR)],
        "errors.md": [name for name in errors.__all__ if name != "Problem"],
    }.items():
        text = (REFERENCE / page).read_text(encoding="utf-8")
        assert [name for name in names if f"\n| `{name}` |" not in text] == [], page


def test_every_command_and_option_explains_itself() -> None:
    """No command without a sentence, no option without help."""
    silent = [path for path, command in generate.commands() if not (command.help or "").strip()]
    mute = [
        f"{path} {parameter.opts[-1]}"
        for path, command in generate.commands()
        for parameter in command.params
        if parameter.param_type_name == "option" and not getattr(parameter, "help", None)
    ]
    assert (silent, mute) == ([], [])
