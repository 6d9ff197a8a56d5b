"""Names of a package that are imported when they are first used, so that importing the package costs nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def lazily(package: str, home: Mapping[str, str], *, first: Callable[[], None] | None = None) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package.

    Args:
        package: Its name.
        home: The module, below the package, of each name.
        first: Called before a module is imported; what it raises is raised.
    """

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if first is not None:
            first()
        return getattr(import_module(f"{package}.{home[name]}"), name)

    return get
