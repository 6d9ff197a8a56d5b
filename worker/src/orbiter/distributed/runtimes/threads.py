"""Threads for blocking code of tasks: such a thread cannot be stopped, so it must never keep the worker from ending."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from orbiter.distributed.runtimes.user_code import RUN, UserCode

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")

_USER_CODE = UserCode()
# Threads that run code now, by number of the run (0: of none, or not in an executor process).
_live: dict[int, int] = {}
_abandoned: set[int] = set()
_lock = threading.Lock()


def threads_of(run: int) -> int:
    """Return how many threads still run code of a run."""
    return _live.get(run, 0)


def abandoned() -> int:
    """Return how many threads run code of runs that nobody waits for any more."""
    return len(_abandoned)


class DaemonThreads(Executor):
    """One daemon thread a call.

    The standard pools are joined at exit: a worker that has drained and handed its task back would go on waiting for
    a sleeping tool until it is killed.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start ``fn`` in a thread of its own."""
        future: Future[T] = Future()
        run = RUN.get()
        with _lock:
            _live[run] = _live.get(run, 0) + 1

        def call() -> None:
            try:
                if not future.set_running_or_notify_cancel():
                    return
                try:
                    with _USER_CODE:
                        result = fn(*args, **kwargs)
                except BaseException as error:  # noqa: BLE001 - handed to whoever awaits the future
                    future.set_exception(error)
                else:
                    future.set_result(result)
            finally:
                with _lock:
                    _abandoned.discard(id(future))
                    _live[run] -= 1
                    if not _live[run]:
                        del _live[run]

        threading.Thread(target=call, name=f"orbiter-{getattr(fn, '__name__', 'call')}", daemon=True).start()
        return future


DAEMON_THREADS = DaemonThreads()


async def in_thread(function: Callable[[], T]) -> T:
    """Run blocking code in a daemon thread and return its result; cancelling abandons the wait, not the code."""
    context = contextvars.copy_context()
    future = DAEMON_THREADS.submit(lambda: context.run(function))
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        with _lock:
            if not future.done():
                _abandoned.add(id(future))
        raise
