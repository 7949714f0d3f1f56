"""Handwritten digits (1,797 images of scikit-learn): trains a network, and writes model.onnx, golden.json and events.ndjson."""

import json
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

digits = load_digits()
seen, new, answers, truth = train_test_split(digits.data.astype(np.float32), digits.target, test_size=0.2, random_state=0)
model = make_pipeline(StandardScaler(), MLPClassifier((64,), max_iter=400, random_state=0)).fit(seen, answers)
print(f"accuracy on {len(new)} images that it has not seen: {model.score(new, truth):.3f}")

Path("model.onnx").write_bytes(to_onnx(model, seen[:1], options={"zipmap": False}).SerializeToString())
rows = new[:20]
records = [
    {"inputs": {"X": row.tolist()}, "outputs": {"label": int(label), "probabilities": answer.tolist()}}
    for row, label, answer in zip(rows, model.predict(rows), model.predict_proba(rows), strict=True)
]
Path("golden.json").write_text(json.dumps({"records": records}))
events = ({"id": number, "image": image.reshape(8, 8).tolist()} for number, image in enumerate(new))
Path("events.ndjson").write_text("".join(json.dumps(event) + "\n" for event in events))
