"""The examples of other frameworks, run for real: as callables, through a worker."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from orbiter.distributed.models import TaskStatus
from tests.integration.agent_runs import Fleet, Run, working
from tests.integration.openai_server import OpenAIServer, Reply, chunk, end, error, openai_server, text, tool_calls
from tests.support import PATIENCE, environment, free_port, slowness, wait_until

ROOT = Path(__file__).parents[3]
EXAMPLES = ["langgraph_agent", "openai_agents_agent"]


@pytest.fixture
async def fleet(redis_url: str, redis_client: Redis, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    for example in EXAMPLES:
        monkeypatch.syspath_prepend(ROOT / "examples" / example)
    fleet = Fleet(redis_url, redis_client)
    await fleet.broker.connect()
    return fleet


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenAIServer]:
    async with openai_server() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-test")
        yield server


def config(example: str) -> dict[str, Any]:
    return dict(json.loads((ROOT / "examples" / example / "agent.json").read_text()))


async def run(fleet: Fleet, example: str, **fields: Any) -> Run:
    async with working(fleet.url, allow_import=[example]):
        return await fleet.run(config(example), "Do I need a hat in Oslo?", **fields)


def check_weather(ended: Run, call_id: str) -> None:
    [call], [result] = ended.of("tool_call"), ended.of("tool_result")
    assert (call.tool_name, call.tool_call_id) == ("weather", call_id)
    assert (result.tool_name, result.tool_call_id, result.result) == ("weather", call_id, "sunny in Oslo")
    assert ended.kinds == ["tool_call", "tool_result", "text", "status completed"]


async def test_a_langgraph_agent_streams_its_events_as_ours(fleet: Fleet) -> None:
    ended = await run(fleet, "langgraph_agent")
    assert (ended.task.status, ended.task.error) == (TaskStatus.COMPLETED, None)
    assert ended.task.result == {"output": "Take a hat to Oslo."}
    assert ended.text == "Take a hat to Oslo."
    check_weather(ended, "call_1")


async def test_an_agent_of_the_openai_sdk_streams_its_events_as_ours(fleet: Fleet, server: OpenAIServer) -> None:
    server.replies = [tool_calls(("weather", ['{"city":', ' "Oslo"}'])), text("Take ", "a hat.")]
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    ended = await run(fleet, "openai_agents_agent", messages=turns)
    assert (ended.task.status, ended.task.error) == (TaskStatus.COMPLETED, None)
    assert ended.task.result == {"output": "Take a hat."}
    check_weather(ended, "call_0")
    assert [turn["role"] for turn in server.requests[0].body["messages"]] == ["system", "user", "assistant", "user"]


async def test_the_openai_example_waits_as_long_as_the_provider_asks(fleet: Fleet, server: OpenAIServer) -> None:
    server.replies = [error(429, "slow down", "rate_limit_exceeded", Retry_After="1"), text("Yes.")]
    ended = await run(fleet, "openai_agents_agent")
    assert (ended.task.status, ended.task.retries, ended.text) == (TaskStatus.COMPLETED, 1, "Yes.")
    assert server.requests[1].at - server.requests[0].at >= 1


async def test_cancel_hangs_up_on_the_openai_example(fleet: Fleet, server: OpenAIServer) -> None:
    server.replies = [Reply(parts=[chunk({"content": "first"}), 60.0, *end()])]
    async with working(fleet.url, allow_import=["openai_agents_agent"]):
        task_id = await fleet.submit(config("openai_agents_agent"))
        await wait_until(lambda: fleet.client.xlen(f"orbiter:stream:{task_id}"))
        await fleet.broker.cancel(task_id)
        assert (await fleet.ended(task_id)).task.status == TaskStatus.CANCELLED
        await wait_until(lambda: server.hung_up)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_code_in_the_docs_is_the_code_in_the_file(example: str) -> None:
    code = (ROOT / "examples" / example / example / "agent.py").read_text()
    settings = (ROOT / "examples" / example / "agent.json").read_text()
    page = (ROOT / "docs" / "runtimes-frameworks.md").read_text()
    assert f"```python\n{code}```\n" in page
    assert f"```json\n{settings}```\n" in page


async def test_the_callables_in_the_docs_do_what_they_say(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs_jobs.py").write_text(_of_page("docs/runtimes-callables.md", "tells"))
    monkeypatch.syspath_prepend(tmp_path)
    target = {"runtime": "callable", "options": {"numbers": 5}}
    async with working(fleet.url, allow_import=["docs_jobs"]):
        tells = await fleet.run(target | {"target": "docs_jobs:tells"}, "one two")
        answers = await fleet.run(target | {"target": "docs_jobs:answers"}, "one two")
        computes = await fleet.run(target | {"target": "docs_jobs:computes"})
    assert (tells.task.result, tells.text) == ({"output": "one two "}, "one two ")
    assert (answers.task.result, answers.text) == ({"output": "ONE TWO", "attempt": 1}, "thinking about it… ")
    assert (computes.task.result, computes.text) == ({"output": "10", "data": 10}, "")


async def test_the_script_in_the_docs_runs(fleet: Fleet) -> None:
    script = _of_page("docs/client.md", "distributed_sync").replace("redis://localhost:6379", fleet.url)
    async with working(fleet.url):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
        output, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 0
    assert output.decode().splitlines()[-1] == "['success (no tool calls)', 'success (no tool calls)']"


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("timeout=60, metadata", "success (no tool calls)"),
        ("lines()", "1000 success (no tool calls)"),
        ("greeting", "1 completed finished"),
        ("SyncClient", "['success (no tool calls)', 'success (no tool calls)']"),
    ],
)
async def test_the_clients_in_the_docs_run(fleet: Fleet, name: str, last: str) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "client.md").read_text(), re.DOTALL | re.MULTILINE)
    (script,) = [block.replace("redis://localhost:6379", fleet.url) for block in blocks if name in block]
    async with working(fleet.url):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", script), stdout=asyncio.subprocess.PIPE
        )
        output, _ = await asyncio.wait_for(process.communicate(), PATIENCE * slowness())
    assert process.returncode == 0
    assert output.decode().splitlines()[-1] == last


@pytest.mark.parametrize(
    ("block", "last"),
    [
        (("README.md", "Be short."), '{"word_count":1}'),
        (("docs/python.md", "submitted"), "success (no tool calls)"),
        (("docs/python.md", "order-4711"), "order-0815 is unknown"),
    ],
)
async def test_the_scripts_for_python_run_as_they_stand(
    fleet: Fleet, block: tuple[str, str], last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hello.py").write_text(_of_page(*block))
    monkeypatch.syspath_prepend(tmp_path)
    async with working(fleet.url, allow_import=["hello"]):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "hello.py"),
            cwd=tmp_path,
            env=environment(ORBITER_REDIS_URL=fleet.url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, said = await asyncio.wait_for(process.communicate(), PATIENCE)
    # asyncio's debug mode tells of slow steps; what is left open would be an error there.
    assert process.returncode == 0, said.decode()
    assert "Traceback" not in said.decode()
    assert "ResourceWarning" not in said.decode()
    assert output.decode().splitlines()[-1] == last


async def test_a_tool_in_the_docs_is_given_its_task(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs_shop.py").write_text(_of_page("docs/agents.md", "CHARGED"))
    monkeypatch.syspath_prepend(tmp_path)
    agent = {"name": "clerk", "model": "test", "tools": ["docs_shop.charge"]}
    async with working(fleet.url, allow_import=["docs_shop"]):
        ended = await fleet.run(agent, "Charge order 7.")
    charged = sys.modules["docs_shop"].CHARGED
    assert (ended.task.status, ended.task.error) == (TaskStatus.COMPLETED, None)
    assert list(charged) == [f"{ended.task.task_id}:a"]
    assert "a: charged in run 1" in str(ended.task.result)


async def test_what_the_docs_make_of_a_task_of_celery_runs(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "myjobs.py").write_text(_of_page("docs/from-celery.md", "def summarise"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ORBITER_REDIS_URL", fleet.url)
    names: dict[str, Any] = {}
    code = _of_page("docs/from-celery.md", "SUMMARISE =").replace("asyncio.run(main())", "")
    exec(compile(code, "from-celery", "exec"), names)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        async with working(fleet.url, allow_import=["myjobs"]):
            await names["main"]()
    assert output.getvalue() == "one two\n"


async def test_the_web_page_in_the_docs_streams_and_goes_on_where_it_was(fleet: Fleet, tmp_path: Path) -> None:
    code = _of_page("docs/python.md", "FastAPI(")
    assert len(code.splitlines()) <= 35
    (tmp_path / "web.py").write_text(code)
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "web:app", "--port", str(port), "--log-level", "warning"),
        cwd=tmp_path,
        env=environment(ORBITER_REDIS_URL=fleet.url),
    )
    try:
        async with working(fleet.url), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as web:
            await wait_until(lambda: _answers(web))
            task_id = (await web.post("/tasks", params={"text": "Hello"})).json()["task_id"]
            place = f"/tasks/{task_id}/events"
            async with web.stream("GET", place) as first:
                assert first.headers["content-type"].startswith("text/event-stream")
                begin = [line async for line in first.aiter_lines()]
            ids = [line.removeprefix("id: ") for line in begin if line.startswith("id: ")]
            assert '"completed"' in begin[-2]
            again = (await web.get(place, headers={"Last-Event-ID": ids[0]})).text.splitlines()
            assert again == begin[begin.index(f"id: {ids[1]}") :]
            assert (await web.get("/tasks/unknown/events")).status_code == 404
            for wrong in ("x", f"{10**25}-0"):
                assert (await web.get(place, headers={"Last-Event-ID": wrong})).status_code == 422
    finally:
        process.terminate()
        await process.wait()


async def _answers(web: httpx.AsyncClient) -> bool:
    try:
        return (await web.get("/docs")).is_success
    except httpx.TransportError:
        return False


def _of_page(page: str, name: str) -> str:
    """Return the one block of Python of a page that has this name in it."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    (found,) = [block for block in blocks if name in block]
    return str(found)
