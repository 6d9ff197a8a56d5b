"""How many instances a queue needs: a table of single decisions, what holds for all, and a day's load."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from itertools import pairwise

import pytest
from ansible_collections.orbiter.fleet.plugins.module_utils._autoscale import Host, Queue, decide
from hypothesis import given
from hypothesis import strategies as st

RULES = {"target": 30, "patience": 300}
TWO = {"a": Host(1, 1, 4, 4), "b": Host(1, 1, 4, 4)}
SIX = {"a": Host(3, 1, 4, 4), "b": Host(3, 1, 4, 4)}


@pytest.mark.parametrize(
    ("queue", "hosts", "calm_since", "direction", "instances"),
    [
        # Up at once: as many as the tasks need, at least one more, at most twice as many, never above the limit.
        (Queue(9, 31, 8), TWO, None, "up", {"a": 2, "b": 2}),
        (Queue(1, 31, 8), TWO, None, "up", {"a": 2, "b": 1}),
        (Queue(900, 31, 8), TWO, None, "up", {"a": 2, "b": 2}),
        (Queue(900, 31, 24), SIX, None, "up", {"a": 4, "b": 4}),
        (Queue(900, 31, 32), {"a": Host(4, 1, 4, 4)}, None, "stay", {"a": 4}),
        # Half the target is enough where more tasks wait than there are slots.
        (Queue(9, 16, 8), TWO, None, "up", {"a": 2, "b": 2}),
        (Queue(8, 16, 8), TWO, None, "stay", {"a": 1, "b": 1}),
        (Queue(9, 14, 8), TWO, None, "stay", {"a": 1, "b": 1}),
        # Quiet ones have no slots.
        (Queue(5, 16, 4), {"a": Host(2, 1, 4, 4, 1)}, None, "up", {"a": 4}),
        (Queue(0, 0, 4), {"a": Host(3, 1, 4, 4, 1)}, 0, "stay", {"a": 3}),
        (Queue(1, 0, 0), {"a": Host(1, 0, 4, 4, 1)}, None, "up", {"a": 2}),
        # From nothing.
        (Queue(1, 0, 0), {"a": Host(0, 0, 4, 4)}, None, "up", {"a": 1}),
        (Queue(0, 0, 0), {"a": Host(0, 0, 4, 4)}, None, "stay", {"a": 0}),
        # The host with the largest share of its limit left grows, whatever the numbers are.
        (Queue(1, 31, 8), {"a": Host(2, 1, 4, 4), "b": Host(3, 1, 9, 4)}, None, "up", {"a": 2, "b": 4}),
        # Down after the calm time, one at a time, to nothing where that is allowed.
        (Queue(0, 0, 2), SIX, None, "stay", {"a": 3, "b": 3}),
        (Queue(0, 0, 2), SIX, 701, "stay", {"a": 3, "b": 3}),
        (Queue(0, 0, 2), SIX, 700, "down", {"a": 3, "b": 2}),
        (Queue(0, 0, 15), SIX, 0, "down", {"a": 3, "b": 2}),
        (Queue(0, 0, 16), SIX, 0, "stay", {"a": 3, "b": 3}),
        (Queue(1, 16, 2), SIX, 0, "stay", {"a": 3, "b": 3}),
        (Queue(0, 0, 0), {"a": Host(1, 0, 4, 4)}, 0, "down", {"a": 0}),
        (Queue(0, 0, 0), TWO, 0, "stay", {"a": 1, "b": 1}),
        (Queue(0, 0, 0), {"a": Host(40, 1, 50, 4)}, 0, "down", {"a": 36}),
        # Limits come first.
        (Queue(0, 0, 0), {"a": Host(0, 2, 4, 4)}, None, "up", {"a": 2}),
        (Queue(99, 99, 40), {"a": Host(9, 2, 4, 4)}, None, "down", {"a": 4}),
        (Queue(9, 99, 9), {}, None, "stay", {}),
    ],
)
def test_one_decision(queue, hosts, calm_since, direction, instances):
    plan = decide(queue, hosts, **RULES, now=1000, calm_since=calm_since)
    assert (plan.direction, plan.instances) == (direction, instances)
    assert plan.reason


def test_calm_is_remembered_until_something_waits():
    first = decide(Queue(), SIX, **RULES, now=1000)
    assert first.calm_since == 1000
    assert decide(Queue(), SIX, **RULES, now=1100, calm_since=1000).calm_since == 1000
    assert decide(Queue(1, 16, 2), SIX, **RULES, now=1100, calm_since=1000).calm_since is None
    assert decide(Queue(1, 31, 2), SIX, **RULES, now=1100, calm_since=1000).calm_since is None
    step = decide(Queue(), SIX, **RULES, now=1300, calm_since=1000)
    assert (step.direction, step.calm_since) == ("down", 1300)


def test_calm_since_a_time_to_come_is_calm_since_now():
    """The clock went back."""
    plan = decide(Queue(), SIX, **RULES, now=1000, calm_since=5000)
    assert (plan.direction, plan.calm_since) == ("stay", 1000)


hosts_of_all_kinds = st.dictionaries(
    st.sampled_from("abcdef"),
    st.tuples(st.integers(0, 9), st.integers(0, 5), st.integers(0, 9), st.integers(1, 8)).map(
        lambda row: Host(row[0], row[1], row[1] + row[2], row[3])
    ),
    max_size=6,
)
queues_of_all_kinds = st.builds(
    lambda waiting, oldest, claimed: Queue(waiting, oldest if waiting else 0.0, claimed),
    st.integers(0, 500),
    st.floats(0, 900),
    st.integers(0, 200),
)


@given(queues_of_all_kinds, hosts_of_all_kinds, st.none() | st.floats(0, 2000))
def test_whatever_there_is_the_plan_is_within_limits_and_goes_one_way(queue, hosts, calm_since):
    plan = decide(queue, hosts, **RULES, now=1000, calm_since=calm_since)
    assert set(plan.instances) == set(hosts)
    assert all(hosts[name].least <= count <= hosts[name].most for name, count in plan.instances.items())
    if any(not host.least <= host.instances <= host.most for host in hosts.values()):
        return
    before, after = sum(host.instances for host in hosts.values()), sum(plan.instances.values())
    assert plan.direction == ("up" if after > before else "down" if after < before else "stay")
    assert max(0, before - max(1, before // 10)) <= after <= max(1, 2 * before)
    if queue.oldest > RULES["target"]:
        assert plan.direction != "down"
    if plan.direction == "down":
        assert plan.calm_since == 1000
        assert calm_since <= 700


class Day:
    """A day's load on four hosts: still nights, two peaks, a burst; what comes is drawn by a seed."""

    LONG = 24 * 3600
    EVERY = 30  # seconds between two decisions
    START = 15  # until a new instance claims
    RUNS = 20.0  # seconds that a task takes, on average

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.hosts = {name: Host(1, 1, 8, 4) for name in "abcd"}
        self.waits, self.counts, self.steps = [], [], []

    def rate(self, second):
        """Return how many tasks a second come."""
        hour = second / 3600
        if hour > 22:
            return 0.02
        peaks = 2.5 * math.exp(-(((hour - 10.5) / 1.8) ** 2)) + 3.2 * math.exp(-(((hour - 15) / 1.5) ** 2))
        return 0.1 + peaks + (2.0 if 12.5 < hour < 12.6 else 0)

    def run(self):
        """Simulate it, second by second."""
        waiting, ends, ready = deque(), [], []
        calm_since, slots = None, self.slots()
        for second in range(self.LONG):
            while ready and ready[0][0] <= second:
                slots += heapq.heappop(ready)[1]
            while ends and ends[0] <= second:
                heapq.heappop(ends)
            waiting.extend([second] * self.arrivals(self.rate(second)))
            while waiting and len(ends) < slots:
                self.waits.append(second - waiting.popleft())
                heapq.heappush(ends, second + self.random.expovariate(1 / self.RUNS))
            if second % self.EVERY == 0:
                oldest = second - waiting[0] if waiting else 0
                queue = Queue(len(waiting), oldest, len(ends))
                plan = decide(queue, self.hosts, **RULES, now=second, calm_since=calm_since)
                calm_since, before = plan.calm_since, self.slots()
                for name, count in plan.instances.items():
                    self.hosts[name] = Host(count, 1, 8, 4)
                if plan.direction != "stay":
                    self.steps.append((second, plan.direction))
                if (more := self.slots() - before) > 0:
                    heapq.heappush(ready, (second + self.START, more))
                slots += min(0, more)  # what drains claims no more; its tasks run on
                self.counts.append(sum(plan.instances.values()))

    def arrivals(self, rate):
        """Draw how many tasks come within a second (Poisson)."""
        limit, count, product = math.exp(-rate), 0, self.random.random()
        while product > limit:
            count, product = count + 1, product * self.random.random()
        return count

    def slots(self):
        """Return how many tasks can run when all that is started has come."""
        return sum(host.instances * host.slots for host in self.hosts.values())


