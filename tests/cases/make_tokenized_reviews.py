"""Makes tokenized-reviews.onnx: text, tokens, and a score, in one file. `python tests/cases/make_tokenized_reviews.py`

GPT2Tokenizer of onnxruntime-extensions, with a vocabulary of 256 bytes and a few merges, then the sum of a weight per token.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FILE = Path(__file__).with_name("tokenized-reviews.onnx")
LONGEST = 32  # tokens of a text; what is behind them is not read
WORDS = {" good": 1.0, " bad": -1.0, "good": 1.0, "bad": -1.0}


def bytes_as_characters() -> list[str]:
    """Returns the printable character that stands for each of the 256 bytes in the vocabularies of GPT-2."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = iter(range(256, 512))
    return [chr(byte if byte in plain else next(rest)) for byte in range(256)]


def vocabulary(words: list[str], *special: str) -> tuple[str, str, dict[str, int]]:
    """Returns the attributes `vocab` and `merges` of a tokeniser that knows the words, and the number of each word."""
    characters = bytes_as_characters()
    tokens = dict.fromkeys([*special, *characters])
    merges: dict[str, None] = {}
    for word in words:
        whole = ""
        for byte in word.encode():
            if whole:
                merges[f"{whole} {characters[byte]}"] = None
            whole += characters[byte]
            tokens[whole] = None
    ids = {token: number for number, token in enumerate(tokens)}
    spelled = {word: ids["".join(characters[byte] for byte in word.encode())] for word in words}
    return json.dumps(ids, ensure_ascii=False), "\n".join(["#version: 0.2", *merges, ""]), spelled


def made() -> bytes:
    vocab, merges, ids = vocabulary([*WORDS], "<|endoftext|>")
    weights = np.zeros(len(json.loads(vocab)), np.float32)
    for word, weight in WORDS.items():
        weights[ids[word]] = weight
    nodes = [
        helper.make_node(
            "GPT2Tokenizer", ["text"], ["ids", "mask"], domain="ai.onnx.contrib", vocab=vocab, merges=merges, padding_length=LONGEST
        ),
        helper.make_node("Gather", ["weights", "ids"], ["each"]),
        helper.make_node("Cast", ["mask"], ["there"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["each", "there"], ["counted"]),
        helper.make_node("ReduceSum", ["counted", "tokens"], ["score"], keepdims=1),
    ]
    text = helper.make_tensor_value_info("text", TensorProto.STRING, ["N"])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1])
    constants = [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.array([1]), "tokens")]
    graph = helper.make_graph(nodes, "reviews", [text], [score], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.contrib", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString(deterministic=True))


if __name__ == "__main__":
    FILE.write_bytes(made())
