"""The tasks of roles and playbooks, as they are written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parents[3]
PARTS = ("tasks", "handlers", "pre_tasks", "post_tasks", "block", "rescue", "always")


@dataclass
class Task:
    """A task with its own keywords, and with all that hold for it: those of its blocks and its play, too."""

    place: str
    own: dict[str, Any]
    keywords: dict[str, Any] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, Any]:
        """Return its `vars`, with those of what is around it."""
        return dict(self.keywords.get("vars", {}))


def tasks() -> Iterator[Task]:
    """Return every task of the repository's roles and playbooks."""
    parts = [path for kind in ("tasks", "handlers") for path in (CHECKOUT / "roles").glob(f"*/{kind}/**/*.yml")]
    books = [*(CHECKOUT / "playbooks").glob("*.yml"), *(CHECKOUT / "examples/playbooks").glob("*.yml")]
    for path in sorted([*parts, *books]):
        yield from inside(str(path.relative_to(CHECKOUT)), yaml.safe_load(path.read_text()), {})


def inside(place: str, listed: list[dict[str, Any]], around: dict[str, Any]) -> Iterator[Task]:
    """Return the tasks of a list, and those inside its blocks and plays."""
    for own in listed:
        merged = around.get("vars", {}) | (own.get("vars") or {})
        keywords = around | {name: value for name, value in own.items() if name not in PARTS} | {"vars": merged}
        name = f"{place}: {own.get('name', own)}"
        nested = [part for part in PARTS if part in own]
        if not nested:
            yield Task(name, own, keywords)
        for part in nested:
            yield from inside(name, own[part], {key: value for key, value in keywords.items() if key != "name"})
