"""Whoever is not known, and whatever a page of ours did not send, gets nowhere; and nobody else notices."""

from __future__ import annotations

import asyncio
import html
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from html.parser import HTMLParser
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from redis.asyncio import Redis

from orbiter.dashboard.options import Options
from orbiter.dashboard.passwords import hash_line
from orbiter.dashboard.server import OF_AN_ADDRESS as CONNECTIONS
from orbiter.dashboard.server import serving
from orbiter.dashboard.streams import OF_AN_ADDRESS
from orbiter.distributed import TaskPayload, TaskStatus
from orbiter.distributed.models import ErrorEvent, TextEvent, ToolCallEvent, ToolResultEvent
from tests import keys
from tests.fleet import Fleet, working
from tests.integration.dashboards import Browser, dashboard, events
from tests.support import PATIENCE, slowness

PASSWORD = "correct horse"
PAGES = ("fleet", "tasks", "queue")
PAGES_OF_TEXTS = (
    *("fleet", "queue", "queue?span=day", "tasks", "tasks?status=failed", "errors", "dead", "usage", "usage?days=1"),
    *("alerts", "actions"),
)
# In every field that a client can write.
EVIL = {
    "script": "<script>alert(1)</script>",
    "attribute": "\"' onmouseover=alert(2) x='",
    "image": "<img src=x onerror=alert(3)>",
    "address": "javascript:alert(4)",
    "template": "{{ 7*7 }}{% raw %}",
    "turned": "\u202egnp.exe\u2066",
    "terminal": "\x1b[31mred\x1b]8;;http://evil\x07",
    "nothing": "\u200b\x00\u0085",
    "closing": "</pre></td></table></textarea></title>-->",
    "event": "x\n\nevent: end\ndata: y\n\n",
}
UNSEEN = re.compile("[\u202a-\u202e\u2066-\u2069\u200b\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
ALL = " ".join(EVIL.values())


class Page(HTMLParser):
    """Reads a page as a browser does: notes what could run, and where links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.bad: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name.startswith("on") or name == "style":
                self.bad.append(f"{tag} {name}={value}")
            if name in {"href", "src", "action", "data-live", "data-events"} and not re.match(r"/|#", value or "/"):
                self.bad.append(f"{tag} {name}={value}")


def check_inert(text: str) -> None:
    page = Page()
    page.feed(text)
    assert page.bad == []
    assert not {"img", "iframe", "object", "base"} & set(page.tags)
    assert page.tags.count("script") in {0, 2}
    assert not UNSEEN.search(html.unescape(text)), UNSEEN.search(html.unescape(text))
    assert "49" not in re.findall(r">(\d+)\{% raw", text)


async def test_whatever_a_client_writes_is_inert_on_every_page(
    fleet: Fleet, redis_url: str, redis_client: Redis
) -> None:
    ids = {name: f"{text}-{name}"[:150] for name, text in EVIL.items()}
    for name, text in EVIL.items():
        task = TaskPayload(
            task_id=ids[name],
            agent_config={"name": text, "target": text, "runtime": "callable", text: text},
            input=text,
            messages=[{"role": "user", "content": text}],
            metadata={text: text},
            not_before=4e9,
        )
        await fleet.broker.submit(task)
        record = {"error": text, "error_type": text, "worker_id": text, "status": "failed", "attempt": "2"}
        record |= {"completed_at": f"{time.time():.3f}", "last_loss": text, "result": '{"output": "x", "usage": 1}'}
        await redis_client.hset(keys.task(ids[name]), mapping=record)
        await redis_client.zadd(keys.ENDED, {ids[name]: 10**13 + int(time.time() * 1000)})
        letter = {"task_id": ids[name], "reason": text, "error_type": text, "payload": text}
        await redis_client.xadd(keys.tagged("orbiter:tasks", "dead"), letter)
        beat = dict.fromkeys(("hostname", "version", "state", "problem", "blocked_by", "rss_bytes", "instance"), text)
        await redis_client.hset(keys.worker(ids[name]), mapping=beat | {"failed_imports": f'["{ids[name][:3]}"]'})
        await redis_client.zadd(keys.FLEET, {ids[name]: time.time() * 1000})
        for event in (
            TextEvent(text=text, agent_name=text),
            ToolCallEvent(tool_name=text, tool_call_id=text),
            ToolResultEvent(tool_name=text, tool_call_id=text, arguments={text: text}, result=text),
            ErrorEvent(error=text, error_type=text),
        ):
            await redis_client.xadd(keys.stream(ids[name]), {"event": event.to_json()})
        spent = {f"{json.dumps([text, text])} {kind}": "1" for kind in ("requests", "input", "output")}
        await redis_client.hset(keys.tagged("orbiter:tasks", f"usage:{int(time.time() // 86_400)}"), mapping=spent)
        words = dict.fromkeys(("who", "where", "what", "target", "outcome"), text)
        await redis_client.xadd("orbiter:audit", words)
        run = dict.fromkeys(("user", "controller", "playbook", "release", "outcome"), text)
        await redis_client.xadd("orbiter:deploys", run | {"token": name})
    async with dashboard(redis_url, allow_actions=True) as browser:
        await check_pages_are_inert(browser)
        for name, task_id in ids.items():
            for path in ("/task", "/again"):
                found = await browser.get(path, params={"id": task_id})
                assert found.status_code == 200, name
                check_inert(found.text)
            assert (await browser.get("/confirm", params={"what": "retry", "id": task_id})).status_code == 200
            async for event in events(browser, f"/task/events?id={quote(task_id, safe='')}"):
                assert event["event"] in {"text", "reasoning", "row", "end"}
                assert not UNSEEN.search(event["data"])
                if event["event"] == "row":
                    check_inert(event["data"])
                if event["event"] == "end":
                    break
        for text in EVIL.values():
            for query in ("agent", "worker", "queue", "status", "since", "after", "error_type"):
                check_inert((await browser.get("/tasks", params={query: text})).text)
            for page in ("task", "confirm", "dead", "queue", "alerts"):
                for query in ("id", "what", "queue", "back", "after"):
                    check_inert((await browser.get(f"/{page}", params={query: text})).text)


async def check_pages_are_inert(browser: Browser) -> None:
    for page in PAGES_OF_TEXTS:
        found = await browser.get(f"/{page}")
        assert found.status_code == 200, page
        check_inert(found.text)
        # What was written is there, and could have been harmful.
        assert page in {"fleet", "alerts"} or "alert(4)" in found.text, page
        if page != "actions":
            async with aclosing(events(browser, f"/live/{page}")) as stream:
                check_inert((await anext(stream))["data"])


async def test_pages_forbid_what_they_do_not_need(redis_url: str) -> None:
    async with dashboard(redis_url) as browser:
        for path in ("/fleet", "/nothing", "/static/dashboard.css", "/task?id=x"):
            headers = (await browser.get(path)).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert "server" not in headers
        cookie = (await browser.get("/fleet", headers={"cookie": ""})).headers.get("set-cookie", "")
        assert not cookie or ("HttpOnly" in cookie and "SameSite=Strict" in cookie)


async def test_forms_of_others_are_refused(fleet: Fleet, redis_url: str) -> None:
    async with dashboard(redis_url, allow_actions=True) as browser:
        task_id = await fleet.submit("echo")
        form = await browser.form(f"/confirm?what=cancel&id={task_id}")
        wrong: list[tuple[dict[str, Any], dict[str, str]]] = [
            ({key: value for key, value in form.items() if key != "token"}, {}),
            (form | {"token": "0" * 64}, {}),
            (form | {"token": ["", *form["token"], "x"]}, {}),
            (form, {"origin": "http://evil.example"}),
            (form, {"origin": "null"}),
            (form, {"origin": ""}),
            (form, {"origin": browser.address + "9"}),
            (form, {"content-type": "text/plain"}),
            (form, {"content-type": "multipart/form-data; boundary=x"}),
            (form, {"cookie": "orbiter_visit=another"}),
        ]
        for fields, headers in wrong:
            sent = await browser.post("/act", fields, **headers)
            assert sent.status_code in {400, 403, 415}, (headers, sent.status_code)
        sent = await browser.http.post("/act", data=form)
        assert sent.status_code == 403
        async with Browser(browser.address) as other:
            await other.text("/fleet")
            assert (await other.post("/act", form)).status_code == 403
        found = await fleet.store.get_status(task_id)
        assert found is not None
        assert found.status == TaskStatus.PENDING


async def test_every_form_needs_its_token_and_its_origin(redis_url: str, tmp_path: Path) -> None:
    async with guarded(redis_url, tmp_path, allow_actions=True) as port, Browser(f"http://127.0.0.1:{port}") as browser:
        assert await log_in(browser) == 303
        fields = {"user": "anna", "password": PASSWORD, "what": "quiet", "id": "w1", "agent_config": "{}"}
        form = await browser.form("/confirm?what=quiet&id=w1")
        for path in ("/login", "/logout", "/act", "/again"):
            assert (await browser.post(path, fields)).status_code == 403, path
            assert (await browser.http.post(path, data=form | fields)).status_code == 403, path
        await browser.text("/fleet")
        assert "w1" not in (await browser.text("/actions")).partition("<main")[2]


async def test_no_get_changes_anything(fleet: Fleet, redis_url: str, redis_client: Redis) -> None:
    task_id = await fleet.submit("echo")
    async with dashboard(redis_url, allow_actions=True) as browser:
        form = await browser.form(f"/confirm?what=cancel&id={task_id}")
        before = await redis_client.info("commandstats")
        for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            sent = await browser.http.request(method, "/act", params=form, headers={"origin": browser.address})
            assert sent.status_code == 405, method
        for path in ("/login", "/logout", "/cancel", f"/task?id={task_id}&what=cancel", "/confirm?what=drop-letters"):
            await browser.get(path)
        after = await redis_client.info("commandstats")
        for command in ("hset", "xadd", "xdel", "zadd", "publish", "evalsha", "del", "set"):
            name = f"cmdstat_{command}"
            assert after.get(name, {}).get("calls", 0) == before.get(name, {}).get("calls", 0), command


async def test_names_of_others_are_refused(redis_url: str) -> None:
    async with dashboard(redis_url) as browser:
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "", "10.0.0.1", "[::", "a b"):
            assert (await browser.get("/fleet", headers={"host": host})).status_code in {400, 421}, host
        assert (await browser.get("/fleet", headers={"host": "localhost:1"})).status_code == 200
    async with dashboard(redis_url, hosts=("fleet.example",)) as browser:
        assert (await browser.get("/fleet", headers={"host": "fleet.example"})).status_code == 200


async def test_paths_lead_to_no_other_files(redis_url: str) -> None:
    async with dashboard(redis_url) as browser:
        port = int(browser.address.rpartition(":")[2])
        for path in (
            *("/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/%2e%2e/etc/passwd", "/static//etc/passwd"),
            *("/static/....//app.py", "/static/..\\app.py", "/static/third_party.toml", "/static/htmx.LICENSE"),
            *("/../../etc/passwd", "/templates/base.html", "/static/", "/live/../act", "/live/task%00"),
        ):
            head = await raw(port, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            assert re.match(rb"HTTP/1.1 (303|400|404|405)", head), (path, head[:200])
            assert b"root:" not in head
            assert b"import" not in head


async def raw(port: int, text: bytes, *, limit: int = 100_000) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(text)
        await writer.drain()
        return await asyncio.wait_for(reader.read(limit), PATIENCE)
    except ConnectionError:
        return b"HTTP/1.1 400 closed"
    finally:
        writer.close()


@pytest.mark.alone
async def test_large_requests_are_refused_and_slow_nobody(redis_url: str) -> None:
    async with dashboard(redis_url, allow_actions=True) as browser:
        port = int(browser.address.rpartition(":")[2])
        await browser.text("/fleet")
        huge = b"x" * 10_000_000
        attacks = [
            b"GET /tasks?agent=" + huge + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            b"GET /tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Much: " + huge + b"\r\n\r\n",
            b"POST /act HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10000000\r\n\r\n" + huge,
        ]
        answers = [asyncio.create_task(raw(port, text)) for text in attacks]
        assert await slowest(browser, 20) / slowness() < 2
        for answer in await asyncio.gather(*answers):
            assert re.match(rb"HTTP/1.1 4\d\d|$", answer), answer[:100]
        assert (await browser.get("/tasks?agent=" + "x" * 5000)).status_code == 414
        assert (await browser.get("/" + "x" * 600)).status_code == 414
        form = await browser.form("/confirm?what=quiet&id=w1")
        sent = await browser.post("/act", form | {"id": [f"t{number}" for number in range(5000)]})
        assert sent.status_code == 413
        endless = {"origin": browser.address, "content-type": "application/x-www-form-urlencoded"}
        try:
            answer = await browser.http.post("/act", content=forever(), headers=endless)
        except httpx2.TransportError:
            pass
        else:
            assert answer.status_code >= 400


async def forever() -> AsyncIterator[bytes]:
    while True:
        yield b"x=" + b"y" * 65_000 + b"&"
        await asyncio.sleep(0)


async def slowest(browser: Browser, times: int) -> float:
    """Return the longest that a page took."""
    longest = 0.0
    for _ in range(times):
        began = time.monotonic()
        await browser.text("/fleet")
        longest = max(longest, time.monotonic() - began)
    return longest


@pytest.mark.alone
async def test_a_thousand_idle_streams_slow_nobody(redis_url: str) -> None:
    async with dashboard(redis_url) as browser, AsyncExitStack() as opened:
        statuses = [await idle(browser, opened, f"/live/{PAGES[number % 3]}?n={number}") for number in range(1000)]
        assert statuses.count(200) == OF_AN_ADDRESS
        assert statuses.count(503) == 1000 - OF_AN_ADDRESS
        assert await slowest(browser, 10) / slowness() < 3
        await opened.aclose()
        async with AsyncExitStack() as again, asyncio.timeout(PATIENCE):
            while await idle(browser, again, "/live/fleet?") != 200:
                await asyncio.sleep(0.1)


HALF = {
    "a head": b"GET /fleet HTTP/1.1\r\nHost: ",
    "a form": b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 10\r\n\r\n",
    "a second head": b"GET /static/dashboard.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nG",
    "a body": b"GET /static/dashboard.css HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n",
}


@pytest.mark.parametrize("half", HALF)
async def test_connections_that_send_a_half_are_ended_and_slow_nobody(
    redis_url: str, tmp_path: Path, half: str
) -> None:
    async with guarded(redis_url, tmp_path) as port, AsyncExitStack() as opened:
        ends = [asyncio.create_task(ended(opened, port, HALF[half])) for _ in range(CONNECTIONS)]
        async with Browser(f"http://127.0.0.1:{port}", "127.0.0.2") as other:
            for _ in range(10):
                await other.text("/login")
        async with asyncio.timeout(40 * slowness()):
            await asyncio.gather(*ends)


async def ended(opened: AsyncExitStack, port: int, text: bytes) -> None:
    """Send the half of something, then a letter a second; return once the other side ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    opened.push_async_callback(closed, writer)
    letters = asyncio.create_task(letter_by_letter(writer, text))
    opened.callback(letters.cancel)
    with suppress(ConnectionError):
        while await reader.read(65_536):
            pass


async def letter_by_letter(writer: asyncio.StreamWriter, text: bytes) -> None:
    writer.write(text)
    while text.endswith((b": ", b"G")) and not writer.is_closing():
        await asyncio.sleep(1)
        writer.write(b"x")


async def test_one_address_does_not_take_all_connections(redis_url: str, tmp_path: Path) -> None:
    async with guarded(redis_url, tmp_path) as port, AsyncExitStack() as opened:
        ends = [asyncio.create_task(ended(opened, port, b"")) for _ in range(CONNECTIONS + 50)]
        for end in ends:
            opened.callback(end.cancel)
        async with asyncio.timeout(5 * slowness()):
            while sum(end.done() for end in ends) < 50:
                await asyncio.sleep(0.1)
        async with Browser(f"http://127.0.0.1:{port}", "127.0.0.2") as other:
            await other.text("/login")


async def test_an_answer_that_nobody_reads_ends_with_its_connection(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbiter.dashboard.server.READ_WITHIN", 1.0)
    async with guarded(redis_url, tmp_path) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(ask_on(writer), PATIENCE)
        writer.close()


async def ask_on(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"GET /static/dashboard.css HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 1000)
        await writer.drain()
        await asyncio.sleep(0)


async def idle(browser: Browser, opened: AsyncExitStack, path: str) -> int:
    """Open an event stream and leave it alone; return its status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(browser.address.rpartition(":")[2]))
    opened.push_async_callback(closed, writer)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    return int((await asyncio.wait_for(reader.readline(), PATIENCE)).split(b" ")[1])


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@asynccontextmanager
async def guarded(redis_url: str, directory: Path, **options: Any) -> AsyncIterator[int]:
    """Serve a dashboard to other addresses than this machine's own; give its port."""
    users = directory / "users"
    users.write_text(hash_line("anna", PASSWORD))
    users.chmod(0o640)
    options = {"password_file": users} | options
    async with serving(Options(redis_url, host="0.0.0.0", port=0, **options)) as (address, _):
        yield int(address.rpartition(":")[2])


async def log_in(browser: Browser, user: str = "anna", password: str = PASSWORD) -> int:
    form = await browser.form("/login")
    return (await browser.post("/login", form | {"user": user, "password": password})).status_code


async def test_strangers_see_nothing_but_the_way_in(redis_url: str, tmp_path: Path) -> None:
    async with guarded(redis_url, tmp_path, allow_actions=True) as port, Browser(f"http://127.0.0.1:{port}") as browser:
        for path in ("/", "/fleet", "/queue", "/tasks", "/task?id=x", "/errors", "/dead", "/alerts", "/actions"):
            found = await browser.get(path)
            assert (found.status_code, found.headers["location"]) == (303, "/login"), path
        for path in ("/live/fleet", "/task/events?id=x"):
            assert (await browser.get(path)).status_code == 401, path
        assert (await browser.get("/healthz")).text == "ok\n"
        assert (await browser.post("/act", {"what": "drain", "id": "w1"})).status_code == 401
        for cookie in ("orbiter_session=anna", "orbiter_session=eyJhIjoxfQ==.00", 'orbiter_session="'):
            assert (await browser.get("/fleet", headers={"cookie": cookie})).status_code == 303
        assert (await browser.get("/fleet", headers={"x-remote-user": "anna"})).status_code == 303
        assert await log_in(browser) == 303
        assert "anna" in await browser.text("/fleet")
        await browser.post("/act", await browser.form("/confirm?what=quiet&id=w1"))
        assert "anna" in (await browser.text("/actions")).partition("<main")[2]
        form = re.search(
            r'action="/logout"><input type="hidden" name="token" value="([^"]+)"', await browser.text("/fleet")
        )
        assert form is not None
        assert (await browser.post("/logout", {"token": form[1]})).status_code == 303
        assert (await browser.get("/fleet")).status_code == 303


async def test_passwords_are_guessed_five_times_a_minute(redis_url: str, tmp_path: Path) -> None:
    async with guarded(redis_url, tmp_path) as port:
        address = f"http://127.0.0.1:{port}"
        async with Browser(address) as guesser, Browser(address, "127.0.0.2") as other:
            form = await guesser.form("/login")
            guesses = [guesser.post("/login", form | {"user": "anna", "password": f"guess {n}"}) for n in range(40)]
            statuses = sorted([answer.status_code for answer in await asyncio.gather(*guesses)])
            assert statuses == [403] * 5 + [429] * 35
            # Not even the right one is looked at now; another address is not kept out.
            assert await log_in(guesser) == 429
            assert await log_in(other) == 303


async def test_a_header_counts_from_its_proxy_alone(redis_url: str, tmp_path: Path) -> None:
    options = {"proxy_header": "X-Remote-User", "proxies": (ip_network("127.0.0.3"),), "password_file": None}
    async with guarded(redis_url, tmp_path, **options) as port:
        address = f"http://127.0.0.1:{port}"
        async with Browser(address, "127.0.0.3") as proxy, Browser(address, "127.0.0.4") as stranger:
            known = await proxy.get("/fleet", headers={"x-remote-user": "ben"})
            assert known.status_code == 200
            assert "ben" in known.text
            assert (await proxy.get("/fleet")).status_code == 403
            twice = [("x-remote-user", "ben"), ("x-remote-user", "root")]
            assert (await proxy.http.get("/fleet", headers=twice)).status_code == 403
            for headers in ({"x-remote-user": "ben"}, {"x-forwarded-for": "127.0.0.3", "x-remote-user": "ben"}):
                assert (await stranger.get("/fleet", headers=headers)).status_code == 403


async def test_a_proxy_of_ipv4_is_known_where_ipv6_is_listened_on(redis_url: str) -> None:
    options = {"proxy_header": "X-Remote-User", "proxies": (ip_network("127.0.0.3"),), "host": "::", "port": 0}
    async with serving(Options(redis_url, **options)) as (address, _):
        port = address.rpartition(":")[2]
        for source, status in (("127.0.0.3", 200), ("127.0.0.4", 403)):
            async with Browser(f"http://127.0.0.1:{port}", source) as browser:
                assert (await browser.get("/fleet", headers={"x-remote-user": "ben"})).status_code == status


async def test_the_client_that_acts_is_the_one_that_was_asked(fleet: Fleet, redis_url: str) -> None:
    async with working(fleet, worker_id="w1"), dashboard(redis_url, allow_actions=True) as browser:
        form = await browser.form("/confirm?what=quiet&id=w1")
        for back in (
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "javascript:alert(1)",
            "/fleet\r\nx: y",
        ):
            sent = await browser.post("/act", form | {"back": back})
            assert sent.headers["location"] == "/fleet", back
        for fields in ({"what": "shutdown"}, {"id": []}, {"id": ["x y"]}, {"what": "cancel", "id": ["index"]}):
            sent = await browser.post("/act", form | fields)
            assert sent.status_code == 400, fields
