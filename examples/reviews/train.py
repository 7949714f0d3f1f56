"""Reviews of films, made of a few words: trains a classifier of texts, and writes model.onnx, golden.json and events.ndjson."""

import json
import random
from pathlib import Path

from skl2onnx import to_onnx
from skl2onnx.common.data_types import StringTensorType
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

GOOD = ["fine acting", "a fine story", "well told", "funny and warm", "I laughed", "a great cast"]
BAD = ["dull", "far too long", "badly acted", "a weak story", "I fell asleep", "badly told"]

chance = random.Random(0)


def review(words: list[str]) -> str:
    return ", ".join(chance.sample(words, 2)).capitalize()


labels = [number % 2 for number in range(200)]
texts = [review(GOOD if label else BAD) for label in labels]
model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts[:150], labels[:150])
print(f"accuracy on {len(texts[150:])} reviews that it has not seen: {model.score(texts[150:], labels[150:]):.3f}")

onnx = to_onnx(model, initial_types=[("text", StringTensorType([None, 1]))], options={"zipmap": False})
Path("model.onnx").write_bytes(onnx.SerializeToString())
records = [
    {"inputs": {"text": [text]}, "outputs": {"probabilities": answer.tolist()}}
    for text, answer in zip(texts[:20], model.predict_proba(texts[:20]), strict=True)
]
Path("golden.json").write_text(json.dumps({"records": records}))
events = [
    {"specversion": "1.0", "id": f"r{number}", "source": "/films", "type": "review", "time": "2026-11-29T08:00:00Z", "data": {"text": text}}
    for number, text in enumerate(texts[150:])
]
Path("events.ndjson").write_text("".join(json.dumps(event) + "\n" for event in events))
