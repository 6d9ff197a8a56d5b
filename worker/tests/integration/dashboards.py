"""A dashboard for tests, served on a free port in the test's own event loop."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from typing import Any

import httpx2

from orbiter.dashboard.options import Options
from orbiter.dashboard.server import serving

TOKEN = re.compile(r'name="token" value="([0-9a-f]{64})"')


class Browser:
    """Asks a dashboard as a browser does: with its cookies, and saying where a form came from.

    Args:
        address: The dashboard's address.
        source: The address to ask from.
    """

    def __init__(self, address: str, source: str = "127.0.0.1", **headers: str) -> None:
        transport = httpx2.AsyncHTTPTransport(local_address=source)
        self.address = address
        self.http = httpx2.AsyncClient(base_url=address, transport=transport, headers=headers, timeout=30)

    async def __aenter__(self) -> Browser:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def get(self, path: str, **options: Any) -> httpx2.Response:
        return await self.http.get(path, **options)

    async def text(self, path: str) -> str:
        """Return a page that is there."""
        found = await self.get(path)
        assert found.status_code == 200, found.text
        return found.text

    async def post(self, path: str, fields: dict[str, Any], **headers: str) -> httpx2.Response:
        return await self.http.post(path, data=fields, headers={"origin": self.address} | headers)

    async def form(self, path: str) -> dict[str, Any]:
        """Return the fields of the form of a page, as it would be sent."""
        page = (await self.text(path)).partition("<main")[2]
        fields: dict[str, Any] = {}
        for name, value in re.findall(r'<input type="hidden" name="([a-z]+)" value="([^"]*)">', page):
            fields.setdefault(name, []).append(value.replace("&amp;", "&"))
        return fields

    async def filled(self, path: str) -> dict[str, str]:
        """Return all fields of the form of a page, as a browser would send them."""
        return read_fields(await self.text(path))


class _Fields(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self._area = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "textarea":
            self._area = found["name"]
            self.fields[self._area] = ""
        elif tag == "input" and (found.get("type") != "checkbox" or "checked" in found):
            self.fields[found["name"]] = found.get("value", "")

    def handle_data(self, data: str) -> None:
        if self._area:
            self.fields[self._area] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            # A browser drops the first line end, and sends the others as CR LF.
            text = self.fields[self._area].removeprefix("\n")
            self.fields[self._area], self._area = text.replace("\n", "\r\n"), ""


def read_fields(page: str) -> dict[str, str]:
    """Return all fields of the form of a page's main part."""
    parser = _Fields()
    parser.feed(page.partition("<main")[2])
    return parser.fields


@asynccontextmanager
async def dashboard(redis_url: str, source: str = "127.0.0.1", **options: Any) -> AsyncIterator[Browser]:
    """Serve a dashboard, and give a browser of it."""
    async with serving(Options(redis_url, **{"port": 0} | options)) as (address, _):
        port = address.rpartition(":")[2]
        async with Browser(f"http://127.0.0.1:{port}", source) as browser:
            yield browser


async def events(browser: Browser, path: str, **headers: str) -> AsyncIterator[dict[str, str]]:
    """Yield server-sent events as a browser reads them."""
    async with browser.http.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        event: dict[str, str] = {}
        async for line in response.aiter_lines():
            name, colon, text = line.partition(": ")
            if colon and name:
                event[name] = f"{event[name]}\n{text}" if name == "data" and "data" in event else text
            elif not line and event:
                if "event" in event:
                    yield event
                event = {}
