"""Threads for blocking code of tasks: such a thread cannot be stopped, so it must never keep the worker from ending."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreads(Executor):
    """One daemon thread a call.

    The standard pools are joined at exit: a worker that has drained and handed its task back would go on waiting for
    a sleeping tool until it is killed.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start ``fn`` in a thread of its own."""
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except (StopIteration, SystemExit) as error:
                # asyncio hangs on a future with the one and ends the whole worker on the other.
                wrapped = RuntimeError(f"raised {type(error).__name__}({error})")
                wrapped.__cause__ = error
                future.set_exception(wrapped)
            except BaseException as error:  # noqa: BLE001 - handed to whoever awaits the future
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=call, name=f"orbiter-{getattr(fn, '__name__', 'call')}", daemon=True).start()
        return future


DAEMON_THREADS = DaemonThreads()


async def in_thread(function: Callable[[], T]) -> T:
    """Run blocking code in a daemon thread and return its result; cancelling abandons the wait, not the code."""
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(DAEMON_THREADS, lambda: context.run(function))
