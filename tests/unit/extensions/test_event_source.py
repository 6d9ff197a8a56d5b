"""The event source, as ansible-rulebook runs it: by its path, with a queue of asyncio; a real Redis, a real worker."""

from __future__ import annotations

import asyncio
import runpy

import pytest
import yaml
from conftest import CHECKOUT, COMMAND, free_port

EDA = CHECKOUT / "extensions/eda"
ECHO = {"runtime": "callable", "target": "jobs:echo"}


@pytest.fixture
def source():
    """Return what ansible-rulebook makes of the file."""
    return runpy.run_path(str(EDA / "plugins/event_source/autoscale.py"))


@pytest.fixture
def events(source, server):
    """Return a function that runs the source until it has sent so many events, or for so long; it gives the events.

    Once they have come it listens for some seconds more, if it is to.
    """

    def run(*, count=1, within=60.0, more=0.0, **args):
        async def collect():
            queue = asyncio.Queue()
            given = {"redis_url": server.url, "executable": COMMAND, "max": 4, "delay": 0.1} | args
            task = asyncio.create_task(source["main"](queue, given))
            found = []
            try:
                async with asyncio.timeout(within):
                    while len(found) < count:
                        found.append((await queue.get())["autoscale"])
                async with asyncio.timeout(more):
                    while more:
                        found.append((await queue.get())["autoscale"])
            except TimeoutError:
                pass
            finally:
                if task.done():
                    task.result()  # its error
                task.cancel()
            return found

        return asyncio.run(collect())

    return run


def test_tasks_and_nobody_is_a_reason_for_more(events, run):
    run("task", agent=ECHO, wait=False)
    (event,) = events(hosts={"w1": {}, "w2": {"max": 2}}, min=0)
    assert event["direction"] == "up"
    assert (event["instances"], event["wanted"]) == (0, 1)
    assert sum(event["hosts"].values()) == 1
    assert event["waiting"] == 1


def test_workers_that_live_are_counted_and_a_step_down_tells_how_long_it_was_calm(events, worker):
    worker()
    (event,) = events(min=0, patience=1)
    assert event["direction"] == "down"
    assert (event["instances"], event["wanted"]) == (1, 0)
    assert 1 <= event["calm"] < 60


def test_nothing_is_said_where_nothing_is_to_do(events, worker):
    worker()
    assert events(within=5, min=1) == []


def test_redis_that_does_not_answer_is_said_once(events):
    event, *more = events(more=5, redis_url=f"redis://:s3cret@127.0.0.1:{free_port()}")
    assert event["direction"] == "unknown"
    assert "s3cret" not in event["reason"]
    assert more == []


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ({"max": None}, "max is None"),
        ({"min": 5}, "min is 5 and max 4"),
        ({"patience": "long"}, "patience is 'long'"),
        ({"delay": 0}, "delay is 0"),
        ({"hosts": ["w1"]}, "hosts is"),
        ({"hosts": {"w1": {"max": -1}}}, "max is -1"),
    ],
)
def test_wrong_option_ends_it_by_name(source, args, named):
    with pytest.raises(ValueError, match=named):
        asyncio.run(source["main"](asyncio.Queue(), {"max": 4, "executable": COMMAND} | args))


def test_rulebook_names_the_source_and_a_playbook_and_variables_that_there_are():
    (rules,) = yaml.safe_load((EDA / "rulebooks/autoscale.yml").read_text())
    names = {name for source in rules["sources"] for name in source} - {"name"}
    assert {f"orbiter.fleet.{path.stem}" for path in (EDA / "plugins/event_source").glob("*.py")} == names
    plays = [rule["action"]["run_playbook"] for rule in rules["rules"] if "run_playbook" in rule["action"]]
    assert {play["name"] for play in plays} == {"orbiter.fleet.autoscale"}
    documented = yaml.safe_load((CHECKOUT / "playbooks/meta/argument_specs.yml").read_text())["argument_specs"]
    given = {name for play in plays for name in play.get("extra_vars", {})}
    assert given
    assert given <= set(documented["main"]["options"])
    assert (CHECKOUT / "playbooks/autoscale.yml").exists()
