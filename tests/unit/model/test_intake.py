"""What a push changes in a file so that it can serve; and what it does not read, whatever the file asks for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from penstock.batch import Array
from penstock.errors import ConfigError, ModelCorrupt, ModelMismatch
from penstock.model.intake import take_in
from penstock.model.quarantine import Findings, quarantine
from penstock.model.session import Session
from penstock.testing import models

CASES: Final = Path(__file__).parent.parent.parent / "cases"
X: Final = np.array([[0.25, -1.5], [3.0, 2.0]], np.float32)


def proto(data: bytes) -> onnx.ModelProto:
    made: onnx.ModelProto = onnx.ModelProto.FromString(data)
    return made


def run(data: bytes, x: Array = X) -> list[Array]:
    """The outputs for the model's one input."""
    session = Session.load(data)
    return session.run([tensor.name for tensor in session.signature.outputs], {session.signature.inputs[0].name: x})


@pytest.mark.parametrize("data", [models.linear([1, 2]), models.join_text(), models.sum_over_rows(), models.crashing(5)])
def test_a_file_that_needs_no_change_stays_as_it_is(data: bytes) -> None:
    assert take_in(data) == (taken := take_in(data))
    assert (taken.data, taken.changes) == (data, ())


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, b'{"records": []}'])
def test_what_is_no_onnx_file_is_refused(data: bytes) -> None:
    if data:
        with pytest.raises(ModelCorrupt, match="not an ONNX file"):
            take_in(data)
    else:  # an empty file is an empty message
        assert take_in(data).changes == ()


# --- outputs ----------------------------------------------------------------------------------------------------------------------------


def forked() -> bytes:
    """`sum` and `both` need `up`, which is in a branch too; `chance` needs a weight of its own, and draws random numbers."""
    inner = helper.make_graph(
        [helper.make_node("Add", ["up", "up"], ["twice"])], "inner", [], [helper.make_tensor_value_info("twice", TensorProto.FLOAT, None)]
    )
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["up"]),
        helper.make_node("If", ["true"], ["both"], then_branch=inner, else_branch=inner),
        helper.make_node("RandomUniformLike", ["x"], ["noise"]),
        helper.make_node("Mul", ["noise", "unused"], ["chance"]),
    ]
    values = {"two": np.float32(2), "true": np.array(True), "unused": np.ones(2, np.float32)}
    return models.model(
        nodes, [models.tensor("x", shape=(2,))], [models.tensor("chance", shape=(2,)), models.tensor("both", shape=(2,))], values
    )


def test_outputs_that_are_not_wanted_go_with_what_only_they_need() -> None:
    taken = take_in(forked(), outputs=["both"])
    assert taken.changes == ("left out the output 'chance'",)
    graph = proto(taken.data).graph
    assert [node.op_type for node in graph.node] == ["Mul", "If"]
    assert [one.name for one in graph.initializer] == ["two", "true"]
    assert run(taken.data)[0].tolist() == (4 * X).tolist()


def test_outputs_are_named_with_commas_or_one_by_one() -> None:
    for names in (["chance,both"], ["chance", "both"], [" both , chance"]):
        assert take_in(forked(), outputs=names).changes == ()
    with pytest.raises(ConfigError, match="--outputs: the model has no output 'bot'; it has 'chance', 'both'"):
        take_in(forked(), outputs=["bot"])


def test_a_comma_in_the_name_of_an_output_separates_nothing() -> None:
    model = proto(models.identity())
    model.graph.output.append(models.tensor("a,b"))
    model.graph.node.append(helper.make_node("Neg", ["x"], ["a,b"]))
    taken = take_in(model.SerializeToString(), outputs=["a,b"])
    assert [one.name for one in proto(taken.data).graph.output] == ["a,b"]


def test_a_sequence_is_left_out_when_another_output_is_usable() -> None:
    data = (CASES / "extra-output-sequence.onnx").read_bytes()
    with pytest.raises(ModelMismatch, match="output 'probabilities' is a seq"):
        Session.load(data)
    taken = take_in(data)
    assert taken.changes == ("left out the output 'probabilities', which is a sequence, not a tensor of a batch",)
    (labels,) = run(taken.data, np.zeros((3, 4), np.float32))
    assert labels.shape == (3, 2)


