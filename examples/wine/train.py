"""Wines of three grapes (178, of scikit-learn): trains a regression, and writes model.onnx, golden.json and events.ndjson."""

import json
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

NAMES = ["alcohol", "flavanoids", "color_intensity", "od280/od315_of_diluted_wines", "proline"]

wine = load_wine()
columns = [wine.feature_names.index(name) for name in NAMES]
seen, new, answers, truth = train_test_split(wine.data[:, columns].astype(np.float32), wine.target, test_size=0.3, random_state=0)
model = make_pipeline(StandardScaler(), LogisticRegression()).fit(seen, answers)
print(f"accuracy on {len(new)} wines that it has not seen: {model.score(new, truth):.3f}")

Path("model.onnx").write_bytes(to_onnx(model, seen[:1], options={"zipmap": False}).SerializeToString())
records = [
    {"inputs": {"X": row.tolist()}, "outputs": {"label": int(label), "probabilities": answer.tolist()}}
    for row, label, answer in zip(new[:20], model.predict(new[:20]), model.predict_proba(new[:20]), strict=True)
]
Path("golden.json").write_text(json.dumps({"records": records}))

changes = []
for number, values in enumerate(new):
    row = {"id": number, **dict(zip(NAMES, map(float, values), strict=True))}
    changes.append({"op": "c", "before": None, "after": row})
    if number % 10 == 0:
        changes.append({"op": "d", "before": row, "after": None})
Path("events.ndjson").write_text("".join(json.dumps(change) + "\n" for change in changes))
