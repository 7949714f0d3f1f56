"""The tokenisers of onnxruntime-extensions run, alone of its operators: each passes the quarantine and gives the right tokens."""

from __future__ import annotations

import importlib.util
import re
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from penstock.errors import InferenceError, ModelCorrupt
from penstock.model import extensions
from penstock.model.contents import check_contents
from penstock.model.extensions import DOMAIN, OPERATORS
from penstock.model.quarantine import Findings, quarantine
from penstock.model.sealed import Sealed
from penstock.model.session import Session
from penstock.registry.directory import DirectoryRegistry

CASES: Final = Path(__file__).parent.parent.parent / "cases"
MAKER: Final = CASES / "make_tokenized_reviews.py"
_found = importlib.util.spec_from_file_location("make_tokenized_reviews", MAKER)
assert _found is not None
assert _found.loader is not None
maker: Any = importlib.util.module_from_spec(_found)
_found.loader.exec_module(maker)

WORDS: Final = ["late", " late", "on", " time"]
PIECES: Final = ["<unk>", "<s>", "</s>", "\u2581late", "\u2581on", "\u2581time", "\u2581", "ly"]
BERT: Final = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "late", "on", "time", "##ly"]


SPECIAL: Final = ["<|endoftext|>", "<|startoftext|>", "</s>", "<s>", "<pad>", "[SEP]", "[UNK]", " late", "\u2581", "\0", "\u0130", " "]
TEXTS: Final = st.lists(st.sampled_from(SPECIAL) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=30).map("".join)
_sessions: dict[str, Session] = {}


class Case(NamedTuple):
    """An operator's attributes, further inputs, and outputs; how many rows it takes at a time; tokens, and the number of each there is."""

    attributes: dict[str, Any]
    outputs: int
    text: str
    expected: dict[int, int]
    rows: int | None = None
    more: tuple[Any, ...] = ()


def sentencepiece() -> bytes:
    """A ModelProto of SentencePiece: its pieces with their scores and kinds, and the trainer's and normalizer's specification."""

    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3}
    scores = [np.float32(-number / 10).tobytes() for number in range(len(PIECES))]
    pieces = (
        field(1, piece.encode()) + bytes([2 << 3 | 5]) + score + bytes([3 << 3, kinds.get(piece, 1)])
        for piece, score in zip(PIECES, scores, strict=True)
    )
    return b"".join([*(field(1, piece) for piece in pieces), field(2, bytes([3 << 3, 1])), field(3, field(1, b"identity"))])


def byte_pairs(*special: str) -> tuple[dict[str, Any], dict[str, int]]:
    vocab, merges, ids = maker.vocabulary(WORDS, *special)
    ids |= {token: number for number, token in enumerate(special)}
    return {"vocab": vocab, "merges": merges}, ids


def table() -> dict[str, Case]:
    text = "late on time"
    gpt, gpt_ids = byte_pairs("<|endoftext|>")
    roberta, roberta_ids = byte_pairs("<s>", "<pad>", "</s>", "<unk>")
    return {
        "GPT2Tokenizer": Case({**gpt, "padding_length": 8}, 2, text, {gpt_ids["late"]: 1, gpt_ids[" time"]: 1}),
        "RobertaTokenizer": Case(roberta, 2, text, {0: 1, roberta_ids["late"]: 1, roberta_ids[" time"]: 1, 2: 1}),
        "BertTokenizer": Case({"vocab_file": "\n".join(BERT)}, 3, "Late timely", {2: 1, 5: 1, 7: 1, 8: 1, 3: 1}, rows=1),
        "SentencepieceTokenizer": Case(
            {"model": sentencepiece()}, 2, "late on", {3: 1, 4: 1}, rows=1,
            more=(np.array([0]), np.array([0.0], np.float32), *(np.array([False]),) * 3),
        ),
    }  # fmt: skip


TABLE: Final = table()


def counting(operator: str, **attributes: Any) -> bytes:
    """A model of a text: how often each token is in it, `[N, 300]`, for any number of rows or for one at a time."""
    case = TABLE[operator]
    given = {f"more{at}": array for at, array in enumerate(case.more)}
    constants = given | {"depth": np.array(300), "binary": np.array([0, 1], np.float32), "first": np.array([0]), "last": np.array([-1])}
    outputs = [f"out{at}" for at in range(case.outputs)]
    nodes = [
        helper.make_node(operator, ["text", *given], outputs, domain=DOMAIN, **case.attributes | attributes),
        helper.make_node("Cast", ["out0"], ["ids"], to=TensorProto.INT64),
        helper.make_node("OneHot", ["ids", "depth", "binary"], ["each"], axis=-1),
    ]
    if case.rows:  # one text, and its tokens are the only axis
        nodes.append(helper.make_node("ReduceSum", ["each", "first"], ["counts"], keepdims=1))
    else:  # what fills up the shorter texts does not count
        nodes += [
            helper.make_node("Cast", ["out1"], ["there"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["there", "last"], ["mask"]),
            helper.make_node("Mul", ["each", "mask"], ["real"]),
            helper.make_node("ReduceSum", ["real", "second"], ["counts"], keepdims=0),
        ]
        constants["second"] = np.array([1])
    rows: Any = case.rows or "N"
    text = helper.make_tensor_value_info("text", TensorProto.STRING, [rows])
    counts = helper.make_tensor_value_info("counts", TensorProto.FLOAT, [rows, 300])
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "counting", [text], [counts], initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def tokens(session: Session, *texts: str) -> list[dict[int, int]]:
    (counts,) = session.run(["counts"], {"text": np.array(texts, object)})
    return [{int(token): int(row[token]) for token in np.flatnonzero(row)} for row in counts]


def test_every_operator_of_the_list_is_tested() -> None:
    assert TABLE.keys() == OPERATORS.keys()


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_operator_gives_the_tokens(operator: str) -> None:
    case = TABLE[operator]
    (found,) = tokens(Session.load(counting(operator), rows=case.rows), case.text)
    assert {token: found.get(token) for token in case.expected} == case.expected


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_operator_passes_the_quarantine(operator: str) -> None:
    """Its child opens the library before it denies itself every file."""
    assert quarantine(counting(operator), rows=TABLE[operator].rows) == Findings(())


@pytest.mark.parametrize("operator", sorted(OPERATORS))
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=6))
def test_any_text_has_the_same_tokens_alone_and_beside_others(operator: str, texts: list[str]) -> None:
    session = _sessions.setdefault(operator, Session.load(counting(operator), rows=TABLE[operator].rows))
    assert tokens(session, *texts) == [tokens(session, text)[0] for text in texts]


