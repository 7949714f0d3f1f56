"""One record explained: a prediction traced back to its input and its models, made once more, and compared with what was published.

1. read       the record at the position; its headers name its origin (`provenance`)
2. bind       the exact versions: what the control log binds for the generation, by digest, where there is a log; else what the
              headers name. Headers that contradict the log are a bug or a forgery, and are an error (`bound`)
3. input      the record that the prediction was made from, at the position in the headers
4. run again  that event alone through the same pipeline and the same plan, each model watched (`rerun`)
5. compare    key and fields, as published and as computed again (`comparison`)

A dead letter contains its input. It is run through the versions that failed on it, or with `now` through what is active today, which
shows whether it would still fail. Nothing is written to any topic. Models are fetched as a worker fetches them, and pass the same
digests, golden records and signatures.
"""

from penstock.explain.bound import Bound
from penstock.explain.comparison import ABSENT, Compared, Verdict
from penstock.explain.explanation import Comparison, Explanation, explain
from penstock.explain.provenance import DeadLetter
from penstock.explain.rerun import Output, Rerun

__all__ = ["ABSENT", "Bound", "Compared", "Comparison", "DeadLetter", "Explanation", "Output", "Rerun", "Verdict", "explain"]
