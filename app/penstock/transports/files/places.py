"""Places: files and folders by path or URL. Local ones need nothing; s3://, gs:// and abfs:// are pyarrow's, hdfs:// and others fsspec's.

A file is written whole or not at all: it gets its name when it is complete, and is on the disk before it does.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import importlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast
from urllib.parse import urlsplit

from penstock.errors import AccessRefused, ConfigError, PenstockError, Problem, TransportError

__all__ = ["Found", "Place", "arrow", "place", "without_password"]

_URL: Final = re.compile(r"([a-z][a-z0-9+.-]*)://")
_GLOB: Final = re.compile(r"[*?\[]")
_PASSWORD: Final = re.compile(r"(//[^:@/?#]*):[^/#\s]*@")
_SECRET: Final = re.compile(r"([?&][^=&#\s]*(?:password|secret|token)[^=&#\s]*=)[^&#\s]*", re.IGNORECASE)
_SIGNED: Final = re.compile(r"\?(?:[^#\s']*&)?sig=[^#\s']*")  # a token of Azure: its time and its rights change when it is renewed
_QUERY: Final = re.compile(r"\?(\w+=[^?]*)$")  # another "?" belongs to a pattern
_KEY: Final = re.compile(r"//([^:@/]*):(?!\d+/)[^@]*@")  # of a storage account; it may have slashes
_SAME: Final = {"gcs": "gs", "az": "abfs", "s3a": "s3", "s3n": "s3"}  # other names of what pyarrow knows
_OF_ARROW: Final = ("s3", "s3a", "s3n", "gs", "gcs", "abfs", "abfss", "az", "file")
_AZURE: Final = ("abfs", "abfss", "az")
_ON_HDFS: Final = ("hdfs", "viewfs")
_TRIES: Final = {"dfs.client.failover.max.attempts": "4"}  # a quarter of a minute; the default is three minutes
_RETRIES: Final = "retry_limit_seconds=30"  # of Google's client; the default is a quarter of an hour
_AN_ADDRESS: Final = "write abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH"
# What stores answer is in the text of errors that have one type for all of it.
_AROUND: Final = re.compile(
    r"^.*Azure Error: (?:\[\] )?|^.* failed: N5Azure\w+: |(?:Unknown error: )?google::cloud::Status\(|\w[\w ]+, with a last message of "
    r"| error_info=.*$|(?:\n|\\n).*$",
    re.DOTALL,
)
_REFUSED: Final = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT|EXPIRED_TOKEN|HTTP status 40[13]|PERMISSION_DENIED|UNAUTHENTICATED"
    r"|OAuth2 access token|Authenticat|Authoriz|DefaultAzureCredential|AccessControlException"
)
_ABSENT: Final = re.compile(r"NO_SUCH_BUCKET|^NOT_FOUND|ContainerNotFound|FilesystemNotFound")

_Edited = FileNotFoundError | NotADirectoryError | IsADirectoryError | FileExistsError  # what a person must see to


class Found(NamedTuple):
    """A file of the input, and its size in bytes."""

    place: Place
    size: int


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder: its `name` for people, and its `path` within the file system `system` (None: that of this host)."""

    name: str
    path: str
    system: Any = None

    def __str__(self) -> str:
        return self.name

    def __truediv__(self, name: str) -> Place:
        return Place(f"{self.name.rstrip('/')}/{name}", f"{self.path.rstrip('/')}/{name}", self.system)

    @property
    def last(self) -> str:
        """The last part of the name."""
        return self.path.rstrip("/").rpartition("/")[2]

    def beside(self, name: str) -> Place:
        """Returns another file of the same folder."""
        return Place(_beside(self.name, name), _beside(self.path, name), self.system)

    def named(self, name: str) -> Place:
        """Returns the place of this name in the same file system."""
        return Place(name, name.removeprefix(self.name[: len(self.name) - len(self.path)]), self.system)

    def size(self) -> int | None:
        """Returns the bytes of the file, None when it is not there. Raises ConfigError for what cannot be read."""
        with self._reading():
            if self.system is None:
                return os.path.getsize(self.path) if os.path.isfile(self.path) else None
            info = self.system.get_file_info(self.path)
            return int(info.size or 0) if info.is_file else None

    def is_folder(self) -> bool:
        """Whether a folder is there; in an object store, whether any name begins with it."""
        with self._reading():
            if self.system is None:
                return os.path.isdir(self.path)
            return not self.system.get_file_info(self.path).is_file and bool(self._listed())

    def open(self) -> IO[bytes]:
        """Opens the file for reading."""
        with self._reading():
            return open(self.path, "rb") if self.system is None else cast(IO[bytes], self.system.open_input_file(self.path))

    def native(self) -> Any:
        """Opens the file for pyarrow, which then reads without Python."""
        with self._reading():
            return arrow().OSFile(self.path) if self.system is None else self.system.open_input_file(self.path)

    def read(self) -> bytes | None:
        """Returns the content, None when there is no such file."""
        if self.size() is None:
            return None
        with self._reading(), self.open() as file:
            return file.read()

    def write(self, data: bytes) -> None:
        """Replaces the whole file."""
        with self.create() as file:
            file.write(data)

    @contextmanager
    def create(self) -> Iterator[IO[bytes]]:
        """Yields a file that replaces this one at the end; after an error it is not there. Folders are made."""
        begun = Begun(self)
        try:
            yield begun.file
        except BaseException:
            begun.drop()
            raise
        begun.keep()

    def remove(self) -> None:
        """Removes the file, or the folder with everything in it, if it is there."""
        with self._writing():
            if self.system is None:
                if os.path.isdir(self.path):
                    shutil.rmtree(self.path)
                else:
                    Path(self.path).unlink(missing_ok=True)
                return
            info = self.system.get_file_info(self.path)
            if info.is_file:
                self.system.delete_file(self.path)
            elif info.type != arrow_fs().FileType.NotFound:
                try:
                    self.system.delete_dir(self.path)
                except OSError:
                    # GCS removes a mark of the folder last, which need not be there. Not every server of Azure takes a batch.
                    for one in self._listed():
                        self.system.delete_file(one.place.path)

    def move(self, to: Place) -> None:
        """Gives the file another name in the same file system, in place of what is there."""
        with self._writing():
            if self.system is None:
                os.makedirs(os.path.dirname(to.path) or ".", exist_ok=True)
                os.replace(self.path, to.path)
                return
            if self.system.type_name.rpartition("+")[2] in _ON_HDFS:  # pyarrow has no way to say that what is there is replaced
                self.system.handler.fs.mv(self.path, to.path, overwrite=True)
                return
            try:
                self.system.move(self.path, to.path)
            except NotImplementedError:  # Azure without a hierarchical namespace
                self.system.copy_file(self.path, to.path)
                self.system.delete_file(self.path)

    def files(self) -> list[Place]:
        """Returns the files below this folder, sorted."""
        with self._reading():
            return [one.place for one in self._listed()]

    def find(self) -> list[Found]:
        """Returns the files that the name means, sorted: the file itself, those below the folder, or those that a pattern fits.

        Names that begin with "_" or "." are passed over, as everywhere in this field: they are notes about a folder's files.
        """
        with self._reading():
            # A file of this host that is called like a pattern is that file.
            if _GLOB.search(self.path) and (self.system is not None or not os.path.exists(self.path)):
                return sorted(self._fitting(), key=lambda one: one.place.name)
            if (size := self.size()) is not None:
                return [Found(self, size)]
            found = self._listed()
        base = len(self.path.rstrip("/"))
        return [one for one in found if not any(part[:1] in ("_", ".") for part in one.place.path[base:].strip("/").split("/"))]

    def _fitting(self) -> list[Found]:
        base = self.path[: _GLOB.search(self.path).start()].rpartition("/")[0]  # type: ignore[union-attr]  # the caller has looked
        wanted = _steps(self.path)
        if self.system is None and "**" not in wanted:
            paths = (path for path in glob.glob(self.path) if os.path.isfile(path))
            listed = [Found(Place(path, path), os.path.getsize(path)) for path in paths]
        else:
            name = self.name[: len(self.name) - len(self.path)]
            root = base or ("/" if self.path.startswith("/") else "." if self.system is None else "")
            listed = Place(name + root, root, self.system)._listed()
        return [one for one in listed if _fits(_steps(one.place.path), wanted)]

    def _listed(self) -> list[Found]:
        if self.system is None:
            return sorted((Found(Place(path, path), os.path.getsize(path)) for path in _walked(self.path)), key=lambda one: one.place.name)
        select = arrow_fs().FileSelector(self.path, recursive=True, allow_not_found=True)
        prefix = self.name[: len(self.name) - len(self.path)]
        listed = (one for one in self.system.get_file_info(select) if one.is_file)
        return sorted(
            (Found(Place(prefix + one.path, one.path, self.system), one.size or 0) for one in listed), key=lambda one: one.place.name
        )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with _explained(self, "cannot be read", "give a file, a folder or a pattern that can be"):
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with _explained(self, "cannot be written", "use another --out"):
            yield