def test_a_model_with_nothing_but_a_sequence_is_refused_by_its_output() -> None:
    data = (CASES / "extra-output-sequence.onnx").read_bytes()
    taken = take_in(data, outputs=["probabilities"])
    with pytest.raises(ModelMismatch, match="output 'probabilities' is a seq"):
        Session.load(taken.data)


def test_an_element_type_of_no_event_is_left_out() -> None:
    model = proto(models.identity())
    model.graph.node.append(helper.make_node("Cast", ["x"], ["small"], to=TensorProto.FLOAT8E4M3FN))
    model.graph.output.append(helper.make_tensor_value_info("small", TensorProto.FLOAT8E4M3FN, ["N", 1]))
    taken = take_in(model.SerializeToString())
    assert taken.changes == ("left out the output 'small', which is a tensor of float8e4m3fn, not a tensor of a batch",)
    assert run(taken.data, X[:, :1])[0].tolist() == X[:, :1].tolist()


def test_dictionaries_of_probabilities_become_an_array_in_the_order_of_the_classes() -> None:
    with pytest.raises(ModelMismatch, match="convert without ZipMap"):
        Session.load(models.zip_map())
    taken = take_in(models.zip_map())
    (change,) = taken.changes
    assert "output 'y' is one array instead of dictionaries (ZipMap), with the classes in the order 0, 1;" in change
    assert "options={'zipmap': False}" in change
    assert Session.load(taken.data).signature.outputs[0].shape == (2,)
    assert run(taken.data)[0].tolist() == X.tolist()


def test_dictionaries_become_an_array_also_where_no_standard_operator_was() -> None:
    """CatBoost's files import no standard opset."""
    model = proto(models.zip_map())
    kept = [opset for opset in model.opset_import if opset.domain == "ai.onnx.ml"]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    taken = take_in(model.SerializeToString())
    assert quarantine(taken.data) == Findings(())
    assert run(taken.data)[0].tolist() == X.tolist()


# --- half precision ---------------------------------------------------------------------------------------------------------------------


def halves(kind: int) -> bytes:
    """y = x * w + x, with an output that is an input's name twice removed, and a subgraph that reads the input."""
    branch = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["scaled"])], "branch", [], [helper.make_tensor_value_info("scaled", kind, None)]
    )
    nodes = [
        helper.make_node("If", ["true"], ["product"], then_branch=branch, else_branch=branch),
        helper.make_node("Cast", ["product"], ["same"], to=kind),
        helper.make_node("Add", ["same", "x"], ["y"]),
        helper.make_node("Neg", ["y"], ["z"]),
    ]
    x, y, z = (helper.make_tensor_value_info(name, kind, ["N", 2]) for name in "xyz")
    weights = [helper.make_tensor("w", kind, [2], [1.5, 0.1]), numpy_helper.from_array(np.array(True), "true")]
    graph = helper.make_graph(nodes, "halves", [x], [y, z], weights, value_info=[helper.make_tensor_value_info("y", kind, ["N", 2])])
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString())


def test_float16_is_cast_at_the_edge() -> None:
    data = halves(TensorProto.FLOAT16)
    with pytest.raises(ModelMismatch, match=r"input 'x' is a tensor\(float16\).*penstock model push"):
        Session.load(data)
    taken = take_in(data)
    assert taken.changes == ("takes and returns float32 where it was float16 ('x', 'y', 'z'), and casts at the edge",)
    signature = Session.load(taken.data).signature
    assert [str(one) for one in (*signature.inputs, *signature.outputs)] == ["x: float32[N, 2]", "y: float32[N, 2]", "z: float32[N, 2]"]
    half = X.astype(np.float16)
    y, z = run(taken.data)
    expected = half * np.array([1.5, 0.1], np.float16) + half
    assert y.dtype == np.float32
    assert np.allclose(y, expected.astype(np.float32), rtol=1e-3)
    assert z.tolist() == (-y).tolist()


