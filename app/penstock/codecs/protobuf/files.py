"""Reads a Protobuf schema into a Schema: the text of a `.proto` file by protoc, or the set of descriptors that a compiler has made.

1. A file with one message is the schema of that one; of several, the name says which: `shop.proto#Order`.
2. Imports are found beside the file and in the folders above it, google's own ones with protoc.
3. protoc runs as a child: it writes errors to the terminal, and a text that a registry has given may be hostile.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import importlib
import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError as Malformed

from penstock.codecs.protobuf.fields import fields_of
from penstock.codecs.schema import read_file
from penstock.errors import Problem, SchemaError
from penstock.schema import Schema

__all__ = [
    "GOOGLE",
    "Message",
    "as_text",
    "check_protoc",
    "compiled",
    "is_text",
    "load_messages",
    "load_protobuf",
    "messages_in",
    "pool_of",
    "read_set",
]

GOOGLE: Final = "google/protobuf/"  # what every compiler and registry knows

_PROTOC_S: Final = 30.0
_LISTED: Final = 10
_PLACE: Final = re.compile(r"(?P<file>[^:]+):(?P<line>[0-9]+):(?P<column>[0-9]+): (?P<message>.*)")
_NOISE: Final = re.compile(r"WARNING: All log messages before absl|[IW][0-9]{4} |.*: warning: ")  # on protoc's errors
_OWN: Final = re.compile(r"google/protobuf/([a-z_]+)\.proto")


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a schema, by its full name. `files` is a set of descriptors: imports first, the message's own file last.

    `texts` are the texts of that file ("") and of its imports, by the names in the imports; none where a compiler has made the set.
    """

    name: str
    files: bytes
    texts: Mapping[str, str] = field(default_factory=dict, compare=False)

    def descriptor(self) -> Any:
        """Returns the library's descriptor of the message."""
        return pool_of(self.files).FindMessageTypeByName(self.name)

    def sources(self) -> Iterator[tuple[str, str, list[str]]]:
        """Yields the files as a registry takes them, each after what it imports: name, text, imports. The own file has the name "".

        Google's files, which every registry knows, are not among them.
        """
        files = FileDescriptorSet.FromString(self.files).file
        for file in files:
            if not file.name.startswith(GOOGLE):
                name = "" if file is files[-1] else file.name
                yield name, self.texts.get(name) or as_text(file), [one for one in file.dependency if not one.startswith(GOOGLE)]

    def file(self) -> FileDescriptorProto:
        """Returns the descriptor of its file, without the name, which differs where the same file is kept twice."""
        found = FileDescriptorSet.FromString(self.files).file[-1]
        found.ClearField("name")
        return found


def load_protobuf(name: str) -> Schema:
    """Loads the schema `FILE`, or `FILE#MESSAGE`. Raises SchemaError with all problems of the file."""
    path, _, asked = name.partition("#")
    files = read_set(Path(path))
    full, own = _chosen(files, asked, path)
    return _schema(full, files, own, Path(path))


def load_messages(path: Path) -> list[Schema]:
    """Loads a schema of each message at the top of the file. Raises SchemaError, for a message that cannot be one too."""
    files = read_set(path)
    return [_schema(full, files, file, path) for full, file in _own(files)]


def read_set(path: Path) -> FileDescriptorSet:
    """Returns the descriptors in the file, or those that its text is compiled to. Raises SchemaError."""
    file = str(path)
    data = read_file(path, file)
    return _checked(_protoc(path, path.parents) if path.suffix == ".proto" else data, file)


def check_protoc(file: str) -> None:
    """Raises SchemaError, for the file that needs it, where protoc is not installed."""
    if importlib.util.find_spec("grpc_tools") is None:
        fix = "pip install 'penstock[protobuf]', or name a set of descriptors (*.binpb), as `buf build` and protoc write it"
        raise SchemaError(Problem(file, 0, 0, "Protobuf's text is read by protoc, which is not installed", fix))


