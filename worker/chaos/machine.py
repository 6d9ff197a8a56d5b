"""A state machine over the queue's scripts: short histories of calls, and a small model that says what each must do.

Time is injected: the scripts get a ``redis_time`` that adds what the machine says to Redis' clock, and the idle times
of claims are set accordingly. Leases are so long that the machine's own time does not matter.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, TypeVar

import click
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.servers import plain_server

from orbiter.distributed.broker.calls import Call, core
from orbiter.distributed.broker.keys import Keys
from orbiter.distributed.broker.rates import Counts
from orbiter.distributed.broker.records import Batch, Claim, Entry, Outcome, StartResult
from orbiter.distributed.broker.scripts import SETTINGS as NAMES
from orbiter.distributed.broker.scripts import assemble
from orbiter.distributed.limits import MINUTES
from orbiter.distributed.models import TaskPayload

T = TypeVar("T")

OFFSET = "machine:offset"
CLOCK = f"""
local clock
local function redis_time()
  if not clock then
    clock = redis.call('TIME')
    clock[1] = clock[1] + (redis.call('GET', '{OFFSET}') or 0)
  end
  return clock
end
"""
# Nothing ends by its age here: a history's clock leaps.
SETTINGS = dict.fromkeys(NAMES, 10**8) | {"EVENT_CAP": 10_000, "MINUTES": MINUTES}
LEASE = 1_000_000
STEP = 400_000
MAX_CRASHES = 1
WORKERS = ("a", "b", "c")
ENDED = ("completed", "failed", "cancelled")
KEYS = Keys().of_queue("orbiter:tasks")


@cache
def _source(name: str) -> str:
    with TemporaryDirectory() as directory, as_file(files("orbiter.distributed.broker") / "lua") as scripts:
        folder = Path(directory, "lua")
        shutil.copytree(scripts, folder)
        (folder / "lib" / "redis_time.lua").write_text(CLOCK)
        return assemble(name, SETTINGS, folder=folder)


@dataclass
class Held:
    """A claim in the group's pending list, by the model."""

    entry: str
    deliveries: int
    worker: str
    renewed: float

    @property
    def fence(self) -> str:
        return f"{self.entry} {self.deliveries} {self.worker}"


@dataclass
class Task:
    """A task, by the model."""

    payload: TaskPayload
    status: str = "pending"
    held: Held | None = None
    fence: str = ""
    attempt: int = 0
    retries: int = 0
    losses: int = 0
    worker_losses: int = 0
    expiries: int = 0
    crashes: int = 0
    handoffs: int = 0
    alone: str = ""
    died_at: str = ""
    cancel_asked: bool = False
    delayed: bool = False
    events: list[tuple[int, int]] = field(default_factory=list)
    final: bool = False

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    def end(self, status: str) -> None:
        self.status, self.final, self.held, self.delayed = status, True, None, False

    def lost_too_often(self) -> bool:
        most = MAX_CRASHES + 2
        return self.crashes > MAX_CRASHES or self.losses - self.expiries >= most or self.expiries >= 5 * most


@dataclass
class Mine:
    """A run, by what its worker knows: it may have lost its claim long ago.

    Attributes:
        said: How many events it has sent.
    """

    worker: str
    claim: Claim
    said: int = 0

    @property
    def fence(self) -> str:
        return f"{self.claim.entry_id} {self.claim.deliveries} {self.worker}"


