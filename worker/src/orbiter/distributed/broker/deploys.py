"""Deploys: the last runs of playbooks that changed the fleet. The playbooks write them; everybody else only reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from orbiter.distributed.broker.namespaced import Namespaced

if TYPE_CHECKING:
    from collections.abc import Iterable

# What the beginning of a run says in the place of its outcome.
BEGAN = "began"


@dataclass(frozen=True, slots=True)
class Deploy:
    """One run of a playbook. Times are epoch seconds by Redis' clock.

    Attributes:
        token: Tells it from others.
        what: The playbook.
        who: Who ran it.
        where: On which machine.
        release: The release that it was to bring; empty where it brought none, or did not know.
        began: When it began; ``None`` where only its end is known.
        ended: When it ended, ``None`` where nothing says so.
        outcome: ``ended``, ``failed``, ``interrupted``, or empty for the last run of all, as long as nothing says more.
    """

    token: str
    what: str = ""
    who: str = ""
    where: str = ""
    release: str = ""
    began: float | None = None
    ended: float | None = None
    outcome: str = ""


class Deploys(Namespaced):
    """The stream of deploys of a namespace."""

    async def newest(self, limit: int = 10) -> list[Deploy]:
        """Return the last deploys, the newest first.

        Raises:
            redis.RedisError: Redis cannot be reached or refuses.
        """
        # A run writes its beginning and its end.
        try:
            rows: Any = await self.client.xrevrange(self._keys.deploys, count=2 * limit)
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            rows = []
        return list(reversed(read(reversed(rows))))[:limit]


def read(rows: Iterable[tuple[str, dict[str, str]]]) -> list[Deploy]:
    """Put the rows of the stream together, the oldest first.

    One deploys at a time: a run that has not said that it ended when another one began was interrupted.
    """
    found: list[Deploy] = []
    for entry_id, fields in rows:
        at, outcome = int(entry_id.partition("-")[0]) / 1000, fields.get("outcome", "")
        token, release = fields.get("token", ""), fields.get("release", "")
        last = found[-1] if found else None
        if outcome != BEGAN and last is not None and last.token == token and last.ended is None:
            found[-1] = replace(last, ended=at, outcome=outcome, release=release or last.release)
            continue
        if last is not None and last.ended is None and not last.outcome:
            found[-1] = replace(last, outcome="interrupted")
        deploy = Deploy(
            token, fields.get("playbook", ""), fields.get("user", ""), fields.get("controller", ""), release
        )
        found.append(
            replace(deploy, began=at) if outcome == BEGAN else replace(deploy, ended=at, outcome=outcome or "ended")
        )
    return found