class Begun:
    """A file that is being written: `keep` gives it its name, `drop` leaves nothing."""

    def __init__(self, place: Place) -> None:
        self._place = place
        with place._writing():
            if place.system is None:
                os.makedirs(os.path.dirname(place.path) or ".", exist_ok=True)
                self._now = place.beside(f".{place.last}.part")
                self.file: IO[bytes] = open(self._now.path, "wb")  # noqa: SIM115  `keep` and `drop` close it
            else:
                # An object is there only when it is complete; Azure shows it empty before that, a distributed file system while it grows.
                store = place.system.type_name
                self._now = place if store in ("s3", "gcs") else place.beside(f".{place.last}.part")
                if self._now is not place and store != "abfs":
                    place.system.create_dir(_beside(place.path, "").rstrip("/"), recursive=True)
                self.file = place.system.open_output_stream(self._now.path)

    def keep(self) -> None:
        with self._place._writing():
            if self._place.system is None:
                self.file.flush()
                os.fsync(self.file.fileno())
            self.file.close()
            if self._now is not self._place:
                self._now.move(self._place)

    def drop(self) -> None:
        with contextlib.suppress(Exception):  # the error that led here is the one to show
            self.file.close()
            self._now.remove()


def place(name: str) -> Place:
    """Returns the place of a path or URL. Raises ConfigError for a URL that nothing here can open."""
    url = _URL.match(name)
    if url is None:
        return Place(name, name)
    system, path = _system(name, url[1])
    if not path.strip("/"):
        raise ConfigError(Problem(without_password(name), 0, 0, "names no file and no folder", "add its path"))
    # What is asked for in the URL, such as an endpoint, is no part of the names of the files. A path within HDFS does not name its cluster.
    return Place(f"{url[1]}://{urlsplit(name).netloc if url[1] in _ON_HDFS else ''}{path}", path, system)


