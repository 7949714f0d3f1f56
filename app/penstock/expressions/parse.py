"""Text becomes a tree of Python's grammar. Only what the table below lists is permitted, with limits on length, depth and size.

Names are references as everywhere in a topology file: `field`, `source.field`, `node.output`, each with an optional `[index]`.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from penstock.expressions.error import ExpressionError

__all__ = ["FLAGS", "MAX_DEPTH", "MAX_LENGTH", "MAX_NODES", "Expression", "parse", "reference"]

MAX_LENGTH: Final = 4_000
MAX_DEPTH: Final = 64  # a sum of 63 terms is that deep
MAX_NODES: Final = 1_000
PART: Final = 60  # characters of an expression in a message

FLAGS: Final = {"true": True, "false": False}

_ALLOWED: Final = (
    ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Load, ast.Call, ast.List, ast.Tuple, ast.Dict, ast.IfExp,
    ast.UnaryOp, ast.USub, ast.UAdd, ast.Not, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow,
    ast.BoolOp, ast.And, ast.Or, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn,
)  # fmt: skip
_REFUSED: Final[dict[type[ast.AST], tuple[str, str]]] = {
    ast.BitAnd: ("& has no meaning here", "write and"),
    ast.BitOr: ("| has no meaning here", "write or"),
    ast.BitXor: ("^ has no meaning here", "write ** for a power"),
    ast.Invert: ("~ has no meaning here", "write not"),
    ast.Is: ("is has no meaning here", "write =="),
    ast.IsNot: ("is not has no meaning here", "write !="),
    ast.Lambda: ("an expression defines no function", ""),
    ast.NamedExpr: ("an expression assigns nothing", "make it an output, which later outputs may name"),
    ast.JoinedStr: ("texts cannot be formatted", ""),
    ast.Slice: ("a part of an array cannot be cut out", "pick one element: NAME[0]"),
    ast.Starred: ("* has no meaning here", "name the arguments one by one"),
    ast.keyword: ("arguments have no names here", "give them in their order"),
}


@dataclass(frozen=True, slots=True)
class Expression:
    """A text that was parsed. Two are equal when their texts are."""

    text: str
    body: ast.expr = field(compare=False, repr=False)
    _source: str = field(compare=False, repr=False)
    _shift: int = field(compare=False, repr=False)

    def at(self, node: ast.AST) -> int:
        """Returns the offset of a part of the tree in the text, in characters."""
        return _offset(self._source, getattr(node, "col_offset", 0)) + self._shift

    def part(self, node: ast.expr) -> str:
        """Returns the text of a part of the tree, at most PART characters of it."""
        text = self._source.encode()[node.col_offset : node.end_col_offset].decode()
        return text if len(text) <= PART else f"{text[:PART]}..."

    def names(self) -> Iterator[tuple[str, int]]:
        """Yields every reference with its offset, in the order of the text; `true` and `false` are no references."""
        found = [(name, self.at(node)) for node in _operands(self.body) if (name := reference(node)) is not None]
        yield from sorted(found, key=lambda one: one[1])


@lru_cache(maxsize=1024)
def parse(text: str) -> Expression:
    """Returns the parsed expression. Raises ExpressionError for what is not of the language, or beyond its limits."""
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"the expression has {len(text):,} characters, the limit is {MAX_LENGTH:,}", 0, "divide it into outputs")
    if (at := text.find("\\")) >= 0:
        raise ExpressionError("a backslash has no meaning here", at, "write the character itself")
    # Lines may break anywhere: a break is a blank, and every offset stays as it is.
    source = "".join(" " if one.isspace() else one for one in text)
    shift = len(source) - len(source.lstrip())
    source = source[shift:]
    if not source:
        raise ExpressionError("the expression is empty", 0, "write a name, a number or a function")
    body = _tree(source, shift)
    made = Expression(text, body, source, shift)
    _limit(made)
    return made


def reference(node: ast.AST) -> str | None:
    """Returns the reference that the node spells, or None when it is another expression."""
    match node:
        case ast.Name(id=name) if name.lower() not in FLAGS:
            return name
        case ast.Attribute(value=value, attr=attr) if (head := reference(value)) is not None:
            return f"{head}.{attr}"
        case ast.Subscript(value=value, slice=ast.Constant(value=int() as index)) if type(index) is int:
            head = reference(value)
            return None if head is None else f"{head}[{index}]"
        case _:
            return None


def _tree(source: str, shift: int) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about code that would run: nothing here does
            return ast.parse(source, mode="eval").body
    except SyntaxError as error:
        at = _offset(source, len(source[: max((error.offset or 1) - 1, 0)].encode()))
        reason = (error.msg or "").partition(". ")[0]  # what follows are proposals for programs
        raise ExpressionError(f"not an expression: {reason}", min(at, len(source) - 1) + shift, _syntax_fix(source)) from None
    except (ValueError, MemoryError, RecursionError) as error:  # null characters; more nesting than the parser's stack holds
        if isinstance(error, ValueError):
            raise ExpressionError("a null character has no meaning here", shift + max(source.find("\0"), 0)) from None
        raise ExpressionError(f"nested more than {MAX_DEPTH} levels deep", shift, "divide it into outputs") from None


def _syntax_fix(source: str) -> str:
    if "&&" in source or "||" in source:
        return "write and, or"
    if "?" in source:
        return "write where(CONDITION, A, B)"
    if "#" in source:
        return "# begins a comment"
    if "=" in source.replace("==", "").replace("<=", "").replace(">=", "").replace("!=", ""):
        return "write == to compare"
    return ""


def _limit(made: Expression) -> None:
    """Raises ExpressionError for a node that is not permitted, and for too many or too deep ones. Depth cannot exhaust its stack."""
    todo: list[tuple[ast.AST, int, int]] = [(made.body, 1, 0)]
    seen = 0
    while todo:
        node, depth, above = todo.pop()
        at = made.at(node) if hasattr(node, "col_offset") else above
        seen += not isinstance(node, ast.Load | ast.operator | ast.cmpop | ast.unaryop | ast.boolop)
        if seen > MAX_NODES:
            raise ExpressionError(f"the expression has more than {MAX_NODES:,} parts", 0, "divide it into outputs")
        if depth > MAX_DEPTH:
            raise ExpressionError(f"nested more than {MAX_DEPTH} levels deep", at, "divide it into outputs")
        if not isinstance(node, _ALLOWED):
            message, fix = _REFUSED.get(type(node), (f"{type(node).__name__} has no meaning here", ""))
            raise ExpressionError(message, at, fix)
        if isinstance(node, ast.Constant) and not (node.value is None or type(node.value) in (bool, int, float, str)):
            raise ExpressionError(f"{ast.unparse(node)[:40]} is not a number, a text or true/false", at)
        # A chain of names is one reference, however long.
        deeper = depth if isinstance(node, ast.Attribute) else depth + 1
        todo.extend((child, deeper, at) for child in ast.iter_child_nodes(node))


def _operands(body: ast.expr) -> Iterator[ast.AST]:
    """Yields the parts that may be references: a whole reference once, and no names of functions."""
    todo: list[ast.AST] = [body]
    while todo:
        node = todo.pop()
        yield node
        if reference(node) is None:
            children = ast.iter_child_nodes(node)
            todo.extend(child for child in children if not (isinstance(node, ast.Call) and child is node.func))


def _offset(source: str, column: int) -> int:
    """Returns the offset in characters; Python's tree counts bytes of UTF-8."""
    return column if source.isascii() else len(source.encode()[:column].decode(errors="ignore"))