def compiled(text: str, imports: Mapping[str, str]) -> bytes:
    """Returns the set of descriptors of a registered text, whose file comes last; `imports` are texts by the name in the import.

    A text may also be a descriptor in base64, as serializers for Python register it. Raises SchemaError.
    """
    main = "schema.proto"
    while main in imports:
        main = f"its-{main}"
    with tempfile.TemporaryDirectory(prefix="penstock-proto-") as folder:
        root = Path(folder).resolve() / "files"
        ready: dict[str, FileDescriptorProto] = {}
        for name, one in {**imports, main: text}.items():
            try:
                if (made := _descriptor(one)) is not None:
                    made.name = name
                    ready[name] = made
                    continue
                place = (root / name).resolve()
                if not place.is_relative_to(root) or place == root:
                    raise ValueError("it is outside")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(one, encoding="utf-8")
            except (OSError, ValueError):  # too long, not Unicode, with a NUL, both a file and a folder
                raise SchemaError(f"it imports {name!r}, which cannot name a file") from None
        if main in ready:
            return bytes(_complete(ready, main).SerializeToString())
        given = root.parent / "given.set"
        given.write_bytes(FileDescriptorSet(file=[_complete(ready, name).file[-1] for name in ready]).SerializeToString())
        return bytes(_checked(_protoc(root / main, [root], given), "the schema").SerializeToString())


def as_text(file: FileDescriptorProto) -> str:
    """Returns a descriptor in the form in which a registry takes it without its text."""
    return base64.b64encode(file.SerializeToString()).decode()


def is_text(text: str) -> bool:
    """Whether what a registry has is the text of a file, not a descriptor in base64."""
    return _descriptor(text) is None


