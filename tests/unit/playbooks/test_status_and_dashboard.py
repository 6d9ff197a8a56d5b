"""What `status` says of a fleet and what the dashboard shows of it is the same: one fleet, looked at by both."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import time
from contextlib import contextmanager
from html.parser import HTMLParser
from urllib.request import urlopen

import pytest
from ansible_collections.orbiter.fleet.plugins.filter.fleet_page import fleet_page
from ansible_collections.orbiter.fleet.plugins.module_utils._command import Command
from ansible_collections.orbiter.fleet.plugins.module_utils._health import Expected
from ansible_collections.orbiter.fleet.plugins.modules.worker_status import told
from conftest import COMMAND, wait_until

ALICE = {"token": "a" * 32, "user": "alice", "controller": "laptop", "pid": 17, "playbook": "orbiter.fleet.site"}
ALICE["machine"] = "m"
RELEASES = ("0.1.0-9a8b7c6d", "0.2.0-1f2e3d4c")
NUMBERS = {"waiting": "Waiting", "running": "Running", "delayed": "Delayed", "dead": "Dead letters"}
# A row of the last deploys: what, who, where, when, and how it ended.
DEPLOY = re.compile(r"<b>([^<]*)</b> by (\S+) on (\S+).*?<time datetime=\"(.{16}).*?state-\S+\">([a-z ]+)<", re.DOTALL)


class Table(HTMLParser):
    """Reads a page's cells by their labels, a row at a time, and its cards by their titles."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.cards, self._cell, self._card, self._title = [], {}, None, "", ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        # What stands below a value is no part of it.
        if self._cell:
            self.rows[-1][self._cell] += " "
        elif self._card == "dd":
            self.cards[self._title] += " "
        if tag == "tr":
            self.rows.append({})
        elif tag == "td" and "data-label" in found:
            self._cell = found["data-label"]
            self.rows[-1][self._cell] = ""
        elif tag == "dt":
            self._card, self._title = tag, ""
        elif tag == "dd":
            self._card, self.cards[self._title] = tag, ""

    def handle_data(self, data):
        if self._cell:
            self.rows[-1][self._cell] += data
        elif self._card == "dt":
            self._title += data
        elif self._card == "dd":
            self.cards[self._title] += data

    def handle_endtag(self, tag):
        if tag == "td":
            self._cell = None
        elif tag in ("dt", "dd"):
            self._card = ""


@contextmanager
def dashboard(server):
    """Serve the dashboard; return a function that gets a page of it."""
    words = [COMMAND, "dashboard", "--port", "0"]
    environment = os.environ | {"ORBITER_REDIS_URL": server.url}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            address = re.findall(r"http://[0-9.:]+", process.stdout.readline())[0]
            yield lambda path: urlopen(address + path, timeout=30).read().decode()
        finally:
            process.terminate()


@pytest.fixture
def fleet(server, worker):
    """Make a fleet with all that can be said of one; return its workers' ids: one works, one is quiet, one is dead."""
    works, quiet = worker(ORBITER_CONCURRENCY="1"), worker(ORBITER_CONCURRENCY="3")
    ask = Command(COMMAND, server.url).ask
    ask("worker", "quiet", "--json", "--", quiet.worker_id)
    agent = {"name": "a", "runtime": "callable"}

    def submit(job, *words, count=1):
        given = json.dumps(agent | {"target": f"jobs:{job}"})
        return ask("task", "submit", "x", "--agent", "-", "--json", "--count", str(count), *words, given=given)

    submit("fail")
    submit("echo", count=2)
    wait_until(lambda: ask("queue", "info", "--json")["dead"] == 1, within=60)
    wait_until(lambda: not ask("queue", "info", "--json")["waiting"], within=60)
    submit("sleep", "--metadata", "seconds=600", count=3)
    submit("echo", "--not-before", "+1h")
    # As Redis has it of a worker that was lost: its trace in the list, and no heartbeat.
    server.client.zadd("orbiter:fleet", {"lost-1-aaaaaaaa": (time.time() - 600) * 1000})
    wait_until(
        lambda: [int(row["active"] or 0) for row in ask("worker", "list", "--json") if row["alive"]].count(1) == 1,
        within=60,
    )
    return works.worker_id, quiet.worker_id