@lru_cache
def _system(name: str, scheme: str) -> tuple[Any, str]:
    fs = arrow_fs()
    if scheme in _AZURE and _KEY.search(name):
        fix = "give a token (SAS) behind a ?, or the credentials of AZURE_CLIENT_ID and others, of a managed identity or of `az login`"
        raise ConfigError(Problem(_KEY.sub(r"//\1@", name), 0, 0, "the key of an account in an address is not used", fix))
    given = without_password(name)
    if scheme in _SAME:
        name = f"{_SAME[scheme]}{name[len(scheme) :]}"
    try:
        if scheme in _OF_ARROW:
            asked = _QUERY.search(name)
            whole, query = (name[: asked.start()], asked[1]) if asked else (name, "")
            if scheme in ("gs", "gcs") and "retry_limit_seconds=" not in query:
                query = f"{query}&{_RETRIES}" if query else _RETRIES
            # A pattern is no URL: the file system is that of what stands before it.
            pattern = _GLOB.search(whole)
            before, _, after = whole[: pattern.start()].rpartition("/") if pattern else (whole, "", "")
            system, path = fs.FileSystem.from_uri(f"{before}?{query}" if query else before)
            return system, f"{path.rstrip('/')}/{after}{whole[pattern.start() :]}" if pattern else path
        import fsspec

        if scheme in _ON_HDFS:
            importlib.import_module("hdfs_native")  # else fsspec would look for a Java machine and an installed Hadoop
        system, path = fsspec.core.url_to_fs(name, **(_TRIES if scheme in _ON_HDFS else {}))
        return fs.PyFileSystem(fs.FSSpecHandler(system)), path
    except ImportError as error:
        needed = "'penstock[hdfs]'" if scheme in _ON_HDFS else "fsspec, and what it needs for it"
        raise ConfigError(Problem(given, 0, 0, f"nothing here opens {scheme}://", f"pip install {needed}")) from error
    except (OSError, RuntimeError, ValueError) as error:  # the second: of hdfs-native
        fix = _AN_ADDRESS if scheme in _AZURE else "check the address and the credentials"
        raise ConfigError(Problem(given, 0, 0, f"cannot be opened: {without_password(str(error))}", fix)) from error


