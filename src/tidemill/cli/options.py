"""Options that many commands share, and opening the platform they name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tidemill.core.errors import InvalidError
from tidemill.core.instants import parse_instant

if TYPE_CHECKING:
    from tidemill.core.clock import Clock
    from tidemill.platform.root import Platform

F = TypeVar("F", bound=Callable[..., Any])

project_option = click.option(
    "--project", type=click.Path(path_type=Path), default=".", show_default=True, help="Folder of the project, or one below it."
)
override_option = click.option("-o", "--override", "overrides", multiple=True, metavar="KEY=VALUE", help="Hydra override; may be repeated.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
limit_option = click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most this many rows.")


def project_options(function: F) -> F:
    """Add --project and -o/--override."""
    return project_option(override_option(function))


class InstantType(click.ParamType[int]):
    """ISO 8601 on the command line, microseconds inside. Without a zone it is UTC."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the text."""
        if isinstance(value, int):
            return value
        try:
            return parse_instant(value)
        except InvalidError as error:
            self.fail(str(error), param, ctx)


INSTANT = InstantType()


@contextmanager
def opened(project: Path, overrides: Sequence[str] = (), *, clock: Clock | None = None) -> Iterator[Platform]:
    """The platform of the project at or above `project`, closed at the end."""
    from tidemill.platform.project import find_project
    from tidemill.platform.root import Platform

    platform = Platform.open(find_project(project), overrides, clock=clock)
    try:
        yield platform
    finally:
        platform.close()


def actor() -> str:
    """Who is typing, for the audit log."""
    import getpass

    try:
        return f"person:{getpass.getuser()}"
    except (OSError, KeyError):
        return "person:unknown"


def key_values(items: Sequence[str], what: str) -> dict[str, Any]:
    """Read `name=value` texts; values are YAML, so 3 is a number. Raises `click.BadParameter`."""
    import yaml

    out: dict[str, Any] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{item!r} is not NAME=VALUE", param_hint=what)
        out[name] = yaml.safe_load(value)
    return out


def key_of(text: str, names: Sequence[str]) -> dict[str, Any]:
    """Read an entity key that was given as `--key JSON`. Raises `InvalidError` unless it names exactly `names`."""
    try:
        key = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidError(f"--key is not JSON ({error}); write for example '{json.dumps(dict.fromkeys(names, '…'))}'") from error
    if not isinstance(key, dict) or set(key) != set(names):
        raise InvalidError(f"--key must name exactly {', '.join(names)}")
    return key