def test_an_input_that_is_an_output_too_is_cast_once() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["N", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["N", 2])
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "through", [x], [y, x])
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()
    y_found, x_found = run(take_in(data).data)
    assert (x_found.tolist(), y_found.tolist()) == (X.tolist(), (-X).tolist())


@pytest.mark.parametrize("raw", [True, False])
def test_bfloat16_is_computed_in_float32_with_the_same_weights(raw: bool) -> None:
    model = proto(halves(TensorProto.BFLOAT16))
    weight = model.graph.initializer[0]
    bits = np.array([0x3FC0, 0x3DCD], np.uint16)  # 1.5, and what bfloat16 has for 0.1
    for name in ("raw_data", "int32_data"):
        weight.ClearField(name)
    if raw:
        weight.raw_data = bits.tobytes()
    else:
        weight.int32_data.extend(bits.tolist())
    taken = take_in(model.SerializeToString())
    (change,) = taken.changes
    assert change.startswith("computes in float32 where it was bfloat16")
    y, _ = run(taken.data)
    tenth = np.uint32(0x3DCD0000).view(np.float32)
    assert y.tolist() == (X * np.array([1.5, tenth], np.float32) + X).tolist()


# --- tensors beside the model -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A model whose weights are in `net.onnx.data`, as torch.onnx.export writes them; `secret` lies in the same folder and above it."""
    model = proto(models.linear([1, 2], 0.5))
    convert_model_to_external_data(model, location="net.onnx.data", size_threshold=0)
    folder = tmp_path / "export"
    folder.mkdir()
    for place in (tmp_path, folder):
        (place / "secret").write_bytes(bytes(64))
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


def test_weights_beside_the_model_are_merged_into_it(beside: Path) -> None:
    data = beside.read_bytes()
    with pytest.raises(ModelCorrupt, match="in another file"):
        Session.load(data)
    with pytest.raises(ModelCorrupt, match="in another file"):
        Session.load(take_in(data).data)  # without a place to look
    taken = take_in(data, file=beside)
    assert taken.changes == ("merged 2 tensors (12 bytes) of net.onnx.data into the model",)
    assert run(taken.data)[0].tolist() == (X @ np.array([[1], [2]], np.float32) + 0.5).tolist()


Change = Callable[[Path, onnx.TensorProto], Any]


def located(location: str) -> Change:
    def change(_: Path, tensor: onnx.TensorProto) -> None:
        next(one for one in tensor.external_data if one.key == "location").value = location

    return change


def entry(key: str, value: str) -> Change:
    def change(_: Path, tensor: onnx.TensorProto) -> None:
        kept = [(one.key, one.value) for one in tensor.external_data if one.key != key]
        tensor.ClearField("external_data")
        for name, text in [*kept, (key, value)]:
            tensor.external_data.add(key=name, value=text)

    return change


def replaced(make: Callable[[Path], Any]) -> Change:
    def change(file: Path, _: onnx.TensorProto) -> None:
        file.unlink()
        make(file)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (located("secret"), "only a file in the same folder whose name begins with 'net' is merged"),
        (located("../secret"), "only a file in the same folder"),
        (located("net.onnx.data/../secret"), "only a file in the same folder"),
        (located("net.onnx/../secret"), "only a file in the same folder"),
        (located("/etc/passwd"), "only a file in the same folder"),
        (located("net.\\..\\secret"), "only a file in the same folder"),
        (located("*/_ORT_MEM_ADDR_/*"), "only a file in the same folder"),
        (located(""), "only a file in the same folder"),
        (located("net.onnx"), "only a file in the same folder"),
        (located("net.onnx.other"), "cannot be read: No such file or directory; put it beside the model"),
        (entry("offset", "-4"), "at offset '-4' with length '8', which are not numbers"),
        (entry("length", "0x8"), "which are not numbers"),
        (entry("offset", "999"), "at bytes 999 to 1,007, but the file has"),
        (entry("length", str(10**9)), "it is truncated, or of another model"),
        (entry("basepath", "/"), "with the unknown entry 'basepath'"),
        (replaced(lambda file: file.symlink_to("../secret")), "it is a symbolic link"),
        (replaced(os.mkfifo), "it is a named pipe"),
        (replaced(Path.mkdir), "it is a folder"),
        (replaced(lambda file: file.write_bytes(b"")), "it is truncated"),
    ],
)  # fmt: skip
def test_nothing_else_is_read_whatever_the_file_asks_for(beside: Path, change: Change, said: str) -> None:
    model = proto(beside.read_bytes())
    change(beside.parent / "net.onnx.data", model.graph.initializer[0])
    with pytest.raises(ModelCorrupt) as caught:
        take_in(model.SerializeToString(), file=beside)
    assert said in str(caught.value)