@pytest.mark.parametrize(
    "operator", ["PyOp", "CLIPTokenizer", "HfJsonTokenizer", "BlingFireSentenceBreaker", "DecodeImage", "AudioDecoder", "StringUpper"]
)
def test_other_operators_are_refused_wherever_they_are(operator: str) -> None:
    node = helper.make_node(operator, ["x"], ["y"], domain=DOMAIN)
    x, y = (helper.make_tensor_value_info(name, TensorProto.STRING, ["N"]) for name in "xy")
    branch = helper.make_graph([node], "branch", [], [y])
    graphs = [
        helper.make_graph([node], "plain", [x], [y]),
        helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)], "inside", [x], [y]),
    ]
    for graph in graphs:
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)])
        with pytest.raises(ModelCorrupt, match=rf"{re.escape(DOMAIN)}\.{operator} .*; of this domain, supported are BertTokenizer, "):
            check_contents(model.SerializeToString())


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("RobertaTokenizer", {"padding_length": 8}),
        ("GPT2Tokenizer", {"model_name": "Roberta"}),
        ("SentencepieceTokenizer", {"unheard": 1}),
    ],
)
def test_uses_that_write_beyond_their_outputs_are_refused(operator: str, attributes: dict[str, Any]) -> None:
    """With a length, the first two give more tokens of a long text than the output has room for."""
    with pytest.raises(ModelCorrupt, match=rf"{operator} .*; the attribute '{next(iter(attributes))}' is not supported there"):
        check_contents(counting(operator, **attributes))
    check_contents(counting(operator))


@pytest.mark.parametrize(("operator", "kind"), [("BertTokenizer", "outputs"), ("GPT2Tokenizer", "outputs"), ("RobertaTokenizer", "inputs")])
def test_further_inputs_and_outputs_are_refused(operator: str, kind: str) -> None:
    model = onnx.ModelProto.FromString(counting(operator))
    getattr(model.graph.node[0], kind.removesuffix("s")).append("more")
    with pytest.raises(ModelCorrupt, match=rf"{operator} .*; it has . {kind}, supported are the first . *"):
        check_contents(model.SerializeToString())


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_long_text_is_read_to_its_end(operator: str) -> None:
    session = Session.load(counting(operator), rows=TABLE[operator].rows, deadline=None)
    assert all(map(sum, map(dict.values, tokens(session, "late " * 2000))))


def test_without_the_package_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extensions, "path", lambda: "")
    with pytest.raises(
        ModelCorrupt, match=r"GPT2Tokenizer .*; the package onnxruntime-extensions computes it: pip install 'penstock\[extensions\]'"
    ):
        check_contents(maker.made())


def test_library_is_found_without_importing_it() -> None:
    assert Path(extensions.path()).is_file()


def test_sealed_file_runs_as_its_bytes_do() -> None:
    data = counting("GPT2Tokenizer")
    with Sealed(BytesIO(data), limit=len(data)) as sealed:
        session = Session.load_file(sealed.path, label="tokens")
    assert tokens(session, "late on time") == tokens(Session.load(data), "late on time")


@pytest.mark.parametrize("at", [0, 5, (1 << 20) - 7, 1 << 20, (1 << 21) + 3])
def test_name_of_the_domain_is_found_anywhere(at: int, tmp_path: Path) -> None:
    """A file is searched in pieces, and the name may lie across two."""
    data = b"x" * at + DOMAIN.encode() + b"y" * 100
    (tmp_path / "model").write_bytes(data)
    assert extensions.needed(data)
    assert extensions.needed(str(tmp_path / "model"))
    (tmp_path / "model").write_bytes(data.replace(b"contrib", b"control"))
    assert not extensions.needed(str(tmp_path / "model"))


def test_wrong_number_of_rows_is_an_error_and_not_the_end() -> None:
    """BertTokenizer takes one text, or a pair."""
    model = onnx.ModelProto.FromString(counting("BertTokenizer"))
    for one in (*model.graph.input, *model.graph.output):
        one.type.tensor_type.shape.dim[0].dim_param = "N"
    session = Session.load(model.SerializeToString())
    with pytest.raises(InferenceError, match="only support one or two query"):
        session.run(["counts"], {"text": np.array(["late"] * 3, object)})


def test_fixture_is_what_its_script_makes_and_serves(tmp_path: Path) -> None:
    data = maker.FILE.read_bytes()
    assert data == maker.made()
    artifact = DirectoryRegistry(tmp_path).publish("reviews", data)
    session = Session.load(artifact)
    (score,) = session.run(["score"], {"text": np.array(["good, not bad", "a good good flight", ""], object)})
    assert score.ravel().tolist() == [0.0, 2.0, 0.0]
