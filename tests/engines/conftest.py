"""What is tested here needs the engines: `make test-engines` has an environment with them. Elsewhere there is nothing to collect."""

from __future__ import annotations

import importlib.util
import warnings

import pytest

from tests.engines.flights import Flights, make
from tests.kafka.conftest import broker, pytest_terminal_summary, shared_broker

__all__ = ["broker", "pytest_terminal_summary", "shared_broker"]

with warnings.catch_warnings():  # of PyFlink, about itself, when it is imported
    warnings.simplefilter("ignore", DeprecationWarning)
    if importlib.util.find_spec("pyflink"):
        importlib.import_module("pyflink.table")

collect_ignore_glob = [] if importlib.util.find_spec("pyspark") else ["test_*.py"]


@pytest.fixture(scope="session")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Flights:
    """What every engine scores, and what has to come out."""
    return make(tmp_path_factory.mktemp("flights"))
