"""Where code of tasks runs: nothing that it raises ends more than its task, and no child that it forks comes out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from orbiter.distributed import signals
from orbiter.distributed.errors import text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Modules that stand between us and user code.
_NOT_USER_CODE = (
    "asyncio.",
    "concurrent.futures.",
    "contextlib",
    "orbiter.distributed.",
    "pydantic_ai.",
    "threading",
)

# Whether this is a run, or an asyncio task that a run has started, which inherits it.
IN_RUN: ContextVar[bool] = ContextVar("orbiter_in_run", default=False)
# In an executor process: the number of the run that this is part of, 0 for none.
RUN: ContextVar[int] = ContextVar("orbiter_run", default=0)


class Stepping:
    """What the event loop of this process does now, and which run's steps have made the process grow.

    Attributes:
        run: Number of the run whose step this is, 0 between steps.
        limit: Resident bytes of this process above which each step is weighed; 0 never.
        grown: Bytes by which steps have made the process grow while that was so, by number of the run.
    """

    __slots__ = ("_descriptor", "_weight", "grown", "limit", "run", "weighs")

    def __init__(self) -> None:
        self.run = 0
        self.limit = 0
        self.grown: dict[int, int] = {}
        self.weighs = False
        self._descriptor = -1
        self._weight = 0

    def look(self) -> int:
        """Return the resident bytes of this process, 0 where they are not known; begin to weigh above the limit."""
        weight = self._resident()
        if self.limit and weight > self.limit and not self.weighs:
            self.weighs, self._weight = True, weight
        return weight

    def weigh(self, run: int) -> None:
        """Put what the process has grown by since the last step down to this run."""
        weight = self._resident()
        if weight > self._weight:
            self.grown[run] = self.grown.get(run, 0) + weight - self._weight
        self._weight = weight

    def _resident(self) -> int:
        try:
            if self._descriptor < 0:
                self._descriptor = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
            return int(os.pread(self._descriptor, 100, 0).split()[1]) * PAGE
        except (OSError, IndexError, ValueError):
            return 0


PAGE = os.sysconf("SC_PAGE_SIZE")
stepping = Stepping()


def tamed(error: BaseException, who: str = "") -> BaseException:
    """Return the error, or a ``RuntimeError`` in place of one that would end more than the task.

    An event loop, and a program with it, ends on ``KeyboardInterrupt`` and ``SystemExit``; a future hangs on
    ``StopIteration``. Errors and cancellation stay what they are.

    Args:
        error: What user code raised.
        who: The code's name, where it has one.
    """
    if isinstance(error, Exception | asyncio.CancelledError | GeneratorExit) and not isinstance(error, StopIteration):
        return error
    instead = RuntimeError(f"{who} raised {type(error).__name__}({text_of(error)})".lstrip())
    instead.__cause__ = error
    return instead


def frames_of_user_code(error: BaseException) -> TracebackType | None:
    """Return an error's traceback from the first frame of user code on; nothing where no frame is."""
    at = error.__traceback__
    while at is not None and str(at.tb_frame.f_globals.get("__name__", "")).startswith(_NOT_USER_CODE):
        at = at.tb_next
    return at


class UserCode:
    """A block that runs code of a task. What leaves it is :func:`tamed`; a forked child ends there.

    Args:
        who: The code's name, for the error.
    """

    __slots__ = ("_who",)

    def __init__(self, who: str = "") -> None:
        self._who = who

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if signals.is_forked:
            signals.exit_child(error)
        if error is not None and (instead := tamed(error, self._who)) is not error:
            raise instead


class Contained(Coroutine[Any, Any, T]):
    """A coroutine whose every step is a block of :class:`UserCode`; a step that ends in a forked child is its last."""

    __slots__ = ("_run", "_work")

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self._run = RUN.get()

    def send(self, value: Any) -> Any:
        """Run to the next ``await``."""
        stepping.run = self._run
        try:
            awaited = self._work.send(value)
        except StopIteration:
            # The end of it; apart from the others, as every run comes here.
            if signals.is_forked:
                signals.exit_child()
            raise
        except BaseException as error:
            _exit_or_tame(error)
            raise
        finally:
            stepping.run = 0
            if stepping.weighs:
                stepping.weigh(self._run)
        if signals.is_forked:
            signals.exit_child()
        return awaited

    def throw(self, *error: Any) -> Any:
        """Run to the next ``await``, from an error on."""
        try:
            awaited = self._work.throw(*error)
        except BaseException as raised:
            _exit_or_tame(raised)
            raise
        if signals.is_forked:
            signals.exit_child()
        return awaited

    def close(self) -> None:
        """End it where it waits."""
        self._work.close()

    def __await__(self) -> Iterator[Any]:  # type: ignore[override]
        """Run it within another coroutine."""
        return self._work.__await__()

    def __getattr__(self, name: str) -> Any:
        """Look to debuggers and libraries as the coroutine does."""
        return getattr(self._work, name)


def _exit_or_tame(error: BaseException) -> None:
    ended = isinstance(error, StopIteration)
    if signals.is_forked:
        signals.exit_child(None if ended else error)
    if not ended and (instead := tamed(error)) is not error:
        raise instead


@contextlib.contextmanager
def containing(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Contain the asyncio tasks that runs start on the loop, meanwhile; all others are none of ours."""
    before: Any = loop.get_task_factory()

    def start(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
        if IN_RUN.get() and asyncio.iscoroutine(work):
            work = Contained(work)
        return asyncio.Task(work, loop=loop, **options) if before is None else before(loop, work, **options)

    loop.set_task_factory(start)
    try:
        yield
    finally:
        loop.set_task_factory(before)


def run_contained(
    work: Coroutine[Any, Any, T], *, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> T:
    """Run a worker to its end as ``asyncio.run`` does, but go on when a callback of user code raises ``SystemExit``."""
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        loop = runner.get_loop()
        try:
            return _to_its_end(loop, loop.create_task(work))
        finally:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                _to_its_end(loop, asyncio.gather(*left, return_exceptions=True))


def _to_its_end(loop: asyncio.AbstractEventLoop, work: asyncio.Future[T]) -> T:
    while True:
        try:
            return loop.run_until_complete(work)
        except (KeyboardInterrupt, SystemExit) as error:
            if signals.is_forked:
                signals.exit_child(error)
            if work.done():
                raise
            # The loop stopped in the middle of a turn; what it had left it does now.
            logger.exception("a callback of user code raised %s", type(error).__name__)
