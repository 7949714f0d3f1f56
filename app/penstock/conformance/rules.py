"""What a server of the Open Inference Protocol v2 does: one row per rule, and the findings about one server.

A rule is a *must* of the protocol (https://github.com/kserve/open-inference-protocol), or a *should*: one of its extensions (binary
tensors, statistics, the repository's index), or what clients expect where the protocol leaves it open. A server states its
extensions in its metadata; one that it neither states nor has is absent, which is no fault. A rule is skipped where the model refuses the
tensors that its metadata allow: it wants particular values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

__all__ = ["RULES", "Finding", "Findings", "Level", "Protocol", "State"]

Level = Literal["must", "should"]
Protocol = Literal["rest", "grpc"]
State = Literal["passed", "failed", "absent", "skipped"]


class Rule(NamedTuple):
    """What a server must or should do."""

    level: Level
    text: str


RULES: Final[Mapping[str, Rule]] = {
    "server-live": Rule("must", "A live server answers that it is live, before and after all other requests."),
    "server-ready": Rule("must", "A ready server answers that it is ready."),
    "health-body": Rule("should", "The bodies of health answers, where there are any, agree with their status."),
    "server-metadata": Rule("must", "The server's metadata have its name, version and extensions, as text."),
    "model-ready": Rule("must", "A loaded model is ready."),
    "model-metadata": Rule("must", "A model's metadata have its name and platform, and name, datatype and shape of each tensor."),
    "infer": Rule("must", "A valid request is answered."),
    "infer-nested": Rule("must", "Data in JSON may be nested as the shape is; the answer is that of flat data."),
    "infer-answer": Rule("must", "An answer names its model; each output has name, datatype, shape, and as many values as the shape."),
    "infer-metadata": Rule("must", "The outputs of an answer are those of the model's metadata, with their datatypes and shapes."),
    "infer-same": Rule("must", "The same tensors get the same answer, in every form, version and protocol that is offered."),
    "infer-contents": Rule("must", "Tensors of a message may be in the typed contents of their datatype."),
    "infer-raw": Rule("must", "Tensors of a message may be in raw_input_contents, little-endian, in the order of the inputs."),
    "id-returned": Rule("must", "The id of a request is returned in its answer."),
    "parameters-allowed": Rule("must", "A request, and each of its inputs and outputs, may have empty parameters."),
    "outputs-chosen": Rule("must", "A request that names outputs gets these, and no others."),
    "versions-served": Rule("must", "Each version in a model's metadata is served under its name."),
    "unknown-model": Rule("must", "A request for a model that is not there is an error."),
    "unknown-version": Rule("must", "A request for a version that is not there is an error."),
    "unknown-input": Rule("should", "A tensor that the model does not have is an error."),
    "missing-input": Rule("must", "A request without one of the model's tensors is an error."),
    "unknown-output": Rule("must", "An output that the model does not have is an error."),
    "wrong-datatype": Rule("must", "A tensor of another datatype than the model's is an error."),
    "wrong-shape": Rule("must", "A tensor of another shape than the model's is an error."),
    "too-few-values": Rule("must", "A tensor with fewer values than its shape has is an error."),
    "too-many-values": Rule("must", "A tensor with more values than its shape has is an error."),
    "negative-shape": Rule("should", "A shape with a negative number is an error."),
    "no-json": Rule("must", "A body that is not JSON is an error."),
    "no-object": Rule("must", "A body in JSON that is no request is an error."),
    "raw-and-contents": Rule("should", "Tensors in raw_input_contents and in typed contents at once are an error."),
    "error-body": Rule("must", 'The body of an error is JSON, and its "error" is text.'),
    "error-code": Rule("should", "A fault of the caller gets 400 or INVALID_ARGUMENT; for what is not there 404 or NOT_FOUND."),
    "json-type": Rule("should", "Answers in JSON have the content type application/json."),
    "binary-input": Rule("should", "Extension binary_tensor_data: inputs may be bytes behind the JSON."),
    "binary-mixed": Rule("should", "Extension binary_tensor_data: some inputs may be bytes, and others JSON."),
    "binary-output": Rule("should", "Extension binary_tensor_data: an output with binary_data comes as bytes behind the JSON."),
    "binary-data-output": Rule("should", "Extension binary_tensor_data: with binary_data_output, all outputs come as bytes."),
    "binary-length": Rule("should", "Extension binary_tensor_data: an Inference-Header-Content-Length beyond the body is an error."),
    "binary-size": Rule("should", "Extension binary_tensor_data: binary_data_size that differs from the tensor's bytes is an error."),
    "repository-index": Rule("should", "Extension model_repository: the index lists the models with name and state."),
    "statistics": Rule("should", "Extension statistics: a model's statistics count its inferences, and the count grows."),
}  # fmt: skip


_SEEN: Final = 1000  # characters of what was seen: names that a server sends can have megabytes


class Finding(NamedTuple):
    """What became of a rule, for a model ("" for the server) over a protocol. `seen` is what was seen where it failed."""

    rule: str
    protocol: Protocol
    model: str
    state: State
    seen: str = ""

    @property
    def level(self) -> Level:
        return RULES[self.rule].level

    @property
    def text(self) -> str:
        return RULES[self.rule].text


@dataclass(slots=True)
class Findings:
    """Collects what is seen. A rule that was checked several times has failed when one check has."""

    found: dict[tuple[Protocol, str, str], Finding] = field(default_factory=dict)

    def note(self, rule: str, protocol: Protocol, model: str, held: bool, seen: str = "", *, state: State = "failed") -> bool:
        """Notes whether the rule held; of the checks that it did not, the first is kept, with `state`. Returns `held`."""
        key = protocol, model, rule
        before = self.found.get(key)
        if before is None or (before.state == "passed" and not held):
            self.found[key] = Finding(rule, protocol, model, "passed" if held else state, "" if held else seen[:_SEEN])
        return held

    def __iter__(self) -> Iterator[Finding]:
        """Yields the findings by protocol and model, in the order of the table."""
        order = {name: at for at, name in enumerate(RULES)}
        places = {key[:2]: at for at, key in enumerate(dict.fromkeys(key[:2] for key in self.found))}
        yield from sorted(self.found.values(), key=lambda one: (places[one.protocol, one.model], order[one.rule]))

    def failed(self, level: Level) -> list[Finding]:
        """Returns the rules of this level that do not hold."""
        return [one for one in self if one.state == "failed" and one.level == level]

    def skipped(self) -> list[Finding]:
        """Returns the rules that could not be checked: nothing is known of them, and of those behind them."""
        return [one for one in self if one.state == "skipped"]