def without_password(text: str) -> str:
    """Returns an address, or a message with one, as it may be kept and shown: the user stays, and the password goes.

    So a run goes on with the password elsewhere, or with a new one. A digest of it would let who reads that guess at it.
    """
    return _SECRET.sub(r"\1***", _SIGNED.sub("?***", _PASSWORD.sub(r"\1@", text)))


def arrow() -> Any:
    """Returns pyarrow. Raises ConfigError where it is not installed."""
    try:
        import pyarrow as pa  # here and below: an extra, and slow to import
    except ImportError as error:
        raise ConfigError("this needs pyarrow, which is not installed: pip install 'penstock[batch]'") from error
    return pa


def arrow_fs() -> Any:
    arrow()
    import pyarrow.fs

    return pyarrow.fs


def _beside(path: str, name: str) -> str:
    folder, slash, _ = path.rstrip("/").rpartition("/")
    return f"{folder}{slash}{name}"


def _steps(path: str) -> list[str]:
    return [step for step in path.split("/") if step not in ("", ".")]


def _fits(names: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether a path fits a pattern: `**` is any number of folders. No wildcard matches the first character of a note about a folder."""
    if not wanted or not names:
        return not names and all(one == "**" for one in wanted)
    noted = names[0][:1] in ("_", ".")
    if wanted[0] == "**":
        return _fits(names, wanted[1:]) or (not noted and _fits(names[1:], wanted))
    fits = fnmatch.fnmatchcase(names[0], wanted[0]) and (not noted or wanted[0][0] == names[0][0])
    return fits and _fits(names[1:], wanted[1:])


def _walked(folder: str) -> Iterator[str]:
    """Yields the files below a folder of this host, also behind links, but those of a folder with several names once. Raises OSError."""
    seen: set[str] = set()
    for above, folders, names in os.walk(folder, followlinks=True, onerror=_unlisted):
        real = os.path.realpath(above)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (os.path.join(above, name) for name in names)


def _unlisted(error: OSError) -> None:
    """Raises the error of a folder that cannot be listed: without its files, a run would seem complete."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


@contextmanager
def _explained(place: Place, what: str, fix: str) -> Iterator[None]:
    """Makes the errors of a file system errors that name the file."""
    try:
        yield
    except Exception as error:
        if place.system is not None and isinstance(error, OSError | RuntimeError | arrow().ArrowException):  # the second: of hdfs-native
            raise _answered(place, what, fix, error) from error
        if isinstance(error, PermissionError | _Edited):
            raise ConfigError(Problem(str(place), 0, 0, f"{what}: {error.strerror or error}", fix)) from error
        if isinstance(error, OSError):
            raise TransportError(f"{place} {what}: {error.strerror or error}") from error
        raise


def _answered(place: Place, what: str, fix: str, error: Exception) -> PenstockError:
    """Returns the error that the answer of a store is."""
    reason = _said(error)
    if isinstance(error, PermissionError) or _REFUSED.search(str(error).replace(place.path, "")):
        return AccessRefused(f"{place} {what}: {reason}; check the credentials, and what they may do")
    if _ABSENT.search(reason):
        return ConfigError(Problem(str(place), 0, 0, f"{what}: {reason}", f"name a bucket or container that is there, or {fix}"))
    if isinstance(error, _Edited):
        return ConfigError(Problem(str(place), 0, 0, f"{what}: {reason}", fix))
    return TransportError(f"{place} {what}: {reason}")


def _said(error: Exception) -> str:
    """Returns what the file system or the store has answered, in one line and without secrets."""
    return without_password(_AROUND.sub("", str(getattr(error, "strerror", None) or error)))
