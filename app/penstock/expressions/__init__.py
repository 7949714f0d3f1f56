"""The expression language: text over fields and tensors becomes a checked, typed ONNX graph. `docs/expressions.md` describes it.

1. parse    the text becomes a tree of Python's own grammar; only an allow-list of it is permitted, within limits (`parse`)
2. compile  names get types from a `Scope`; every operator and function is checked and lowered to operators of ONNX (`lower`, `functions`)
3. finish   the graph is written as the bytes of an ONNX file, which the runtime loads like any model (`tape`)

Nothing is evaluated in Python when rows arrive. Every error has its offset in the text, so that a caller can name line and column.
"""

from penstock.expressions.error import ExpressionError, Unresolved
from penstock.expressions.functions import FUNCTIONS
from penstock.expressions.lower import Compiler
from penstock.expressions.parse import MAX_LENGTH, Expression, parse
from penstock.expressions.tape import FREE, OK, Given, Graph, Read, Scope

__all__ = [
    "FREE",
    "FUNCTIONS",
    "MAX_LENGTH",
    "OK",
    "Compiler",
    "Expression",
    "ExpressionError",
    "Given",
    "Graph",
    "Read",
    "Scope",
    "Unresolved",
    "parse",
]
