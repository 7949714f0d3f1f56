"""The sections of docs/your-own-model.md whose frameworks `make test` does not have; tests/docs runs the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.test_python_pages import ELSEWHERE, NUMBERS, follow


@pytest.mark.parametrize("framework", ELSEWHERE)
def test_model_of_the_page_predicts_what_it_shows(framework: str, tmp_path: Path) -> None:
    """The commands are run in the folder that the page describes. The golden records compare the answers with the framework's."""
    follow(NUMBERS, framework, tmp_path)
