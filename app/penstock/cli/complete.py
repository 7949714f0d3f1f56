"""What a shell offers for a word that is begun: topologies, nodes, models, versions and aliases, read from their folders.

A command's module may import the model runtime, which takes longer than a person waits for a key. So arguments are completed from the
table below, without the modules; options, and whatever the table lacks, are completed by click, from the command itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Final

from click.shell_completion import BashComplete, CompletionItem, FishComplete, ShellComplete, ZshComplete, add_completion_class

from penstock.errors import PenstockError
from penstock.settings import Settings, flag_name, load
from penstock.topology.find import find, known

__all__ = ["ARGUMENTS", "FLAGS", "complete", "install"]

Offer = Callable[[Settings, Sequence[str], str], Iterable[str]]  # the settings, the arguments before the word, and the word


def _topologies(settings: Settings, _before: Sequence[str], _word: str) -> Iterable[str]:
    return known(settings.topologies)


def _changes(settings: Settings, before: Sequence[str], word: str) -> Iterator[str]:
    """NODE=NAME@VERSION: the versions of the model that the file names there; of all models once the node is written."""
    from penstock.topology.parse import parse

    nodes = {node.name: node.model.name for node in parse(find(before[0], settings.topologies)).model_nodes}
    chosen, begun, _ = word.partition("=")
    for node, model in nodes.items():
        if begun and node == chosen:
            yield from (f"{node}={one}" for one in _references(settings.models, "@"))
        elif not begun:
            yield from (f"{node}={model}@{version}" for version in _versions(settings.models, model))


def _models(settings: Settings, _before: Sequence[str], _word: str) -> Iterable[str]:
    return _inside(settings.models)


def _model_versions(settings: Settings, _before: Sequence[str], word: str) -> Iterable[str]:
    return _references(settings.models, word)


def _aliases(settings: Settings, before: Sequence[str], _word: str) -> Iterable[str]:
    return _inside(settings.models / before[0] / "aliases", folders=False)


def _numbers(settings: Settings, before: Sequence[str], _word: str) -> Iterable[str]:
    return (one for one in _inside(settings.models / before[0]) if one[0].isdigit())


def _references(models: Path, word: str) -> Iterator[str]:
    """Names of models; with an @ in the word, their versions and aliases."""
    for name in _inside(models):
        if "@" in word:
            yield from (f"{name}@{version}" for version in _versions(models, name))
        else:
            yield name


def _versions(models: Path, name: str) -> Iterator[str]:
    """The version and alias names of a model, as `registry/directory` lays them out."""
    yield from (one for one in _inside(models / name) if one[0].isdigit())
    yield from _inside(models / name / "aliases", folders=False)


def _inside(folder: Path, *, folders: bool = True) -> list[str]:
    with contextlib.suppress(OSError):
        return sorted(one.name for one in folder.iterdir() if one.name[0] != "." and one.is_dir() is folders)
    return []


# Of each command, its arguments in order. The last one may be given several times.
ARGUMENTS: Final[Mapping[tuple[str, ...], tuple[Offer, ...]]] = {
    **{(name,): (_topologies,) for name in ("run", "serve", "validate", "plan", "draw", "test", "explain")},
    **{(name,): (_topologies,) for name in ("batch", "features", "precompute", "watch", "status", "history")},
    **{(name,): (_topologies,) for name in ("rollback", "promote", "pause", "abort")},
    **{("topics", name): (_topologies,) for name in ("ls", "create")},
    **{("releases", name): (_topologies,) for name in ("ls", "show")},
    ("deploy",): (_topologies, _changes),
    ("export", "edge"): (_topologies,),
    ("model", "show"): (_model_versions,),
    ("model", "verify"): (_model_versions,),
    ("model", "sign"): (_model_versions,),
    ("model", "alias"): (_models, _aliases, _numbers),
}
# The options without a value, beside those of settings.
FLAGS: Final = frozenset({
    "--all", "--boundaries", "--changed", "--check", "--force", "--full", "--dry-run", "--help", "--live", "--misses", "--now", "--once",
    "--replace", "--resume", "--strict", "--swap", "--unsigned", "--version", "--wait", "--watch", "--yes", "-h",
})  # fmt: skip
_SWITCHES: Final = FLAGS | {flag_name(one.name) for one in fields(Settings) if one.metadata["kind"] is bool}


def complete(words: Sequence[str], word: str) -> list[str] | None:
    """Returns what may stand in the place of `word`, after these words of a command line; None where click knows better."""
    arguments, given = _read(words)
    for length in (2, 1):
        offers, before = ARGUMENTS.get(tuple(arguments[:length])), arguments[length:]
        if offers is None or word.startswith("-") or (words and _takes_value(words[-1])):
            continue
        try:
            flags = {name: given[flag_name(name)] for name in ("topologies", "models") if flag_name(name) in given}
            settings = load(flags, file=Path(given["--config"]) if "--config" in given else None)
        except PenstockError:
            settings = Settings()  # the command itself reports what is wrong with them
        try:
            found = offers[min(len(before), len(offers) - 1)](settings, before, word)
            return [one for one in found if one.startswith(word)] or None
        except PenstockError:
            return None
    return None


def _read(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Returns the words that are no options, and the options with a value."""
    arguments, given = [], {}
    for before, word in zip(["", *words], words, strict=False):
        if _takes_value(before):
            given[before] = word
        elif word.startswith("-"):
            name, _, value = word.partition("=")
            given[name] = value
        else:
            arguments.append(word)
    return arguments, given


def _takes_value(word: str) -> bool:
    return word.startswith("-") and "=" not in word and word not in _SWITCHES and not word.startswith("--no-")


class _Ours(ShellComplete):
    """Completes from the table first."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        found = complete(args, incomplete)
        return super().get_completions(args, incomplete) if found is None else [CompletionItem(one) for one in found]


class _Bash(_Ours, BashComplete):
    """Reads the line itself: Bash cuts words at "=" and "@", and replaces only the last piece."""

    source_template = r"""
%(complete_func)s() {
    local IFS=$'\n' line="${COMP_LINE:0:COMP_POINT}" words cur cut response completion type value
    IFS=' ' read -ra words <<< "$line"
    [[ "$line" == *' ' ]] && words+=("")
    cur="${words[-1]}"
    cut="${cur%%"${cur##*[=@:]}"}"
    response=$(IFS=' '; env COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) %(complete_var)s=bash_complete "$1")
    for completion in $response; do
        IFS=',' read -r type value <<< "$completion"
        if [[ $type == dir ]]; then
            COMPREPLY=(); compopt -o dirnames
        elif [[ $type == file ]]; then
            COMPREPLY=(); compopt -o default
        elif [[ $type == plain ]]; then
            COMPREPLY+=("${value#"$cut"}")
        fi
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Zsh(_Ours, ZshComplete):
    pass


class _Fish(_Ours, FishComplete):
    pass


def install() -> None:
    """Makes click use these."""
    for shell in (_Bash, _Zsh, _Fish):
        add_completion_class(shell)
