"""What a message may import: nothing, unless the operator allowed it.

Whoever can write to Redis names code by dotted path; this is the one door through which such a path becomes an object.
"""

from __future__ import annotations

import importlib
import logging
import socket
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, NamedTuple

from orbiter.distributed.errors import ConfigurationError, ImportRefusedError, TransientError, did_you_mean, text_of
from orbiter.distributed.names import MODULE, InvalidNameError, check_module_prefix
from orbiter.distributed.runtimes.model_guard import ModelGuard
from orbiter.distributed.runtimes.task_limits import TaskLimits
from orbiter.distributed.runtimes.user_code import RUN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

logger = logging.getLogger(__name__)

EVERYTHING = "*"

_LONGEST = 500
_MISSING = object()
# Not by a metaclass of its author's.
_name_of_class: Callable[[type], str] = type.__dict__["__name__"].__get__


class _Absent(NamedTuple):
    """Stands for an object that is not there."""

    why: str


# What runs import now, by number of the run.
IMPORTING: dict[int, str] = {}


class ImportGuard:
    """Imports what the operator allowed, and refuses everything else before a line of it runs.

    Attributes:
        models: What models a task may use.
        limits: How much a task may ask for.
    """

    def __init__(
        self,
        allow: Sequence[str],
        *,
        refused: Mapping[str, str] | None = None,
        models: ModelGuard | None = None,
        limits: TaskLimits | None = None,
    ) -> None:
        """Take module prefixes such as ``myapp`` or ``myapp.tools``; ``*`` allows everything.

        ``refused`` are modules that are known to end a process that imports them, each with what was seen.

        Raises:
            ConfigurationError: An entry is not a module prefix.
        """
        self.models = models or ModelGuard()
        self.limits = limits or TaskLimits()
        self._refused = dict(refused or {})
        self.allow = tuple(entry.strip() for entry in allow if entry.strip())
        for entry in self.allow:
            try:
                check_module_prefix(entry)
            except InvalidNameError as error:
                raise ConfigurationError(f"--allow-import: {error}") from None
        if EVERYTHING in self.allow:
            logger.warning("--allow-import *: whoever can write to Redis can run any code that is installed here")

    def allows(self, module: str) -> bool:
        """Tell whether a module is one of the allowed prefixes or lies below one."""
        return any(entry in (EVERYTHING, module) or module.startswith(f"{entry}.") for entry in self.allow)

    def load(self, path: str) -> object:
        """Return the object that ``pkg.module:attr`` or ``pkg.module.attr`` names.

        Raises:
            ImportRefusedError: The path, or the module that the object really comes from, is not allowed.
            ConfigurationError: It is not such a path, nothing has that name, or importing it failed.
        """
        absent = ""
        for module, attributes in self._candidates(path):
            found = self._resolve(path, module, attributes)
            if not isinstance(found, _Absent):
                self._check_origin(path, found)
                return found
            # The shortest module is the last one: what it lacks is where the path goes wrong.
            absent = found.why
        raise ConfigurationError(f"cannot import {path!r}: {absent}")

    def _candidates(self, path: str) -> Iterator[tuple[str, list[str]]]:
        """Yield (module, attributes) to try: with a colon the one that is written, else ever shorter modules."""
        module, colon, attribute = path.partition(":")
        written_well = [module, attribute] if colon else [path]
        if len(path) > _LONGEST:
            # Each of its parts would be tried as a module.
            raise ConfigurationError(f"cannot import {path[:60]!r}...: longer than {_LONGEST} characters")
        if not all(MODULE.fullmatch(part) for part in written_well) or not (colon or "." in path):
            raise ConfigurationError(f"cannot import {path!r}: not of the form pkg.module:attr or pkg.module.attr")
        parts = path.replace(":", ".").split(".")
        if any(part.startswith("_") for part in parts):
            raise ImportRefusedError(
                f"import of {path!r} refused: it has a private part, which no --allow-import PREFIX"
                " (ORBITER_ALLOW_IMPORT) allows"
            )
        longest = module.count(".") + 1 if colon else len(parts) - 1
        written = ".".join(parts[:longest])
        if not self.allows(written):
            raise _refused(path, written)
        for length in range(longest, longest - 1 if colon else 0, -1):
            name = ".".join(parts[:length])
            # Left of an allowed prefix there is nothing to look for: myapp.tools does not allow myapp.
            if self.allows(name):
                yield name, parts[length:]

    def _resolve(self, path: str, module: str, attributes: list[str]) -> object:
        if reason := self._refused.get(module):
            raise ConfigurationError(f"cannot import {path!r}: {reason}")
        run = RUN.get()
        IMPORTING[run] = module
        try:
            found: object = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name and f"{module}.".startswith(f"{error.name}."):
                return _Absent(
                    f"no module {error.name} among what is installed beside the worker; install it there,"
                    " or start the worker with --import-from DIRECTORY"
                )
            raise ConfigurationError(f"cannot import {path!r}: {module} needs {error.name}, not installed") from error
        except BaseException as error:
            kind = TransientError if _of_a_connection(error) else ConfigurationError
            raise kind(
                f"cannot import {path!r}: importing {module} raised {type(error).__name__}: {text_of(error)}"
            ) from error
        finally:
            IMPORTING.pop(run, None)
        for place, attribute in enumerate(attributes):
            # Reading an attribute of a module can import more (PEP 562), so a foreign one is not even asked.
            if isinstance(found, ModuleType) and not self.allows(found.__name__):
                raise _refused(path, found.__name__)
            holder = found
            try:
                found = getattr(found, attribute, _MISSING)
            except BaseException as error:
                raise ConfigurationError(
                    f"cannot import {path!r}: looking up {attribute} raised {type(error).__name__}: {text_of(error)}"
                ) from error
            if found is _MISSING:
                return self._lacking(".".join([module, *attributes[:place]]), holder, attribute)
        return found

    def _lacking(self, where: str, holder: object, attribute: str) -> _Absent:
        """Say that a module or class has no such name, and which one was probably meant: only what would load."""
        # Of functions and classes alone: anything else may run code of its own when it is asked where it is from.
        names = [
            name
            for name, found in getattr(holder, "__dict__", {}).items()
            if name[:1] != "_" and issubclass(type(found), FunctionType | type) and self.allows(_origin(found))
        ]
        meant = did_you_mean(attribute, names)
        return _Absent(f"{where} has no {attribute}; {meant}correct the path, or give this worker the code that has it")

    def _check_origin(self, path: str, found: object) -> None:
        """Stop ``myapp.tools.os.system``: what an allowed module merely imported is not allowed with it."""
        origin = _origin(found)
        if self.allows(origin):
            return
        # A number, a text, a path: to allow the module of its class would be of no use.
        if not callable(found) and not isinstance(found, ModuleType) and not _is_ready_made(found):
            kind = _name_of_class(type(found))
            raise ImportRefusedError(
                f"import of {path!r} refused: it is no function or class but a value of the type {kind}"
            )
        if origin == "builtins":
            raise ImportRefusedError(
                f"import of {path!r} refused: it is Python's own (module builtins);"
                " name a function of yours that calls it"
            )
        raise _refused(path, origin)


def _origin(found: object) -> str:
    """Return the module in which an object was defined."""
    if isinstance(found, ModuleType):
        return found.__name__
    if _is_ready_made(found):
        # It belongs to whoever wrote its function; its class is pydantic-ai's in any case.
        found = getattr(found, "function", None)
    origin = getattr(found, "__module__", None)
    return origin if isinstance(origin, str) else type(found).__module__


def _is_ready_made(found: object) -> bool:
    """Tell whether an object is a tool of pydantic-ai, which need not be imported for that."""
    kind = type(found)
    return (kind.__module__, kind.__qualname__) == ("pydantic_ai.tools", "Tool")


def _of_a_connection(error: BaseException) -> bool:
    """Tell whether another try may go well: something out there could not be reached."""
    return isinstance(error, ConnectionError | TimeoutError | socket.gaierror) or "Connect" in type(error).__name__


def _refused(path: str, module: str) -> ImportRefusedError:
    return ImportRefusedError(
        f"import of {path!r} refused: module {module} is not allowed on this worker;"
        f" to allow it: --allow-import PREFIX, such as --allow-import {module} (ORBITER_ALLOW_IMPORT);"
        f" of orbiter dev: --app {module}"
    )
