"""Guard: stands before every page. Whom it does not know, and what no page of ours sends, goes no further."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse

from orbiter.dashboard.options import is_loopback
from orbiter.dashboard.seals import SESSION, SESSION_LASTS, VISIT

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from orbiter.dashboard.options import Options
    from orbiter.dashboard.passwords import Passwords
    from orbiter.dashboard.seals import Seals

LONGEST_QUERY = 4096
LONGEST_PATH = 512
LONGEST_BODY = 256 * 1024
LOCAL = "local"
# Seconds that a browser gets to send a form.
BODY_WITHIN = 10.0
_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
# Without knowing who asks.
_FOR_ALL = ("/login", "/static/", "/healthz")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    # Not `no-referrer`: browsers would then send `Origin: null` with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """Checks each request, and says in its state who asks (``who``), from where, and of which visit.

    Args:
        app: What stands behind it.
        options: How the dashboard is served.
        passwords: Users; ``None`` where there is no file of them.
        seals: What cookies are sealed with.
    """

    def __init__(self, app: ASGIApp, *, options: Options, passwords: Passwords | None, seals: Seals) -> None:
        self._app = app
        self._options = options
        self._passwords = passwords
        self._seals = seals
        names = {name.lower() for name in options.hosts}
        self._hosts = names | ({"localhost"} if options.local else {options.host.lower()})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let it through."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        cookies = _cookies(headers.get("cookie", ""))
        visit = cookies.get(VISIT, "")
        new_visit = "" if visit else self._seals.visit()
        address = _plain((scope.get("client") or ("", 0))[0])
        who = self._who(headers, cookies, address)
        secure = self._secure(scope, headers, address)
        scope.setdefault("state", {}).update(
            who=who or "", address=address, visit=visit or new_visit, cookies=cookies, secure=secure
        )
        respond = self._dressed(send, new_visit, secure=secure)
        refusal = self._refusal(scope, headers) or self._stranger(scope, who)
        if refusal is not None:
            await refusal(scope, receive, respond)
        else:
            await self._app(scope, _limited(receive), respond)

    def _refusal(self, scope: Scope, headers: Headers) -> PlainTextResponse | None:
        """Refuse what no browser sends that was given one of our pages."""
        if not self._own_name(headers.get("host", "")):
            names = ", ".join(sorted(self._hosts))
            return _no(421, f"Host: no name of this dashboard ({names}); more names: --allow-host NAME")
        if scope["method"] not in {"GET", "HEAD", "POST"}:
            return _no(405, "Only GET, HEAD and POST are known here")
        if len(scope.get("query_string", b"")) > LONGEST_QUERY or len(scope.get("raw_path") or b"") > LONGEST_PATH:
            return _no(414, f"The address is too long: {LONGEST_QUERY} bytes of query at most")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > LONGEST_BODY:
            return _no(413, f"The form is too large: {LONGEST_BODY} bytes at most")
        return _foreign_form(headers) if scope["method"] == "POST" else None

    def _own_name(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].strip("[]").lower()
        if name in self._hosts:
            return True
        try:
            # Nobody can point the name of a page of theirs at us (DNS rebinding) where an address is the name.
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback if self._options.local else True

    def _who(self, headers: Headers, cookies: dict[str, str], address: str) -> str | None:
        """Return who asks, ``None`` for a stranger."""
        if self._options.open:
            return LOCAL if is_loopback(address) or self._options.local else None
        if self._options.proxy_header and self._is_proxy(address):
            values = headers.getlist(self._options.proxy_header)
            # Two of them: one may be a stranger's, which the proxy has not taken away.
            if len(values) == 1 and values[0].strip():
                return values[0].strip()[:200]
            return None
        if self._passwords is not None and (sealed := cookies.get(SESSION)):
            user = self._seals.opened(SESSION, sealed, lasts=SESSION_LASTS)
            if user is not None and self._passwords.knows(user):
                return user
        return None

    def _stranger(self, scope: Scope, who: str | None) -> PlainTextResponse | RedirectResponse | None:
        path = scope["path"]
        if who is not None or path.startswith(_FOR_ALL):
            return None
        if self._passwords is None:
            return _no(403, "Nobody is known at this address: come by the proxy, which says who you are")
        if scope["method"] == "POST" or path.startswith(("/live/", "/task/events")):
            return _no(401, "Log in first: /login")
        return RedirectResponse("/login", status_code=303)

    def _is_proxy(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._options.proxies)

    def _secure(self, scope: Scope, headers: Headers, address: str) -> bool:
        """Tell whether the browser is spoken to by TLS."""
        return scope.get("scheme") == "https" or (
            self._is_proxy(address) and headers.get("x-forwarded-proto", "").lower() == "https"
        )

    def _dressed(self, send: Send, new_visit: str, *, secure: bool) -> Send:
        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, text in HEADERS.items():
                    headers[name] = text
                headers.setdefault("cache-control", "no-store")
                if new_visit:
                    headers.append("set-cookie", cookie(VISIT, new_visit, secure=secure))
            await send(message)

        return dressed


def cookie(name: str, value: str, *, secure: bool, lasts: float | None = None) -> str:
    """Return a ``Set-Cookie``: for this site alone, and for no script."""
    end = "" if lasts is None else f"; Max-Age={lasts:.0f}"
    return f"{name}={value}; Path=/; HttpOnly; SameSite=Strict{end}{'; Secure' if secure else ''}"


def _cookies(header: str) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(header).items()}
    except CookieError:
        return {}


def _plain(address: str) -> str:
    """Return an address as people write it: one of IPv4 does not change where IPv6 is listened on, too."""
    try:
        found = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    return str(found.ipv4_mapped or found)


def _limited(receive: Receive) -> Receive:
    """Return what gives the body up to its limit, in the time that there is for it."""
    until: float | None = asyncio.get_running_loop().time() + BODY_WITHIN
    taken = 0

    async def limited() -> Message:
        nonlocal taken, until
        try:
            async with asyncio.timeout_at(until):
                message: Any = await receive()
        except TimeoutError:
            return {"type": "http.disconnect"}
        if message["type"] == "http.request":
            taken += len(message.get("body", b""))
            if taken > LONGEST_BODY:
                return {"type": "http.disconnect"}
            if not message.get("more_body"):
                # What follows is the end of the connection, for which an event stream waits.
                until = None
        return dict(message)

    return limited


def _foreign_form(headers: Headers) -> PlainTextResponse | None:
    # Every browser says where a form came from.
    if headers.get("origin", "").lower().partition("://")[2] != headers.get("host", "").lower():
        return _no(403, "Origin: not this dashboard; send forms from its own pages")
    if not headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return _no(415, "Content-Type: use application/x-www-form-urlencoded")
    return None


def _no(status: int, text: str) -> PlainTextResponse:
    return PlainTextResponse(text + ".\n", status_code=status)
