"""``orbiter.toml``: settings for every command, behind flags and variables. The worker's settings are its rules."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orbiter.cli.failures import UsageFailure
from orbiter.distributed.limits import variable
from orbiter.distributed.reading import REMEDY, may_read, not_for_this_user

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE_VARIABLE = variable("config")


def places() -> list[Path]:
    """Return where the file is looked for; the first that exists is the only one read."""
    return [Path("orbiter.toml"), Path.home() / ".config/orbiter/orbiter.toml", Path("/etc/orbiter/orbiter.toml")]


def find() -> Path | None:
    """Return the settings file, if there is one.

    Raises:
        UsageFailure: The variable names a file that does not exist.
    """
    if named := os.environ.get(FILE_VARIABLE):
        # What may not be looked at is for read() to tell.
        if may_read(named) and not Path(named).exists():
            raise UsageFailure(f"Error: {FILE_VARIABLE} names {named}, which does not exist.")
        return Path(named)
    # A folder that may not be looked into holds none: root's command runs as another user, in root's folder and home.
    return next((place for place in places() if os.path.exists(place)), None)  # noqa: PTH110 - Path.exists raises there


def empty_list(name: str) -> bool:
    """Tell whether a variable is there and empty, which for a list says that nothing is in it."""
    return not os.environ.get(name, "-").strip()


def defaults() -> dict[str, Any]:
    """Return every setting there is with its default; ``None`` where it has none or is generated."""
    from orbiter.distributed.settings import WorkerSettings  # noqa: PLC0415 - imported only once a setting is needed

    fields = WorkerSettings.model_fields.items()
    worker = {name: None if info.default_factory or info.is_required() else info.default for name, info in fields}
    return {"redis_url": None, **worker, "log_format": "human", "log_level": "info"}


def checked(name: str, value: Any, *, strict: bool) -> Any:
    """Return a setting's value as its type; ``strict`` takes no text for a number.

    Raises:
        ValueError: The value breaks its rule, which the message says; it never shows a password.
    """
    from pydantic import ValidationError  # noqa: PLC0415

    from orbiter.distributed.connection.redis_url import check  # noqa: PLC0415
    from orbiter.distributed.models import broken_rule  # noqa: PLC0415
    from orbiter.distributed.settings import WorkerSettings  # noqa: PLC0415
    from orbiter.distributed.worker.logs import LOG_FORMATS, LOG_LEVELS  # noqa: PLC0415

    if name in WorkerSettings.model_fields:
        try:
            # As JSON, strictness is about numbers and text, not about lists and tuples.
            settings = WorkerSettings.model_validate_json(json.dumps({name: value}, default=str), strict=strict)
        except ValidationError as error:
            raise ValueError("; ".join(broken_rule(row) for row in error.errors())) from None
        return getattr(settings, name)
    if not isinstance(value, str):
        raise ValueError("Input should be a valid string")  # noqa: TRY004 - as pydantic says it of the others
    if name == "redis_url":
        check(value)
        return value
    choices = LOG_FORMATS if name == "log_format" else LOG_LEVELS
    if value.lower() not in choices:
        raise ValueError(f"Input should be one of {', '.join(choices)}")
    return value.lower()


def read(path: Path) -> dict[str, Any]:
    """Return the settings in a file, checked.

    Raises:
        UsageFailure: The file cannot be read, is no TOML, has an unknown key or a wrong value; the message names it.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except PermissionError:
        raise UsageFailure(f"Error: {not_for_this_user(path)}; {REMEDY}.") from None
    except OSError as error:
        raise UsageFailure(f"Error: {path}: cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise UsageFailure(f"Error: {path}: not TOML: {error}.") from None
    known = defaults()
    for name, value in values.items():
        if name not in known:
            raise UsageFailure(f"Error: {path}: unknown key {name!r}; the settings are {', '.join(known)}.")
        try:
            values[name] = checked(name, value, strict=True)
        except ValueError as error:
            raise UsageFailure(f"Error: {path}: {name}: {str(error).removesuffix('.')}.") from None
    return values


class FileDefaults(Mapping[str, Any]):
    """The file's settings as click's ``default_map``; read when a command first asks for one of them.

    Args:
        lenient: Whether a wrong file counts as an empty one, as for completion in a shell and for help.
    """

    def __init__(self, *, lenient: bool = False) -> None:
        self._lenient = lenient

    @cached_property
    def _values(self) -> dict[str, Any]:
        try:
            path = find()
            return {} if path is None else read(path)
        except UsageFailure:
            if self._lenient:
                return {}
            raise

    def __contains__(self, name: object) -> bool:
        # Options that are no settings, such as --help, work with a wrong file too.
        return name in defaults() and name in self._values

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
