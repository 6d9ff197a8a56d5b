"""What modules and the page of a fleet's state show of texts that tasks and workers have written, and of passwords."""

from __future__ import annotations

import json

import pytest
from ansible_collections.orbiter.fleet.plugins.filter.fleet_page import fleet_page

HOSTILE = ["\x1b[2J", "\x9b2J", "a\nb", "\u202ecba", "a\x00b", "\u2028", "\x07"]
AGENT = {"name": "a", "model": "test"}
# Pieces that stand in no message by chance.
PASSWORDS = ["qzjx/wvkq", "qzjx@wvkq", "qzjx?wvkq#"]


@pytest.mark.parametrize("text", HOSTILE)
def test_message_about_a_task_is_one_printable_line(run, server, text):
    server.client.hset("orbiter:task:t", mapping={"status": "failed", "attempt": "1", "error": text})
    answer = run("task", agent=AGENT, task_id="t", wait_timeout=20)
    assert answer["failed"]
    assert answer["msg"].isprintable()
    assert answer["task"]["error"] == text


@pytest.mark.parametrize("text", HOSTILE)
def test_difference_that_ansible_prints_has_printable_lines(run, server, text):
    beat = {"last_heartbeat": "99999999999", "state": text, "hostname": "h"}
    server.client.hset(f"orbiter:workers:{text}", mapping=beat)
    answer = run("drain", all=True, check=True)
    [line] = answer["diff"]["before"].splitlines()
    assert line.isprintable()
    assert answer["drained"] == [text]
    answer = run("task", agent=AGENT, task_id=text, check=True)
    # No command line holds a NUL.
    said = answer["msg"] if "\0" in text else answer["diff"]["after"]
    assert said.removesuffix("\n").isprintable()


@pytest.mark.parametrize("text", HOSTILE)
def test_line_of_the_fleets_page_is_printable(text):
    instance = {
        "unit": "orbiter-worker@1.service",
        "wrong": f"is {text}",
        "active": 0,
        "tasks_processed": 1,
        "tasks_failed": 0,
    }
    instance["worker_id"] = "w1"
    host = {"release": "1", "previous": "", "drained": "", "instances": [instance], "queue": None, "trouble": ""}
    host["workers"] = [{"worker_id": "w2", "hostname": text}]
    for asked in ({"host": host}, {"host": host, "b": {"failed": True, "msg": f"x {text} y"}}):
        page = fleet_page(asked)["page"]
        assert [line for line in page if not line.isprintable()] == []
        assert any("orbiter-worker@1 is" in line for line in page)


@pytest.mark.parametrize("name", ["task", "drain", "queue_info", "worker_info"])
@pytest.mark.parametrize(
    "url", ["redis://user:{}@127.0.0.1:1/0", "redis+sentinel://127.0.0.1:1/m/0?sentinel_password={}", "{}"]
)
def test_no_module_tells_a_password_that_is_not_percent_encoded(run, name, url):
    for password in PASSWORDS:
        options = {"task": {"agent": AGENT}, "drain": {"all": True}}.get(name, {})
        answer = run(name, redis_url=url.format(password), **options)
        assert answer["failed"]
        said = json.dumps({key: value for key, value in answer.items() if key != "invocation"})
        assert [piece for piece in ("qzjx", "wvkq") if piece in said] == [], said
