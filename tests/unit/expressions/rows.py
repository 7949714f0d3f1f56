"""Expressions over a few rows: compiled, loaded and run as a rule's graph is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from penstock.expressions import FREE, OK, Compiler, ExpressionError, Given, Graph, parse
from penstock.model.session import Session

ROWS: Mapping[str, list[Any]] = {
    "f": [1.5, -2.25, 0.0],
    "g": [0.25, 3.0, -1.0],
    "i": [7, -7, 0],
    "j": [2, 0, -1],
    "b": [True, False, True],
    "s": ["x", "y", "é"],
    "n": [1.0, None, 3.0],
    "m": [4, None, 0],
    "t": ["x", None, ""],
    "o": [True, None, False],
    "raw": [1.0, float("nan"), float("inf")],
    "p": [[0.125, 0.25, 0.625], [0.5, 0.25, 0.25], [0.0, 0.75, 0.25]],
    "q": [[1.0], [2.0], [4.0]],
    "open": [[1.0, 2.0], [3.0, -1.0], [0.0, 0.5]],
}
GIVEN: Mapping[str, Given] = {
    "f": Given("float64", finite=True, replaceable=True),
    "g": Given("float32", finite=True, replaceable=True),
    "i": Given("int64", replaceable=True),
    "j": Given("int32"),
    "b": Given("bool", replaceable=True),
    "s": Given("string", replaceable=True),
    "n": Given("float64", nullable=True, finite=True, replaceable=True),
    "m": Given("int64", nullable=True, replaceable=True),
    "t": Given("string", nullable=True, replaceable=True),
    "o": Given("bool", nullable=True, replaceable=True),
    "raw": Given("float32"),
    "p": Given("float32", (3,)),
    "p[1]": Given("float32"),
    "q": Given("float32", (1,)),
    "open": Given("float32", (None,)),
}


class Names:
    """The names above."""

    def given(self, name: str, at: int) -> Given | None:
        if name not in GIVEN:
            raise ExpressionError(f"{name!r} is unknown", at)
        return GIVEN[name]

    def local(self, name: str, at: int) -> None:
        if name in GIVEN:
            raise ExpressionError(f"{name!r} means two things", at)


def compiled(**texts: str) -> Graph:
    compiler = Compiler(Names(), texts)
    for name, text in texts.items():
        compiler.add(name, parse(text))
    return compiler.graph()


def run(graph: Graph, rows: Mapping[str, list[Any]] = ROWS) -> dict[str, list[Any]]:
    """Returns the values of each output, None in the rows that have none."""
    feeds = {}
    for read in graph.reads:
        name, _, index = read.name.partition("[")
        dtype = object if read.tensor.dtype == "string" else read.tensor.dtype
        column = np.array([read.fill if one is None else one for one in rows[name]], dtype)
        column = column[:, int(index[:-1])] if index else column
        axes = column.shape[1:] if None in read.tensor.shape else read.tensor.shape
        feeds[read.tensor.name] = np.ascontiguousarray(column.reshape(len(column), *axes))
    found = {}
    session = Session.load(graph.model)
    for tensor in graph.outputs:
        (values,) = session.run([tensor.name], feeds)
        assert values.dtype == (object if tensor.dtype == "string" else np.dtype(tensor.dtype)), tensor
        assert values.shape == (len(rows["f"]), *(values.shape[1:] if None in tensor.shape else tensor.shape)), tensor
        ok = session.run([OK.format(tensor.name)], feeds)[0].tolist() if tensor.name in graph.doubts else [True] * len(values)
        causes = len(graph.doubts.get(tensor.name, ()))
        for free in session.run([FREE.format(tensor.name, number) for number in range(1, causes)], feeds) if causes > 1 else ():
            assert all(fine <= one for fine, one in zip(ok, free.tolist(), strict=True)), "a row with a value is free of every cause"
        found[tensor.name] = [value if fine else None for value, fine in zip(values.tolist(), ok, strict=True)]
    return found


def answers(text: str) -> tuple[str, list[Any]]:
    """Returns the type of an expression, and its value for each row."""
    graph = compiled(y=text)
    (tensor,) = graph.outputs
    return str(tensor).removeprefix("y: "), run(graph)["y"]
