"""Settings as flags: the options of a command are made from the fields of `Settings`, so that both always agree."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from penstock import telemetry
from penstock.settings import Settings, flag_name, resolve

__all__ = ["CONNECTION", "Invocation", "Number", "setting_flags", "with_settings"]

# How the brokers are reached. The password has no flag, because process lists show flags.
CONNECTION: Final = (
    "brokers", "broker_timeout", "security_protocol", "insecure_plaintext", "ssl_cafile", "ssl_certfile", "ssl_keyfile",
    "sasl_mechanism", "sasl_username", "sasl_password_file",
)  # fmt: skip

F = TypeVar("F", bound=Callable[..., Any])


class Number(click.FloatRange):
    """A number in a range, as click has it; NaN lies in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value} is not a number", param, ctx)
        return found


@dataclass(slots=True)
class Invocation:
    """The options before the command's name: `penstock --config FILE --log-level debug run`."""

    config: Path | None = None
    flags: dict[str, Any] = field(default_factory=dict)
    debug: bool = False

    def resolve(self, flags: Mapping[str, Any]) -> tuple[Settings, dict[str, str]]:
        """Returns the settings, with a command's own flags first, and the origin of each. Configures logging by them."""
        settings, sources = resolve({**self.flags, **flags}, file=self.config)
        telemetry.configure(settings.log_level, settings.log_format)
        self.debug = settings.debug
        return settings, sources


def setting_flags(*names: str) -> Callable[[F], F]:
    """Adds a flag for each of these fields of Settings. A flag that is not given is passed as None."""
    declared = {one.name: one for one in fields(Settings)}

    def decorate(command: F) -> F:
        for name in reversed(names):
            metadata = declared[name].metadata
            text = metadata["help"] + (f" [{metadata['unit']}]" if metadata["unit"] else "")
            if metadata["kind"] is bool:
                command = click.option(f"{flag_name(name)}/--no-{flag_name(name)[2:]}", name, default=None, help=text)(command)
            elif metadata["choices"]:
                kind = click.Choice(metadata["choices"], case_sensitive=False)
                command = click.option(flag_name(name), name, type=kind, help=text)(command)
            else:  # passed on as text: `settings.load` parses it and reports problems, as for every other source
                command = click.option(flag_name(name), name, metavar=metadata["kind"].__name__.upper(), help=text)(command)
        return command

    return decorate


def with_settings(*names: str) -> Callable[[F], F]:
    """Gives a command the keyword argument `settings`, and a flag for each of the fields `names`.

        @click.command()
        @with_settings("brokers", "workers")
        def run(settings: Settings) -> None: ...

    The flags come first, then environment, file and default. Logging is configured before the command starts.
    """

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def run(*args: Any, **options: Any) -> Any:
            flags = {name: options.pop(name) for name in names}
            settings, _ = click.get_current_context().ensure_object(Invocation).resolve(flags)
            return command(*args, settings=settings, **options)

        return setting_flags(*names)(run)  # type: ignore[return-value]  # click keeps the callable, its type does not declare that

    return decorate