def messages_in(file: FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yields the messages of a file, those inside others too, with their indexes in Confluent's sense: entries of maps do not count."""

    def walk(inside: Sequence[DescriptorProto], at: tuple[int, ...], space: str) -> Iterator[tuple[tuple[int, ...], str]]:
        for number, one in enumerate(message for message in inside if not message.options.map_entry):
            full = f"{space}.{one.name}" if space else one.name
            yield (*at, number), full
            yield from walk(one.nested_type, (*at, number), full)

    yield from walk(file.message_type, (), file.package)


@lru_cache(maxsize=256)
def pool_of(files: bytes) -> Any:
    """Returns a pool with the set's descriptors. Raises ValueError for one that is not complete, or not valid."""
    pool = DescriptorPool()
    try:
        for file in FileDescriptorSet.FromString(files).file:
            pool.AddSerializedFile(file.SerializeToString())
    except (TypeError, Malformed) as error:
        raise ValueError(str(error)) from None
    return pool


def _checked(data: bytes, file: str) -> FileDescriptorSet:
    try:
        files = FileDescriptorSet.FromString(data)
        pool_of(data)
    except (Malformed, ValueError) as error:
        fix = "write it with imports: `buf build -o FILE`, or protoc --include_imports --descriptor_set_out=FILE"
        raise SchemaError(Problem(file, 0, 0, f"not a set of descriptors: {error}", fix)) from None
    if not files.file:
        raise SchemaError(Problem(file, 0, 0, "no set of descriptors: it has no file", "check that it is a schema"))
    return files


def _protoc(main: Path, roots: Sequence[Path], given: Path | None = None) -> bytes:
    """Returns the set that the file compiles to. Raises SchemaError with protoc's problems; the file's name in them is that of `main`."""
    check_protoc(str(main))
    with tempfile.NamedTemporaryFile(prefix="penstock-proto-", suffix=".binpb") as out:
        paths = [f"--proto_path={root}" for root in roots] + ([f"--descriptor_set_in={given}"] if given else [])
        command = [sys.executable, "-I", "-m", "grpc_tools.protoc", *paths, "--include_imports", f"--descriptor_set_out={out.name}"]
        try:
            done = subprocess.run([*command, str(main)], capture_output=True, check=False, timeout=_PROTOC_S)
        except subprocess.TimeoutExpired:
            raise SchemaError(Problem(str(main), 0, 0, f"protoc has not read it within {_PROTOC_S:g} s", "use fewer types")) from None
        if not done.returncode:
            return Path(out.name).read_bytes()
    lines = done.stderr.decode(errors="replace").splitlines()
    problems = [_problem(line, main, roots) for line in lines if line.strip() and not _NOISE.match(line)]
    raise SchemaError(problems or [Problem(str(main), 0, 0, f"protoc ended with {done.returncode}", "check that it is a schema")])


def _problem(line: str, main: Path, roots: Sequence[Path]) -> Problem:
    fix = "put it beside this file, or where the import begins" if "not found" in line else ""
    if not (found := _PLACE.fullmatch(line)):
        return Problem(str(main), 0, 0, line, fix)
    file = next((root / found["file"] for root in roots if (root / found["file"]).is_file()), Path(found["file"]))
    return Problem(str(file), int(found["line"]), int(found["column"]), found["message"], fix)


def _complete(ready: Mapping[str, FileDescriptorProto], main: str) -> FileDescriptorSet:
    """Returns a descriptor after all that it imports."""
    made: dict[str, FileDescriptorProto] = {}

    def add(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise SchemaError(f"its imports go in a circle: {name}")
        if name in made:
            return
        if (one := ready.get(name) or _of_google(name)) is None:
            raise SchemaError(f"it imports {name!r}, which is not among its references")
        for other in one.dependency:
            add(other, (*above, name))
        made[name] = one

    add(main, ())
    return _checked(FileDescriptorSet(file=made.values()).SerializeToString(), "the schema")


def _of_google(name: str) -> FileDescriptorProto | None:
    if (found := _OWN.fullmatch(name)) is None:
        return None
    try:
        module = importlib.import_module(f"google.protobuf.{found[1]}_pb2")
    except ImportError:
        return None
    return FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)


def _descriptor(text: str) -> FileDescriptorProto | None:
    try:
        return FileDescriptorProto.FromString(base64.b64decode(text.strip(), validate=True))
    except (binascii.Error, ValueError, Malformed):
        return None


def _schema(full: str, files: FileDescriptorSet, own: FileDescriptorProto, path: Path) -> Schema:
    ordered = FileDescriptorSet(file=[*(one for one in files.file if one is not own), own])
    message = Message(full, ordered.SerializeToString(), _texts(path, ordered) if path.suffix == ".proto" else {})
    file = str(path)
    try:
        fields = fields_of(message.descriptor())
    except ValueError as error:
        raise SchemaError(Problem(file, 0, 0, str(error), "types inside types multiply: use fewer")) from None
    except RecursionError:
        raise SchemaError(Problem(file, 0, 0, "nested too deeply", "flatten the schema")) from None
    if not fields:
        raise SchemaError(Problem(file, 0, 0, f"the message {full} has no fields", "name another message"))
    return Schema(full, fields, path=file, protobuf=message, language="PROTOBUF")


def _own(files: FileDescriptorSet) -> list[tuple[str, FileDescriptorProto]]:
    """Returns the messages at the top of the files that no other one imports, with their files."""
    imported = {name for file in files.file for name in file.dependency}
    own = [file for file in files.file if file.name not in imported]
    return [(full, file) for file in own for at, full in messages_in(file) if len(at) == 1]


def _chosen(files: FileDescriptorSet, asked: str, path: str) -> tuple[str, FileDescriptorProto]:
    """Returns the full name of the message that is asked for, and its file. Raises SchemaError."""
    found = own = _own(files)
    if asked:
        every = [(full, file) for file in files.file for _, full in messages_in(file)]
        found = [one for one in every if one[0] == asked] or [one for one in every if one[0].endswith(f".{asked}")]
    if len(found) == 1:
        return found[0]
    there = [full for full, _ in own]
    fix = f"name one of them: {Path(path).name}#{there[0]}" if there else "name another file"
    listed = ", ".join(there[:_LISTED]) + (", …" if len(there) > _LISTED else "")
    what = f"no message {asked!r}" if asked and not found else f"{len(found)} messages {asked!r}" if asked else f"{len(found)} messages"
    raise SchemaError(Problem(path, 0, 0, f"the file has {what}{f': {listed}' if there else ''}", fix))


def _texts(path: Path, files: FileDescriptorSet) -> dict[str, str]:
    """Returns the texts of the files, the last one's under "": what a registry is given. Google's are not among them.

    Nor are those that are not UTF-8, as protoc lets comments be: a registry is given their descriptors.
    """
    made: dict[str, str] = {}
    for file in files.file:
        own = file is files.file[-1]
        place = path if own else next((root / file.name for root in path.parents if (root / file.name).is_file()), None)
        if place is not None and (own or not file.name.startswith(GOOGLE)):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                made["" if own else file.name] = place.read_text(encoding="utf-8")
    return made
