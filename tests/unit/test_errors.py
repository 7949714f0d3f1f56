"""Errors carry what their catcher needs."""

from __future__ import annotations

from penstock.errors import ConfigError, DecodeError, ModelCorrupt, Problem, RecordError, TopologyError


def test_problem_names_place_and_remedy() -> None:
    assert str(Problem("a.yaml", 3, 7, "no node lr", "did you mean rl?")) == "a.yaml:3:7: no node lr (did you mean rl?)"


def test_problem_without_a_line_names_the_file() -> None:
    assert str(Problem("a.yaml", 0, 0, "is empty")) == "a.yaml: is empty"


def test_problems_sort_by_place() -> None:
    late, early = Problem("a", 10, 1, "x"), Problem("a", 9, 4, "y")
    assert sorted([late, early]) == [early, late]


def test_config_error_holds_all_problems() -> None:
    """One a line, whether it is given many, one or a sentence."""
    first, second = Problem("a", 1, 1, "x"), Problem("a", 2, 1, "y")
    assert str(TopologyError([first, second])) == "a:1:1: x\na:2:1: y"
    assert TopologyError(first).problems == (first,)
    assert str(ConfigError("nothing to run")) == "nothing to run"


def test_record_error_says_where() -> None:
    """The class knows, unless whoever raises it knows better."""
    assert (DecodeError("x").where, RecordError("x").where, RecordError("x", where="trees").where) == ("decode", "process", "trees")


def test_model_error_names_the_version() -> None:
    error = ModelCorrupt("digest differs", name="trees", version="1")
    assert (str(error), error.name, error.version) == ("digest differs", "trees", "1")
