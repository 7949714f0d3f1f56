"""Files of models that are not ONNX, recognised by their first bytes, and how each becomes ONNX. Nothing is unpickled or unpacked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from penstock.errors import ModelCorrupt

__all__ = ["FORMATS", "check_foreign", "check_place"]

_SKL: Final = "load it in Python and convert it: skl2onnx.to_onnx(model, X[:1], options={'zipmap': False})"
_TORCH: Final = (
    "load it in Python and export the module: "
    "torch.onnx.export(module, (example,), 'model.onnx', dynamic_shapes=({0: torch.export.Dim('N')},))"
)
_KERAS: Final = "load it in Python and export it: model.export('model.onnx', format='onnx'), or tf2onnx"
_TREES: Final = "load it in Python and convert it with onnxmltools.convert_{0}(model, initial_types=[('x', FloatTensorType([None, k]))])"
_XGBOOST: Final = _TREES.format("xgboost")
_LIGHTGBM: Final = _TREES.format("lightgbm") + "; classifiers with zipmap=False"
_SAVED: Final = "convert it: python -m tf2onnx.convert --saved-model FOLDER --output model.onnx"


class Format(NamedTuple):
    """A kind of file: how it begins, what else it contains (for containers), and how it becomes ONNX."""

    name: str
    begins: re.Pattern[bytes]
    contains: bytes
    advice: str


def _format(name: str, begins: bytes, advice: str, contains: bytes = b"") -> Format:
    return Format(name, re.compile(begins, re.DOTALL), contains, advice)


# The first that fits is taken, so what contains something comes before the container alone.
FORMATS: Final = (
    _format("a pickle of LightGBM", rb"\x80[\x02-\x05]", _LIGHTGBM, b"lightgbm."),
    _format("a pickle of XGBoost", rb"\x80[\x02-\x05]", _XGBOOST, b"xgboost."),
    _format(
        "a pickle of CatBoost",
        rb"\x80[\x02-\x05]",
        "load it in Python and save it: model.save_model('model.onnx', format='onnx')",
        b"catboost",
    ),
    _format("a pickle of PyTorch", rb"\x80[\x02-\x05]", _TORCH, b"torch."),
    _format("a pickle (joblib writes them too), which may run any code", rb"\x80[\x02-\x05]", _SKL),
    _format(
        "compressed, as joblib writes pickles",
        rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]|BZh[1-9]|\xfd7zXZ\x00|\x5d\x00\x00|\x04\x22\x4d\x18",
        _SKL,
    ),
    _format("a Keras model", rb"PK\x03\x04", _KERAS, b"model.weights.h5"),
    _format("a PyTorch file (.pt, .pth or .pt2)", rb"PK\x03\x04", _TORCH, b"data.pkl"),
    _format("a PyTorch program (.pt2)", rb"PK\x03\x04", "torch.onnx.export(torch.export.load(path), f='model.onnx')", b"archive_format"),
    _format("a skops file of scikit-learn", rb"PK\x03\x04", _SKL, b"schema.json"),
    _format("a zip file", rb"PK\x03\x04", "unpack it, and push the .onnx file in it"),
    _format("an HDF5 file, as Keras writes them", rb"\x89HDF\r\n\x1a\n", _KERAS),
    _format(
        "a safetensors file: weights without a computation",
        rb".{8}\s*\{\s*\"",
        "load the weights into their module and export that: torch.onnx.export",
    ),
    _format("an XGBoost model", rb"\{\s*\"(learner|version)\"|\{L.{8}(learner|version)|binf", _XGBOOST),
    _format("a LightGBM model", rb"tree\r?\nversion=", _LIGHTGBM),
    _format("a CatBoost model", rb"CBM1", "load it in Python and save it: model.save_model('model.onnx', format='onnx')"),
    _format("a TensorFlow Lite model", rb".{4}TFL3", "convert it: python -m tf2onnx.convert --tflite FILE --output model.onnx"),
    _format("an ORT format model", rb".{4}ORTM", "push the .onnx file that it was made of"),
    _format("a GGUF file of a language model", rb"GGUF", "a stream of rows is no conversation; push a model that gives one answer per row"),
    _format("PMML", rb"\s*<\?xml.{0,400}?<PMML|\s*<PMML", "convert the model that it was made of: skl2onnx or onnxmltools"),
    _format("a pointer of Git LFS, not the file itself", rb"version https://git-lfs", "fetch the file: git lfs pull"),
    _format("a web page", rb"\s*(<!DOCTYPE html|<!doctype html|<html)", "download the file itself"),
)


def check_foreign(data: bytes, label: str) -> None:
    """Raises ModelCorrupt that says what the file is and how it becomes ONNX, when its first bytes are those of another format."""
    found = next((one for one in FORMATS if one.begins.match(data) and one.contains in data), None)
    if found is not None:
        raise ModelCorrupt(f"{label} is {found.name}, not an ONNX file; {found.advice}")


def check_place(path: Path) -> None:
    """Raises ModelCorrupt for a folder, with the same advice."""
    if not path.is_dir():
        return
    if (path / "saved_model.pb").exists():
        raise ModelCorrupt(f"{path} is a TensorFlow SavedModel, not an ONNX file; {_SAVED.replace('FOLDER', str(path))}")
    inside = sorted(path.glob("*.onnx"))[:1]
    raise ModelCorrupt(
        f"{path} is a folder, not an ONNX file; push the .onnx file" + (f" in it: {inside[0]}" if inside else " of the model")
    )