def test_weights_beside_the_model_count_for_its_size(beside: Path) -> None:
    """Also when many tensors are the same bytes of one file."""
    model = proto(beside.read_bytes())
    for number in range(100):
        copy = model.graph.initializer.add()
        copy.CopyFrom(model.graph.initializer[0])
        copy.name = f"copy{number}"
    data = model.SerializeToString()
    take_in(data, file=beside, max_bytes=len(data) + 100 * 8 + 12)
    with pytest.raises(ModelCorrupt, match="with the tensors beside it, which is the limit"):
        take_in(data, file=beside, max_bytes=len(data) + 100 * 8)
    (beside.parent / "net.onnx.data").write_bytes(bytes(1000))
    with pytest.raises(ModelCorrupt, match="it has more than 812 bytes"):
        take_in(data, file=beside, max_bytes=len(data) + 812)


def test_files_beside_the_model_are_read_up_to_the_limit_together(beside: Path) -> None:
    model = proto(beside.read_bytes())
    located("net.onnx.more")(beside, model.graph.initializer[0])
    (beside.parent / "net.onnx.more").write_bytes(bytes(600))
    (beside.parent / "net.onnx.data").write_bytes(bytes(600))
    data = model.SerializeToString()
    take_in(data, file=beside, max_bytes=len(data) + 1200)
    with pytest.raises(ModelCorrupt, match="it has more than 599 bytes"):
        take_in(data, file=beside, max_bytes=len(data) + 1199)


def test_a_name_that_is_not_utf_8_is_refused(beside: Path) -> None:
    with pytest.raises(ModelCorrupt, match="not UTF-8"):
        take_in(beside.read_bytes().replace(b"net.onnx.data", b"net.onnx.dat\xff"), file=beside)


def test_bfloat16_beside_the_model_is_merged_and_computed(tmp_path: Path) -> None:
    model = proto(halves(TensorProto.BFLOAT16))
    model.graph.initializer[0].raw_data = np.array([0x3FC0, 0x3DCD], np.uint16).tobytes()
    model.graph.initializer[0].ClearField("int32_data")
    convert_model_to_external_data(model, location="m.onnx.data", size_threshold=0)
    onnx.save(model, tmp_path / "m.onnx")
    taken = take_in((tmp_path / "m.onnx").read_bytes(), file=tmp_path / "m.onnx")
    assert len(taken.changes) == 2
    assert run(taken.data)[0][:, 0].tolist() == (X[:, 0] * 1.5 + X[:, 0]).tolist()


# --- text -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("named", "changed"), [(None, True), ("en_US.UTF-8", True), ("C", False)])
def test_case_of_text_follows_unicode_unless_the_model_names_another_locale(named: str | None, changed: bool) -> None:
    node = helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER", **({"locale": named} if named else {}))
    graph = helper.make_graph([node], "lower", [models.tensor("x", "string", ())], [models.tensor("y", "string", ())])
    data = bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString())
    taken = take_in(data)
    assert bool(taken.changes) == changed
    (found,) = run(taken.data, np.array(["ÄRGER", "Été", "ok"], dtype=object))
    assert found.tolist() == (["ärger", "été", "ok"] if changed else ["Ärger", "Été", "ok"])
