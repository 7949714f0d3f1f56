"""The tokenisers of the package onnxruntime-extensions: which operators a model may use and how, and where the package is installed.

Each operator of `OPERATORS` has what it needs in its attributes (vocabulary, merges, the model of SentencePiece), and computes its outputs
from its inputs and nothing else. Others of this domain call Python (PyOp), decode whatever they are given (images, audio), or have no test
here; CLIPTokenizer ends the process over some texts. Other inputs, outputs and attributes of these are refused too: in version 0.15,
RobertaTokenizer with a `padding_length`, and GPT2Tokenizer with its `model_name`, write a long text beyond the end of their outputs. A test
runs every operator of the table in the quarantine, and on text of any kind.
"""

from __future__ import annotations

import functools
import importlib.util
import mmap
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = ["DOMAIN", "OPERATORS", "needed", "path", "problem"]

DOMAIN: Final = "ai.onnx.contrib"
_PIECE: Final = 1 << 20  # bytes that are searched with the interpreter's lock held


class _Use(NamedTuple):
    """How many inputs and outputs a node may have at most, and which attributes."""

    inputs: int
    outputs: int
    attributes: frozenset[str]


_PAIRS: Final = frozenset({"vocab", "merges", "added_token"})
_BERT: Final = frozenset({
    "vocab_file", "do_lower_case", "do_basic_tokenize", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
    "tokenize_chinese_chars", "strip_accents", "suffix_indicator", "max_length", "truncation_strategy_name",
})  # fmt: skip
OPERATORS: Final = {
    "BertTokenizer": _Use(1, 3, _BERT),
    "GPT2Tokenizer": _Use(1, 2, _PAIRS | {"padding_length"}),
    "RobertaTokenizer": _Use(1, 2, _PAIRS),
    "SentencepieceTokenizer": _Use(6, 2, frozenset({"model"})),
}


def problem(node: Any) -> str:
    """Returns what is wrong with a node of this domain, and what to do; "" when it may run here."""
    use = OPERATORS.get(node.op_type)
    if use is None:
        return f"of this domain, supported are {', '.join(sorted(OPERATORS))}; compute the rest before the model"
    for kind, found, most in (("inputs", node.input, use.inputs), ("outputs", node.output, use.outputs)):
        if len(found) > most:
            return f"it has {len(found)} {kind}, supported are the first {most}; export it without the others"
    unknown = [one.name for one in node.attribute if one.name not in use.attributes and (one.name, one.i) != ("padding_length", -1)]
    if unknown:
        return f"the attribute {unknown[0]!r} is not supported there; export it without, and cut or fill the tokens by other operators"
    return "" if path() else "the package onnxruntime-extensions computes it: pip install 'penstock[extensions]'"


@functools.cache
def path() -> str:
    """Returns the path of the shared library with the operators, "" where the package is not installed. It is not imported."""
    spec = importlib.util.find_spec("onnxruntime_extensions")
    folders = spec.submodule_search_locations if spec is not None else None
    return next((str(file) for folder in folders or () for file in sorted(Path(folder).glob("_extensions_pydll*.so"))), "")


def needed(source: bytes | str) -> bool:
    """Returns whether the model, its bytes or its file, may use operators of this domain: it contains its name."""
    name = DOMAIN.encode()
    if isinstance(source, bytes):
        return name in source
    with open(source, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return any(data.find(name, at, at + _PIECE + len(name)) >= 0 for at in range(0, len(data), _PIECE))
