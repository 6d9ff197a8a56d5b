"""left_queue tells whether workers are about to leave tasks behind."""

from __future__ import annotations

import pytest
from conftest import COMMAND, free_port

ELSEWHERE = "redis://worker:n3w@192.0.2.1:6379/0"


@pytest.fixture
def look(module, server, tmp_path, monkeypatch):
    """Return a function that looks at a host whose workers use the test's Redis, or another URL."""

    def run(new, *, old=None):
        settings = tmp_path / "worker.env"
        url = old or server.url
        settings.write_text('OTHER="x"\nORBITER_REDIS_URL="{}"\n'.format(url.replace("\\", "\\\\").replace('"', '\\"')))
        monkeypatch.setenv("ORBITER_REDIS_URL", url)  # the role's command reads the file
        return module("left_queue", redis_url=new, settings=str(settings), executable=COMMAND)

    return run


def submit(server, run, count):
    """Put tasks into the queue."""
    for number in range(count):
        run("task", agent={"name": "x", "model": "test"}, input="hello", task_id=f"left-{number}", wait=False)


def test_tasks_that_would_be_left_behind_are_counted(look, server, run):
    submit(server, run, 2)
    seen = look(ELSEWHERE)
    assert (seen["moved"], seen["where"], seen["tasks"], seen["trouble"]) == (True, ["127.0.0.1"], 2, "")


def test_an_empty_queue_is_left_with_nothing(look):
    seen = look(ELSEWHERE)
    assert (seen["moved"], seen["tasks"]) == (True, 0)


@pytest.mark.parametrize(
    "new",
    [
        "rediss://worker:other@127.0.0.1:6380/0?ssl_ca_certs=/x",
        "redis+sentinel://worker:x@127.0.0.1:26379,192.0.2.2:26379,192.0.2.3:26379/orbiter/0",
        "redis://worker:p%40ss@localhost/0",
        "redis://worker:x@[::ffff:127.0.0.1]:6379,127.0.0.1:1/0",
    ],
)
def test_the_same_redis_by_other_words_is_no_move(look, server, run, new):
    submit(server, run, 1)
    seen = look(new)
    assert (seen["moved"], seen["tasks"]) == (False, 0)


def test_a_redis_that_is_gone_says_why_it_cannot_be_asked(look):
    seen = look(ELSEWHERE, old=f"redis://worker:s3cret@127.0.0.1:{free_port()}/0")
    assert seen["moved"]
    assert seen["trouble"]
    assert "s3cret" not in str(seen)


def test_a_host_without_workers_leaves_nothing(module, tmp_path):
    seen = module("left_queue", redis_url=ELSEWHERE, settings=str(tmp_path / "none"))
    assert (seen["moved"], seen["where"]) == (False, [])