@pytest.mark.parametrize("seed", range(1, 7))
def test_a_day_with_peaks(seed):
    day = Day(seed)
    day.run()
    waits = sorted(day.waits)
    p50, p95 = (waits[int(len(waits) * share)] for share in (0.5, 0.95))
    turns = [later for earlier, later in pairwise(day.steps) if earlier[1] != later[1]]
    hours = sum(day.counts) * Day.EVERY / 3600
    print(  # noqa: T201 - pytest shows it where the test fails
        f"seed {seed}: {len(waits)} tasks, wait p50 {p50} s, p95 {p95} s, longest {waits[-1]} s; {len(day.steps)} "
        f"steps, {len(turns)} turns, at most {max(day.counts)} instances, {hours:.0f} hours of instances"
    )
    assert p95 < RULES["target"]
    assert len(day.steps) >= 30
    # It follows the load and not chance: two peaks and a burst are six turns, some more are noise.
    assert len(turns) <= 20
    # Nobody is taken away and wanted again within minutes.
    again = [
        later[0] - earlier[0] for earlier, later in pairwise(day.steps) if (earlier[1], later[1]) == ("down", "up")
    ]
    assert sum(gap < 120 for gap in again) <= 2
    # It pays: a fleet that is always as large as the peak needs more than twice as much.
    assert hours < max(day.counts) * 24 / 2
    assert day.counts[-1] == 4
