"""Audit: a stream of the last actions on the fleet, each with its user, address and time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orbiter.distributed.broker.namespaced import Namespaced

# Of these the last are kept, and the texts of each up to so many characters.
KEPT = 10_000
LONGEST = 500


@dataclass(frozen=True, slots=True)
class Action:
    """Something that somebody did.

    Attributes:
        who: Whoever it was, as the program knows them.
        where: From which address.
        what: The action, such as ``cancel``.
        target: What it was done to.
        outcome: What became of it.
        at: When, epoch seconds by Redis' clock.
    """

    who: str
    where: str
    what: str
    target: str
    outcome: str
    at: float = 0.0


class Audit(Namespaced):
    """The audit stream of a namespace."""

    async def append(self, action: Action) -> None:
        """Add an action.

        Raises:
            redis.RedisError: Redis cannot be reached or refuses.
        """
        texts = {name: getattr(action, name)[:LONGEST] for name in ("who", "where", "what", "target", "outcome")}
        await self.client.xadd(self._keys.audit, texts, maxlen=KEPT, approximate=True)  # type: ignore[arg-type]

    async def newest(self, limit: int = 100) -> list[Action]:
        """Return the last actions, the newest first.

        Raises:
            redis.RedisError: Redis cannot be reached or refuses.
        """
        rows: Any = await self.client.xrevrange(self._keys.audit, count=limit)
        return [_action(entry_id, fields) for entry_id, fields in rows]


def _action(entry_id: str, fields: dict[str, str]) -> Action:
    texts = {name: fields.get(name, "") for name in ("who", "where", "what", "target", "outcome")}
    return Action(**texts, at=int(entry_id.partition("-")[0]) / 1000)