def test_status_and_the_dashboard_say_the_same(server, module, fleet):
    works, quiet = fleet
    for outcome, release in (("ended", RELEASES[0]), ("failed", RELEASES[1]), ("", "")):
        module("deploy_lock", config=str(server.config), state="held", run=ALICE)
        if outcome:
            module("deploy_lock", config=str(server.config), state="free", run=ALICE, outcome=outcome, release=release)
    deploys = module("deploy_lock", config=str(server.config), state="shown", deploys=10)["deploys"]
    ask = Command(COMMAND, server.url).ask
    rows, queue = ask("worker", "list", "--json"), ask("queue", "info", "--json")
    expected = [
        Expected(f"orbiter-worker@{number}.service", "systemd", pid=row["pid"], hostname=row["hostname"])
        for number, row in enumerate(sorted((row for row in rows if row["alive"]), key=lambda row: row["concurrency"]))
    ]
    known = {"past": list(RELEASES), "drained": "", "trouble": ""}
    here = told(RELEASES[1], **known, expected=expected, rows=rows, queue=queue)
    found = fleet_page({"host": here}, deploys=deploys)
    page, state = found["page"], found["state"]
    with dashboard(server) as get:
        of_fleet, of_queue = Table(get("/fleet")), Table(get("/queue"))
        queue_page = html.unescape(get("/queue"))

    # The queue, by its numbers.
    cards = {title: text.split() for title, text in of_queue.cards.items()}
    numbers = {name: int(cards[title][0]) for name, title in NUMBERS.items()}
    assert numbers == {name: queue[name] for name in NUMBERS} == {"waiting": 2, "running": 1, "delayed": 1, "dead": 1}
    said = re.findall(r"(\d+) (waiting|running|delayed|dead)", " ".join(page[1:3]))
    assert {name: int(number) for number, name in said} == numbers
    assert f"{queue['busy']} of {queue['slots']} slots busy" in of_queue.cards["Workers"]
    assert f"Queue orbiter:tasks, {queue['busy']} of {queue['slots']} slots busy" == page[0]
    assert of_fleet.cards["Slots busy"].split() == [str(queue["busy"]), "/", str(queue["slots"])]

    # Each worker that lives, by what it does and whether it is as it should be; of one that is dead, none lives.
    shown = {row["Worker"].split()[0]: row for row in of_fleet.rows if row}
    assert {name for name, row in shown.items() if row["State"].strip() != "dead"} == {works, quiet}
    assert {one["worker_id"] for one in state["hosts"]["host"]["instances"]} == {works, quiet}
    assert shown["lost-1-aaaaaaaa"]["State"].strip() == "dead"
    for one in state["hosts"]["host"]["instances"]:
        row = shown[one["worker_id"]]
        word = row["State"].strip()
        assert one["wrong"] == ("" if word == "running" else f"says it is {word}")
        assert row["Slots"].split()[:3] == [str(one["active"]), "/", str(one["concurrency"])]
        done, *failed = row["Tasks"].split()
        assert (int(done), int(failed[0]) if failed else 0) == (one["tasks_processed"], one["tasks_failed"])
        assert row["Release"].strip() == one["version"]
    sums = next(line.split()[-3:] for line in page if line.startswith("host "))
    # Of a dead worker nothing is known.
    alive = [row for row in shown.values() if row["State"].strip() != "dead"]
    cells = [[row["Slots"].split()[0], *row["Tasks"].replace("failed", "").split(), "0"][:3] for row in alive]
    assert list(map(int, sums)) == [sum(map(int, column)) for column in zip(*cells, strict=True)]
    assert int(sums[2]) == 1
    assert "host needs attention, orbiter-worker@1 says it is quiet" in page

    # The last deploys, by who ran what, when, and how it ended.
    listed = DEPLOY.findall(queue_page)
    titles = next(number for number, line in enumerate(page) if line.startswith("DEPLOY"))
    for (what, who, where, began, outcome), line in zip(listed, page[titles + 1 :], strict=False):
        assert line.split()[:3] == [what.removeprefix("orbiter.fleet."), *began.split("T")]
        assert line.endswith(outcome)
        assert f"{who}@{where}" in line
    assert [deploy[-1] for deploy in listed] == ["no end yet", "failed", "ended"]
    for release in RELEASES:
        assert release in queue_page
        assert any(release in line for line in page[titles + 1 :])
