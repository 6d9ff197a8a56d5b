"""The application: which address is answered by what."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoPermissionError, RedisError
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from orbiter.dashboard.actions import act, back_to, chosen, kind_of
from orbiter.dashboard.again import FieldError, prefilled, shown_again, task_asked_for, too_large, typed_in
from orbiter.dashboard.attempts import Attempts
from orbiter.dashboard.forms import read_form
from orbiter.dashboard.guard import LONGEST_BODY, Guard, cookie
from orbiter.dashboard.health import Health
from orbiter.dashboard.pages import PAGES, NotFoundError, known_query, read
from orbiter.dashboard.passwords import Passwords
from orbiter.dashboard.prices import load
from orbiter.dashboard.seals import NOTICE, NOTICE_LASTS, SESSION, SESSION_LASTS, Seals
from orbiter.dashboard.streams import FullError, Live, Seats, place, task_events, until
from orbiter.dashboard.view import View, quote_query
from orbiter.distributed.client.client import Client
from orbiter.distributed.client.operations import Operations
from orbiter.distributed.client.overview import Overview
from orbiter.distributed.inert import inert
from orbiter.distributed.names import InvalidNameError, check_task_id

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from starlette.requests import Request

    from orbiter.dashboard.options import Options
    from orbiter.distributed.client.operations import Done

logger = logging.getLogger(__name__)

NAME = "orbiter-dashboard"
# Pages that follow what happens, and their titles.
TITLES = {
    "fleet": "Fleet",
    "queue": "Queue",
    "tasks": "Tasks",
    "errors": "Errors",
    "dead": "Dead letters",
    "usage": "Usage",
    "alerts": "Alerts",
    "actions": "Actions",
}
_BUG = ("This should not happen", "The dashboard has an error of its own; its log says more. The fleet works on.")
_SSE = {"content-type": "text/event-stream; charset=utf-8", "x-accel-buffering": "no"}


class Dashboard:
    """Serves the pages of one fleet.

    Args:
        options: How it is served.

    Raises:
        DashboardError: So it would let strangers in, or a file of it cannot be used.
    """

    def __init__(self, options: Options) -> None:
        options.check()
        self.options = options
        self._seals = Seals()
        self._passwords = None if options.password_file is None else Passwords(options.password_file)
        self._attempts = Attempts()
        self._seats = Seats()
        # Set once the server ends: whatever streams, ends, too.
        self.over = asyncio.Event()
        self._client = Client(options.redis_url, queue=options.queue, namespace=options.namespace, name=NAME, retries=1)
        self._overview = Overview(self._client)
        self._health = Health(self._client.redis.ping)
        self._view = View(
            titles=TITLES,
            allow_actions=options.allow_actions,
            namespace=options.namespace,
            main_queue=self._client.queue,
        )
        self._live = Live(self._fragment)
        guard = Middleware(Guard, options=options, passwords=self._passwords, seals=self._seals)
        self.app = Starlette(
            routes=[
                Route("/", lambda _: RedirectResponse("/fleet", 303), methods=["GET"]),
                *(Route(f"/{name}", self._page, methods=["GET"], name=name) for name in PAGES),
                Route("/live/{name}", self._stream, methods=["GET"]),
                Route("/task/events", self._events, methods=["GET"]),
                Route("/confirm", self._confirm, methods=["GET"]),
                Route("/act", self._act, methods=["POST"]),
                Route("/again", self._again, methods=["GET"]),
                Route("/again", self._submit_again, methods=["POST"]),
                Route("/login", self._login_page, methods=["GET"]),
                Route("/login", self._login, methods=["POST"]),
                Route("/logout", self._logout, methods=["POST"]),
                Route("/static/{name}", self._static, methods=["GET"]),
                Route("/healthz", self._healthz, methods=["GET"]),
            ],
            middleware=[guard],
            exception_handlers={HTTPException: self._http_problem, Exception: self._bug},
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with self._client:
            # Nobody waits for it but who asks for a price before it has ended.
            loading = asyncio.create_task(asyncio.to_thread(load))
            try:
                yield
            finally:
                await loading

    # -- reading ---------------------------------------------------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        name = request.url.path.strip("/")
        try:
            values = await read(name, self._overview, request.query_params)
        except Exception as error:  # noqa: BLE001 - told on a page, or raised again
            return self._problem(request, error)
        notice = self._seals.opened(NOTICE, request.state.cookies.get(NOTICE, ""), lasts=NOTICE_LASTS)
        response = self._view.page(request, f"{name}.html", notice=notice, **self._known(request), **values)
        if notice:
            response.headers.append("set-cookie", cookie(NOTICE, "", secure=request.state.secure, lasts=0))
        return response

    def _known(self, request: Request) -> dict[str, Any]:
        """Return what every page needs: who looks at it, and the token of its forms."""
        state = request.state
        query = request.url.query
        return {
            "who": state.who,
            "token": self._seals.token(state.visit, state.who),
            "live_query": query,
            "here": back_to(f"{request.url.path}{'?' if query else ''}{query}"),
            "leaves": self._passwords is not None and not self.options.proxy_header,
        }

    async def _fragment(self, name: str, query: str) -> str:
        """Return the part of a page that changes. Its forms are left to the page, as they have a token of a visit."""
        try:
            values = await read(name, self._overview, QueryParams(query), live=True)
            here = back_to(f"/{name}{'?' if query else ''}{query}")
            return self._view.text(f"_{name}.html", token="", here=here, live=True, **values)
        except Exception as error:  # noqa: BLE001 - told in place of the page, which is made again
            try:
                _, title, text = _explained(error)
            except Exception:
                logger.exception("page", extra={"page": name})
                title, text = _BUG
        return self._view.text("_problem.html", title=title, text=text)

    async def _stream(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in PAGES or name == "actions":
            raise HTTPException(404, "There is no such page.")
        seen = request.headers.get("last-event-id", "")
        follow = self._live.follow(name, known_query(name, request.query_params), seen=seen)
        return self._seated(request, follow)

    async def _events(self, request: Request) -> Response:
        try:
            task_id = check_task_id(request.query_params.get("id", ""))
        except InvalidNameError as error:
            raise HTTPException(400, str(error)) from None
        after = place(request.headers.get("last-event-id", "")) or place(request.query_params.get("after", ""))
        return self._seated(request, task_events(self._client.stream(task_id, after=after), self._view))

    def _seated(self, request: Request, stream: AsyncGenerator[bytes]) -> Response:
        """Return a stream, where there is a place for it."""
        address, seats = request.state.address, self._seats
        try:
            seats.take(address)
        except FullError as error:
            return PlainTextResponse(
                f"{error}\n", status_code=503, headers={"retry-after": "10", "connection": "close"}
            )
        return _Seated(until(stream, self.over), lambda: seats.free(address))

    async def _static(self, request: Request) -> Response:
        found = self._view.file(request.path_params["name"])
        if found is None:
            raise HTTPException(404, "There is no such file.")
        return found

    async def _healthz(self, _: Request) -> Response:
        """Tell whether Redis can be asked, and nothing else: nobody has to be known for that."""
        if await self._health.good():
            return PlainTextResponse("ok\n")
        return PlainTextResponse("Redis cannot be asked\n", status_code=503)

    # -- acting ----------------------------------------------------------------------------------------------------

    async def _confirm(self, request: Request) -> Response:
        self._allowed()
        query, what = request.query_params, request.query_params.get("what", "")
        try:
            kind = kind_of(what)
            ids, words = await chosen(self._overview, query, what)
        except Exception as error:  # noqa: BLE001 - told on a page, or raised again
            return self._problem(request, error)
        values: dict[str, Any] = {"kind": kind, "what": what, "ids": ids, "words": words}
        values |= {"queue": query.get("queue", ""), "back": back_to(query.get("back", "")), "page": ""}
        return self._view.page(request, "confirm.html", **values, **self._known(request))

    async def _act(self, request: Request) -> Response:
        self._allowed()
        fields = await read_form(request, self._seals)
        what = "".join(fields.get("what", []))
        try:
            done = await act(self._operations(request), what, fields)
        except Exception as error:  # noqa: BLE001 - told on a page, or raised again
            return self._problem(request, error)
        return self._acted(request, what, done, back_to("".join(fields.get("back", []))))

    async def _again(self, request: Request) -> Response:
        self._allowed()
        try:
            fields = await prefilled(self._overview, request.query_params.get("id", ""))
        except Exception as error:  # noqa: BLE001 - told on a page, or raised again
            return self._problem(request, error)
        return self._again_page(request, fields)

    async def _submit_again(self, request: Request) -> Response:
        self._allowed()
        typed = typed_in(await read_form(request, self._seals))
        try:
            task, queue = task_asked_for(typed, self._overview)
            try:
                done = await self._operations(request).submit(task, queue=queue, like=typed["id"])
            except ValueError as error:
                raise FieldError(str(error)) from None
        except FieldError as error:
            return self._again_page(request, shown_again(typed), error)
        except Exception as error:  # noqa: BLE001 - told on a page, or raised again
            return self._problem(request, error)
        return self._acted(request, "submit", done, f"/task?{quote_query(id=task.task_id)}")

    def _again_page(self, request: Request, fields: dict[str, str], wrong: FieldError | None = None) -> Response:
        values: dict[str, Any] = {"fields": fields, "wrong": wrong, "too_large": too_large(fields)}
        values |= {"longest_form": LONGEST_BODY, "page": "task"}
        status = 400 if wrong else 200
        return self._view.page(request, "again.html", status=status, **values, **self._known(request))

    def _operations(self, request: Request) -> Operations:
        return Operations(self._client, self._overview, who=request.state.who, where=request.state.address)

    def _acted(self, request: Request, what: str, done: Done, back: str) -> Response:
        """Return the way to the page that says what became of an action."""
        logger.info("action", extra={"who": inert(request.state.who), "what": what, "outcome": inert(done.message)})
        response = RedirectResponse(back, 303)
        notice = self._seals.seal(NOTICE, done.message[:500])
        response.headers.append("set-cookie", cookie(NOTICE, notice, secure=request.state.secure, lasts=NOTICE_LASTS))
        return response

    def _allowed(self) -> None:
        if not self.options.allow_actions:
            raise HTTPException(403, "This dashboard is for reading. To act, start it with --allow-actions.")

    # -- logging in ------------------------------------------------------------------------------------------------

    async def _login_page(self, request: Request) -> Response:
        if self._passwords is None or request.state.who:
            return RedirectResponse("/fleet", 303)
        return self._view.page(request, "login.html", wrong="", page="", **self._known(request))

    async def _login(self, request: Request) -> Response:
        if self._passwords is None:
            raise HTTPException(404, "This dashboard has no login: it was started without --password-file.")
        fields, address = await read_form(request, self._seals), request.state.address
        if wait := self._attempts.wait(address):
            text = f"Too many wrong passwords. Try again in {wait:.0f} s."
            page = self._view.page(request, "login.html", status=429, wrong=text, page="", **self._known(request))
            page.headers["retry-after"] = f"{wait:.0f}"
            return page
        user, password = ("".join(fields.get(name, [])) for name in ("user", "password"))
        # Counted first: many at once are not all tried before one of them is counted.
        self._attempts.failed(address)
        if not await self._passwords.right(user, password):
            text = "The name or the password is wrong."
            return self._view.page(request, "login.html", status=403, wrong=text, page="", **self._known(request))
        self._attempts.succeeded(address)
        response = RedirectResponse("/fleet", 303)
        sealed = self._seals.seal(SESSION, user)
        response.headers.append("set-cookie", cookie(SESSION, sealed, secure=request.state.secure, lasts=SESSION_LASTS))
        return response

    async def _logout(self, request: Request) -> Response:
        await read_form(request, self._seals)
        response = RedirectResponse("/login", 303)
        response.headers.append("set-cookie", cookie(SESSION, "", secure=request.state.secure, lasts=0))
        return response

    # -- problems --------------------------------------------------------------------------------------------------

    def _problem(self, request: Request, error: Exception) -> Response:
        status, title, text = _explained(error)
        return self._view.page(
            request, "problem.html", status=status, title=title, text=text, page="", **self._known(request)
        )

    async def _http_problem(self, request: Request, error: Exception) -> Response:
        status, detail = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, "")
        title = {403: "Not allowed", 404: "Not found", 405: "Not so"}.get(status, "This does not work")
        return self._view.page(
            request, "problem.html", status=status, title=title, text=detail, page="", **self._known(request)
        )

    async def _bug(self, request: Request, _: Exception) -> Response:
        title, text = _BUG
        return self._view.page(
            request, "problem.html", status=500, title=title, text=text, page="", **self._known(request)
        )


class _Seated(StreamingResponse):
    """A stream that gives its place back, however it ends."""

    def __init__(self, stream: AsyncGenerator[bytes], free: Callable[[], None]) -> None:
        super().__init__(stream, headers=_SSE)
        self._stream = stream
        self._free = free

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._free()
            await self._stream.aclose()


def _explained(error: Exception) -> tuple[int, str, str]:
    """Return status, title and words for an error that somebody can do something about; raise any other."""
    if isinstance(error, NotFoundError):
        return 404, "Not found", str(error)
    if isinstance(error, ValueError):
        return 400, "This cannot be asked", str(error)
    if isinstance(error, NoPermissionError):
        return 503, "Redis does not allow it", f"{error}. It needs the rights of `dashboard`: docs/redis-rights.md."
    if isinstance(error, RedisError | OSError | TimeoutError):
        why = str(error) or "no answer within 5 s"
        return 503, "Redis cannot be asked", f"{why}. The page comes back by itself once Redis answers."
    raise error
