"""ClaimFlow: the flow of claims through this process, and how many more may come."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orbiter.distributed.execution.running import RunTable
from orbiter.distributed.worker.troubles import Troubles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orbiter.distributed.broker.records import Claim, Delivery

# For so long after a reply to outcomes was lost a slot may become free at any moment: the outcomes are sent again.
SLOT_EXPECTED = 1.0


@dataclass(slots=True)
class Arrival:
    """Claims that came with recorded outcomes.

    Attributes:
        begun: The claims.
        asked: When they were asked for (monotonic): their leases began then at the earliest.
    """

    begun: Sequence[Delivery]
    asked: float


class ClaimFlow:
    """Knows what is claimed, what runs and what may still come. The parts tell it and ask it, and not each other.

    Args:
        slots: How many tasks run at the same time.
        lease: Lifetime of a lease, seconds.
        clock: Monotonic seconds.

    Attributes:
        runs: What runs in the slots; each holds a claim.
        available: Whether the executor can take tasks.
        delegated: Slots that are taken although no claim is held for them.
        heard: When Redis last took a heartbeat (monotonic); the lease keeper sets it.
        open: Whether claims may come at all; the fetcher sets it.
        full: Whether the fetcher waits for a slot: nobody claims beside what comes with outcomes then.
        look_again: Set when the fetcher should look again.
        news: Set when the heartbeat would say something new.
        none_under_way: Set while no claims are under way that come with outcomes.
        recover: Whether to look for tasks that are pending on this worker, but do not run here.
        slot_expected_until: Until when (monotonic) tasks that are found wait for a slot rather than being requeued.
        given_up: The delivery counts of claims whose runs were given up, by entry id.
        troubles: Told which steps fail.
    """

    def __init__(self, slots: int, *, lease: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.runs = RunTable(clock=clock)
        self.available = True
        self.delegated = 0
        self.heard = clock()
        self.open = True
        self.full = False
        self.look_again = asyncio.Event()
        self.news = asyncio.Event()
        self.none_under_way = asyncio.Event()
        self.none_under_way.set()
        # An earlier process of this name may have left tasks.
        self.recover = True
        self.given_up: dict[str, int] = {}
        self.slot_expected_until = 0.0
        self.troubles = Troubles(lease, clock=clock)
        self._slots = slots
        self._lease = lease
        self._clock = clock
        self._check_at = 0.0
        self._under_way = 0
        self._arrivals: list[Arrival] = []
        self._arriving = 0

    # -- how many more ---------------------------------------------------------------------------------------------

    @property
    def heartbeat_overdue(self) -> bool:
        """Whether the heartbeat may have run out: until the next one, another process may have this worker's id."""
        return self._clock() - self.heard >= self._lease

    @property
    def free(self) -> int:
        """How many slots are free for a claim now."""
        if not self.available or self.heartbeat_overdue:
            return 0
        return self._unclaimed

    @property
    def _unclaimed(self) -> int:
        return self._slots - len(self.runs.held) - self._arriving - self.delegated

    def changed(self) -> None:
        """Take note that a slot was taken or is free, or that the executor has changed."""
        self.news.set()
        # The cheap part of the question first: most often every slot is taken.
        if self._unclaimed > 0 and self.free > 0:
            self.look_again.set()

    # -- claims that come with recorded outcomes -------------------------------------------------------------------

    def reserve(self, freed: int) -> int:
        """Return how many claims may come with a call that frees so many slots.

        They may while every slot is taken, so that nobody claims beside them, and nothing else is to be done first.
        """
        if not (self.full and self.open and self.available) or self.recover or self.heartbeat_overdue:
            return 0
        count = max(0, min(freed, self._unclaimed + freed))
        if count:
            self._under_way += 1
            self.none_under_way.clear()
        return count

    def deliver(self, begun: Sequence[Delivery], asked: float) -> None:
        """Take what came with outcomes, asked for at that moment (monotonic); the fetcher starts it."""
        self._come()
        if begun:
            self._arrivals.append(Arrival(begun, asked))
            self._arriving += len(begun)
        if begun or not self.open or self.recover:
            self.look_again.set()

    def mark_unknown(self) -> None:
        """Mark the deliveries of a call as unknown: its reply was lost."""
        self._come()
        self.slot_expected_until = self._clock() + SLOT_EXPECTED
        self.look_for_pending()

    def _come(self) -> None:
        self._under_way -= 1
        if self._under_way == 0:
            self.none_under_way.set()

    @property
    def has_arrivals(self) -> bool:
        """Whether claims have come that were not started yet."""
        return bool(self._arrivals)

    def take_arrivals(self) -> list[Arrival]:
        """Return what has come; it is the caller's to start, at once."""
        arrivals, self._arrivals, self._arriving = self._arrivals, [], 0
        return arrivals

    # -- what is pending here and does not run ---------------------------------------------------------------------

    def give_up(self, claim: Claim) -> None:
        """Take note that a run was given up as lost; if its entry is still pending here, it is taken up again."""
        self.given_up[claim.entry_id] = claim.deliveries
        self.look_for_pending()

    def look_for_pending(self) -> None:
        """Look for tasks that are pending on this worker, but do not run here."""
        self.recover = True
        self.look_again.set()

    def check(self) -> None:
        """Do so unless that was done a moment ago: a call that was given up may arrive late."""
        if self._clock() >= self._check_at:
            self._check_at = self._clock() + self._lease / 4
            self.look_for_pending()
