"""Models are trained, exported, pushed and scored today, by each framework itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest

from docs.frameworks import CASES, EXPORTS, Case, described, score
from tests.frameworks.exports import write

Made = tuple[Case, Path]


@pytest.fixture(scope="module", params=[case for case in CASES if not case.apart], ids=lambda case: case.name)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    write(request.param, folder)
    return request.param, folder


def test_model_of_the_framework_answers_as_the_framework_does(made: Made) -> None:
    """The answers are compared row by row, at the push and after the topology."""
    case, folder = made
    assert score(case, folder, folder) == ""


def test_export_that_is_kept_is_what_the_framework_writes(made: Made) -> None:
    """The same versions, operators and tensors: otherwise `python -m tests.frameworks.exports`, then `python docs/frameworks.py`."""
    case, folder = made
    assert described(case, folder)["versions"] == described(case, EXPORTS)["versions"]
    assert outline(folder / f"{case.name}.onnx") == outline(EXPORTS / f"{case.name}.onnx")


def test_limit_of_a_converter_that_the_page_names_still_holds(tmp_path: Path) -> None:
    """When this fails, the case is apart no longer, and the note in the table goes."""
    with pytest.raises(ValueError, match="Unable to create node 'TreeEnsembleRegressor'"):
        write(next(case for case in CASES if case.name == "sklearn-histogram"), tmp_path)


def outline(path: Path) -> tuple[object, ...]:
    """Returns what of a file does not depend on the numbers that the training found."""
    model = onnx.load(path, load_external_data=False)
    operators = Counter((node.domain, node.op_type) for node in model.graph.node)
    tensors = [one.SerializeToString() for one in (*model.graph.input, *model.graph.output)]
    return model.ir_version, operators, tensors, {opset.domain: opset.version for opset in model.opset_import}
