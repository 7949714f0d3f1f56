"""One record explained: a prediction traced back to its input and its models, made once more, and held against what was published.

1. read       the record at the position; its headers say where it came from (`provenance`)
2. bind       the exact versions: what the control log binds for the generation, by digest, where there is a log; else what the
              headers name. Headers that contradict the log are a bug or a forgery, and end it (`bound`)
3. input      the record that the prediction was made of, from where the headers say
4. run again  that event alone through the same pipeline and the same plan, each model watched (`rerun`)
5. compare    key and fields, as published and as they come out again (`comparison`)

A dead letter holds its input itself, and is run through what is in force today: it says whether it would still fail. Nothing is
written to any topic. Models come the way a worker takes them, and are held to the same digests, golden records and signatures.
"""

from penstock.explain.bound import Bound
from penstock.explain.comparison import ABSENT, Compared, Verdict
from penstock.explain.explanation import Comparison, Explanation, explain
from penstock.explain.provenance import DeadLetter
from penstock.explain.rerun import Output, Rerun

__all__ = ["ABSENT", "Bound", "Compared", "Comparison", "DeadLetter", "Explanation", "Output", "Rerun", "Verdict", "explain"]