class Scripts(RuleBasedStateMachine):
    """Calls scripts in any order; every call must do what the model says, and what Redis holds be what it knows."""

    # A redis.Redis; what its annotations say of answers is also for clients that do not decode them.
    client: Any
    loaded: ClassVar[dict[str, str]] = {}

    @initialize(later=st.lists(st.booleans(), min_size=2, max_size=4), worker=st.sampled_from(WORKERS))
    def begin(self, later: list[bool], worker: str) -> None:
        """Some tasks wait, and a worker has claimed one: little happens to an empty queue."""
        self.client.flushall()
        self.client.xgroup_create(KEYS.stream, KEYS.group, "0", mkstream=True)
        self.tasks: dict[str, Task] = {}
        self.queue: list[str] = []  # ids of tasks in the order of the entries that nobody has
        self.runs: list[Mine] = []  # everything a worker believes to run, or once did
        self.live: dict[str, list[Mine]] = {name: [] for name in WORKERS}
        self.born = dict.fromkeys(WORKERS, 0.0)
        self.offset = 0
        for is_later in [False, *later]:
            self._submit_new(is_later)
        self.claim(worker, 1, 1)

    def call(self, call: Call[T]) -> T:
        if call.script not in self.loaded:
            self.loaded[call.script] = self.client.script_load(_source(call.script))
        return call.read(self.client.evalsha(self.loaded[call.script], len(call.keys), *call.keys, *call.args))

    def now(self) -> float:
        seconds, micros = self.client.time()
        return float(seconds + micros / 1e6 + self.offset)

    # -- clients ---------------------------------------------------------------------------------------------------

    @rule(known=st.booleans(), later=st.booleans(), data=st.data())
    def submit(self, known: bool, later: bool, data: st.DataObject) -> None:
        if known:
            payload = data.draw(st.sampled_from(list(self.tasks.values()))).payload
            assert self.call(core.submit(KEYS, [(payload, payload.to_json())], ["x"])) == 0
            return
        self._submit_new(later)

    def _submit_new(self, later: bool) -> None:
        due = self.now() + STEP / 2 if later else None
        payload = TaskPayload(task_id=f"t{len(self.tasks)}", input="x", not_before=due)
        assert self.call(core.submit(KEYS, [(payload, payload.to_json())], ["x"])) == 1
        self.tasks[payload.task_id] = Task(payload, delayed=later)
        if not later:
            self.queue.append(payload.task_id)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(list(self.tasks.values())))
        said = self.call(core.cancel(KEYS, task.payload.task_id))
        if task.ended:
            assert said == "finished"
        elif task.status == "running":
            assert said == "requested"
            task.cancel_asked = True
        else:
            assert said == "cancelled"
            held = task.held
            task.end("cancelled")
            task.held, task.cancel_asked = held, True

    # -- claiming --------------------------------------------------------------------------------------------------

    @rule(worker=st.sampled_from(WORKERS), count=st.integers(1, 3), heard=st.integers(0, 3))
    def claim(self, worker: str, count: int, heard: int) -> None:
        """Claim what waits; now and then the answer is lost on the way."""
        self._promote()
        expected, self.queue = self.queue[:count], self.queue[count:]
        call = core.settle_and_claim(KEYS, worker, [], count, max_crashes=MAX_CRASHES, max_bytes=10**6)
        _, begun = self.call(call)
        assert [entry.fields.get("payload") for entry, _ in begun] == [
            self.tasks[task_id].payload.to_json() for task_id in expected
        ]
        for task_id, (entry, started) in zip(expected, begun, strict=True):
            task = self.tasks[task_id]
            task.held = Held(entry.entry_id, 1, worker, self.now())
            self._started(task, started, worker, heard=heard > 0)

    def _promote(self) -> None:
        for task_id in self.client.zrangebyscore(KEYS.delayed, "-inf", self.now() * 1000):
            task = self.tasks[task_id]
            assert task.delayed, f"{task_id} is among the delayed ones"
            task.delayed = False
            self.queue.append(task_id)

    def _started(
        self, task: Task, said: StartResult, worker: str, *, alive: tuple[str, ...] = (), heard: bool = True
    ) -> None:
        """Start what a worker has just claimed, and compare what was said of it."""
        assert task.held is not None
        held = task.held
        if task.ended or task.cancel_asked:
            assert said.verdict == "drop", said
            if not task.ended:
                task.end("cancelled")
            task.held = None
            return
        if task.status == "running" and task.fence == held.fence:
            assert (said.verdict, said.attempt) == ("run", task.attempt), said
        else:
            if task.status == "running" and not self._lose_worker(task, alive):
                assert said.verdict == "dead", said
                task.end("failed")
                return
            task.status, task.fence = "running", held.fence
            task.attempt += 1
            assert (said.verdict, said.attempt) == ("run", task.attempt), said
        assert (said.deliveries, said.retries, said.alone) == (held.deliveries, task.retries, task.alone), said
        held.renewed = self.now()
        if heard:
            claim = Claim(held.entry, task.payload, held.deliveries, task.attempt, task.retries, said.alone, "")
            mine = Mine(worker, claim)
            self.runs.append(mine)
            self.live[worker].append(mine)

    def _lose_worker(self, task: Task, alive: tuple[str, ...]) -> bool:
        """Count the loss of a worker; tell whether the task may run again."""
        lives = task.fence.split(" ")[2] in alive
        task.losses += 1
        task.worker_losses += not lives
        task.expiries += lives
        task.crashes += task.alone == "worker" and not lives
        if task.lost_too_often():
            return False
        if task.worker_losses >= 2:
            task.alone = "worker"
        return True

    @rule(worker=st.sampled_from(WORKERS), dies=st.booleans(), owner_lives=st.booleans())
    def reclaim(self, worker: str, dies: bool, owner_lives: bool) -> None:
        """Claim what others have not renewed; its claimer may die before it starts any of it."""
        others = {name: float(LEASE) for name in WORKERS if name != worker}
        entries = self.call(core.reclaim(KEYS, worker, 10, others))
        due = {
            task.held.entry: task
            for task in self.tasks.values()
            if task.held and task.held.worker != worker and self.now() - task.held.renewed >= LEASE
        }
        assert {entry.entry_id for entry in entries} == set(due)
        for task in due.values():
            assert task.held is not None
            task.held.worker, task.held.renewed = worker, self.now()
            task.held.deliveries += 1
        if not dies:
            self._start(worker, entries, alive=tuple(others) if owner_lives else ())

    def _start(self, worker: str, entries: list[Entry], *, alive: tuple[str, ...] = ()) -> None:
        by_entry = {task.held.entry: task for task in self.tasks.values() if task.held}
        rows = [(entry, by_entry[entry.entry_id].payload) for entry in entries]
        if not rows:
            return
        said = self.call(core.start(KEYS, worker, rows, max_crashes=MAX_CRASHES, alive=alive))
        for (entry, _), started in zip(rows, said, strict=True):
            self._started(by_entry[entry.entry_id], started, worker, alive=alive)

    @rule(worker=st.sampled_from(WORKERS), restarts=st.booleans())
    def recover(self, worker: str, restarts: bool) -> None:
        """Read the own history, after a lost connection or at the start of another process under the same id."""
        if restarts:
            self.live[worker].clear()
            self._pass(1)
            self.born[worker] = self.now()
        running = {mine.claim.entry_id for mine in self.live[worker]}
        call = core.recover(KEYS, worker, 100, running=running, given_up={}, born=self.born[worker])
        entries = self.call(call)
        found = [task for task in self.tasks.values() if task.held and task.held.worker == worker]
        expected = {task.held.entry: task.held for task in found if task.held and task.held.entry not in running}
        assert {entry.entry_id for entry in entries} == set(expected)
        for held in expected.values():
            if held.renewed < self.born[worker]:
                held.deliveries += 1
            held.renewed = self.now()
        self._start(worker, entries)

    @rule(worker=st.sampled_from(WORKERS))
    def crash(self, worker: str) -> None:
        """The worker is gone, with all that it knew; its claims are not."""
        self.live[worker].clear()

    # -- what runs -------------------------------------------------------------------------------------------------

    def _any_run(self, data: st.DataObject) -> tuple[Mine, Task]:
        """Draw a run: rather one of the latest, though any may still want to say something."""
        mine = data.draw(st.sampled_from(self.runs[-3:] + self.runs))
        return mine, self.tasks[mine.claim.task.task_id]

    def _over(self, mine: Mine) -> None:
        for live in self.live.values():
            if mine in live:
                live.remove(mine)

    @staticmethod
    def _holds(mine: Mine, task: Task) -> bool:
        return task.held is not None and task.held.fence == mine.fence

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), status=st.sampled_from(("completed", "failed", "cancelled")))
    def settle(self, data: st.DataObject, status: str) -> None:
        mine, task = self._any_run(data)
        seq = mine.said + 1
        event = f'{{"type": "status", "seq": {seq}}}'
        outcome = Outcome(mine.claim, status, "{}", "E" if status == "failed" else "", seq, event)
        call = core.settle_and_claim(KEYS, mine.worker, [outcome], 0, max_crashes=MAX_CRASHES, max_bytes=10**6)
        [said] = self.call(call)[0]
        self._over(mine)
        if task.ended:
            assert said == (task.status if task.fence == mine.fence else "lost")
        elif self._holds(mine, task):
            assert said == status
            task.end(status)
        else:
            assert said == "lost"

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), delay=st.sampled_from((0.0, STEP / 2)))
    def retry(self, data: st.DataObject, delay: float) -> None:
        mine, task = self._any_run(data)
        payload = mine.claim.task.to_json()
        said = self.call(core.retry(KEYS, mine.worker, mine.claim, payload, delay=delay, error="e", error_type="E"))
        self._over(mine)
        if self._put_back(mine, task, said, "retrying"):
            task.retries += 1
            if delay:
                task.delayed = True
                self.queue.remove(task.payload.task_id)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        mine, task = self._any_run(data)
        said = self.call(core.requeue(KEYS, mine.worker, mine.claim, mine.claim.task.to_json()))
        self._over(mine)
        if self._put_back(mine, task, said, "pending"):
            task.handoffs += 1

    def _put_back(self, mine: Mine, task: Task, said: str, status: str) -> bool:
        if not self._holds(mine, task):
            assert said == "lost"
            return False
        if task.cancel_asked:
            assert said == "cancelled"
            task.end("cancelled")
            return False
        assert said == status
        task.status, task.held = status, None
        self.queue.append(task.payload.task_id)
        return True

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), guilty=st.booleans())
    def lose(self, data: st.DataObject, guilty: bool) -> None:
        """The process that ran it has died."""
        mine, task = self._any_run(data)
        payload, claim = mine.claim.task.to_json(), mine.claim
        call = core.lose(
            KEYS,
            mine.worker,
            claim,
            payload,
            reason="it died",
            error_type="X",
            guilty=guilty,
            max_crashes=MAX_CRASHES,
        )
        said = self.call(call)
        self._over(mine)
        if not self._holds(mine, task) or task.cancel_asked:
            self._put_back(mine, task, said, "pending")
            return
        task.losses += 1
        if claim.alone:
            task.crashes += guilty or task.died_at not in {"", mine.worker}
            task.died_at = mine.worker
        if task.lost_too_often():
            assert said == "failed"
            task.end("failed")
            return
        task.alone = "worker" if "worker" in {task.alone, claim.alone} else "child"
        self._put_back(mine, task, said, "pending")

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), number=st.integers(1, 3), again=st.booleans())
    def say(self, data: st.DataObject, number: int, again: bool) -> None:
        """Add events, now and then a call that was sent before."""
        mine, task = self._any_run(data)
        first = max(1, mine.said + 1 - number) if again else mine.said + 1
        events = [f'{{"type": "text", "seq": {first + n}}}' for n in range(number)]
        self.call(core.append_events(KEYS, [Batch(task.payload.task_id, mine.claim.attempt, first, events)]))
        mine.said = max(mine.said, first + number - 1)
        if not task.ended and task.attempt == mine.claim.attempt:
            known = [seq for attempt, seq in task.events if attempt == task.attempt]
            last = max(known, default=0)
            task.events += [(task.attempt, first + n) for n in range(number) if first + n > last]

    @rule(worker=st.sampled_from(WORKERS), everything=st.booleans())
    def renew(self, worker: str, everything: bool) -> None:
        """Renew what the worker believes to run; or all that it ever did, as after it was frozen."""
        mine = [run for run in self.runs if run.worker == worker] if everything else self.live[worker]
        verdicts = self.call(core.renew(KEYS, worker, [run.claim for run in mine], lease=LEASE))
        for run, verdict in zip(list(mine), verdicts, strict=True):
            task = self.tasks[run.claim.task.task_id]
            if self._holds(run, task):
                assert task.held is not None
                task.held.renewed = self.now()
                assert verdict == ("cancel" if task.cancel_asked else "ok")
            else:
                assert verdict == "lost"

    # -- time, and the janitor -------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from((1, STEP, LEASE + 1)))
    def wait(self, seconds: int) -> None:
        self._pass(seconds)

    def _pass(self, seconds: int) -> None:
        self.offset += seconds
        self.client.set(OFFSET, self.offset)
        for row in self.client.xpending_range(KEYS.stream, KEYS.group, "-", "+", 1000):
            idle = row["time_since_delivered"] + seconds * 1000
            place = row["message_id"], "IDLE", idle, "RETRYCOUNT", row["times_delivered"], "JUSTID"
            self.client.execute_command("XCLAIM", KEYS.stream, KEYS.group, row["consumer"], 0, *place)

    @rule(worker=st.sampled_from((*WORKERS, "")))
    def tidy(self, worker: str) -> None:
        """A worker leaves, or the janitor takes all of them for dead: consumers go, and no claim with them."""
        if worker:
            self.call(core.deregister(KEYS, worker, "life", Counts()))
        else:
            self.call(core.tidy(KEYS, WORKERS, dead_letters_ttl=10**7))

    # -- what must hold --------------------------------------------------------------------------------------------

    @invariant()
    def redis_holds_what_the_model_says(self) -> None:
        with self.client.pipeline(transaction=False) as pipeline:
            pipeline.xpending_range(KEYS.stream, KEYS.group, "-", "+", 1000)
            pipeline.xrange(KEYS.stream)
            pipeline.zrange(KEYS.delayed, 0, -1)
            pipeline.hkeys(KEYS.parked)
            for task_id in self.tasks:
                pipeline.hgetall(KEYS.task(task_id))
                pipeline.xrange(KEYS.event_stream(task_id))
            rows, entries, delayed, parked, *of_tasks = pipeline.execute()
        pending = {row["message_id"]: (row["consumer"], row["times_delivered"]) for row in rows}
        held = [task.held for task in self.tasks.values() if task.held]
        assert pending == {claim.entry: (claim.worker, claim.deliveries) for claim in held}
        waiting = [json.loads(fields["payload"])["task_id"] for entry, fields in entries if entry not in pending]
        assert waiting == self.queue
        assert set(pending) <= {entry for entry, _ in entries}
        expected = {task_id for task_id, task in self.tasks.items() if task.delayed}
        assert set(delayed) == expected == set(parked)
        for (task_id, task), record, stream in zip(self.tasks.items(), of_tasks[::2], of_tasks[1::2], strict=True):
            self._check_record(task_id, task, record)
            self._check_events(task, [fields["at"] for _, fields in stream])

    def _check_record(self, task_id: str, task: Task, record: dict[str, str]) -> None:
        assert record["status"] == task.status, (record, task)
        names = ("attempt", "retries", "losses", "crashes", "handoffs")
        assert {name: int(record.get(name) or 0) for name in names} == {name: getattr(task, name) for name in names}
        assert task.attempt <= 1 + task.retries + task.losses + task.handoffs, task
        if not task.ended:
            places = [task.held is not None, task.delayed, task_id in self.queue]
            assert sum(places) == 1, task

    @staticmethod
    def _check_events(task: Task, rows: list[str]) -> None:
        finals = [at for at in rows if at.endswith("!")]
        assert [tuple(map(int, at.split("-"))) for at in rows if not at.endswith("!")] == task.events, (rows, task)
        record_tells = task.status == "completed" and not task.events
        assert len(finals) == (task.final and not record_tells), (rows, task)
        assert not finals or rows[-1] == finals[0], rows

    def teardown(self) -> None:
        """Whatever happened: one worker that is left ends all of it, and nothing stays on the queue."""
        if not hasattr(self, "tasks"):
            return
        for worker in WORKERS:
            self.live[worker].clear()
        for _ in range(4 * len(self.tasks) + 4):
            if all(task.ended for task in self.tasks.values()) and not self.queue:
                break
            self._pass(LEASE + 1)
            self.reclaim("a", dies=False, owner_lives=False)
            self.recover("a", restarts=False)
            self.claim("a", 3, heard=1)
            for mine in list(self.live["a"]):
                outcome = Outcome(mine.claim, "completed", "{}", "", mine.said + 1, "{}")
                call = core.settle_and_claim(KEYS, "a", [outcome], 0, max_crashes=MAX_CRASHES, max_bytes=10**6)
                assert self.call(call)[0] == ["completed"]
                self.tasks[mine.claim.task.task_id].end("completed")
                self._over(mine)
        self._pass(LEASE + 1)
        self.reclaim("a", dies=False, owner_lives=False)
        self.recover("a", restarts=False)
        assert all(task.ended for task in self.tasks.values()), self.tasks
        assert self.client.xlen(KEYS.stream) == 0
        assert not self.client.exists(KEYS.delayed, KEYS.parked)


def machine(port: int) -> type[Scripts]:
    """Return the machine for the Redis on a port, which it empties again and again."""
    client = redis.Redis(port=port, decode_responses=True, protocol=2)
    return type("ScriptsHere", (Scripts,), {"client": client, "loaded": {}})


def run_machine(port: int, *, seed: int, examples: int, steps: int = 50) -> None:
    """Play so many short histories.

    Raises:
        AssertionError: A call did otherwise than the model says; such a history is printed.
    """
    limits = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
        print_blob=False,
    )
    run_state_machine_as_test(seeded(seed)(machine(port)), settings=limits)


@click.command()
@click.option("--seed", default=1, show_default=True, help="What the histories are drawn from.")
@click.option("--examples", default=300, show_default=True, help="How many there are.")
def main(seed: int, examples: int) -> None:
    """Play short histories of calls against a Redis of its own."""
    with TemporaryDirectory() as directory, plain_server(Path(directory)) as server:
        run_machine(server.port, seed=seed, examples=examples)


if __name__ == "__main__":
    main()
