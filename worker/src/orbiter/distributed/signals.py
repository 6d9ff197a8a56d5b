"""Signals of a worker, from the first line of its process to the last; and forks: what a tool's child has of them.

The handlers are Python's own and pass the signal to the event loop; ``loop.add_signal_handler`` is not used: it takes
what is written to the loop's wake-up descriptor for signals, and a forked child shares that, so that a signal to the
child would reach the worker.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

# What is handled now: each with the handler that was there before.
_taken: dict[int, Any] = {}
_held = False
# What a worker that is starting obeys by leaving, and what arrived until it could obey the rest.
_leaving: set[int] = set()
_early: list[int] = []
# Workers of this process: their loop, the loop's thread, and what they do on a signal.
_workers: list[tuple[AbstractEventLoop, int, Mapping[int, Callable[[], None]]]] = []
# Whether this process is a child that was forked from a worker, in which user code runs and nothing else.
is_forked = False
# Two threads may fork at once.
_masks = threading.local()


def hold() -> None:
    """Handle the signals of a worker that is starting, and again once it has ended. A second call changes nothing.

    It has nothing to lose: SIGTERM, SIGINT and the end of its terminal end it at once, with exit status 0. SIGUSR1 and
    SIGUSR2 wait until it can do what they ask for.
    """
    global _held  # noqa: PLW0603 - signals are the process's
    _held = True
    _leaving.update({signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if has_terminal() else [])})
    _take()


@contextlib.contextmanager
def handled(loop: AbstractEventLoop, actions: Mapping[int, Callable[[], None]]) -> Iterator[None]:
    """Have a worker's loop do what belongs to each signal, meanwhile; at first what came while it was starting.

    Only a process's main thread may handle signals: from another one this leaves them alone.

    Args:
        loop: The worker's.
        actions: What to call, for each of :data:`HANDLED`.
    """
    global is_forked  # noqa: PLW0603 - as above
    main = threading.current_thread() is threading.main_thread()
    worker = (loop, threading.get_ident(), actions if main else {})
    is_forked = False
    _workers.append(worker)
    if main:
        _take()
        for number in _early:
            loop.call_soon(actions[number])
        _early.clear()
    try:
        yield
    finally:
        _workers.remove(worker)
        if main and not _held and not any(others for _, _, others in _workers):
            while _taken:
                signal.signal(*_taken.popitem())


def _handle(number: int, _: FrameType | None) -> None:
    reached = [(loop, actions[number]) for loop, _, actions in _workers if actions]
    for loop, action in reached:
        loop.call_soon_threadsafe(action)
    if not reached and number in _leaving:
        os._exit(0)
    if not reached:
        _early.append(number)


def has_terminal() -> bool:
    """Tell whether this process has a controlling terminal, whose end SIGHUP tells."""
    try:
        os.close(os.open(os.ctermid(), os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _take() -> None:
    for number in HANDLED:
        before = signal.getsignal(number)
        # nohup: the end of the terminal is not to matter.
        if number not in _taken and not (number == signal.SIGHUP and before is signal.SIG_IGN):
            signal.signal(number, _handle)
            # None is a handler that Python does not know of.
            _taken[number] = signal.SIG_DFL if before is None else before


# -- forks -------------------------------------------------------------------------------------------------------------


def exit_child(error: BaseException | None = None) -> NoReturn:
    """End this process, a forked child that came back from user code: the worker is the parent's.

    Its exit status is what it would be of a program that ends in this way.
    """
    status = 1
    try:
        if error is None:
            status = 0
        elif isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
            if status and not isinstance(error.code, int):
                print(error.code, file=sys.stderr)  # noqa: T201 - as Python does
        else:
            import traceback  # noqa: PLC0415 - takes its time, which a worker that starts has not

            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status & 0xFF)


def _before_fork() -> None:
    """Let no signal in until the child has put its handlers away: it would be taken for the worker's, and lost."""
    if _taken:
        _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, set(_taken))


def _in_child() -> None:
    global is_forked  # noqa: PLW0603 - as above
    is_forked = is_forked or bool(_workers)
    if _taken:
        signal.set_wakeup_fd(-1)
        for number in _taken:
            signal.signal(number, signal.SIG_DFL)
        interrupted = signal.SIGINT in _taken
        _taken.clear()
        _unblock()
        if interrupted:
            # Python's default, but after what arrived meanwhile has ended the process: here nothing would catch it.
            signal.signal(signal.SIGINT, signal.default_int_handler)
    for loop, thread, _ in _workers:
        if thread == threading.get_ident():
            # Should it come back to the worker's event loop by another way than out of an asyncio task.
            loop.call_soon(exit_child)
    _workers.clear()


def _unblock() -> None:
    mask = _masks.__dict__.pop("before", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


os.register_at_fork(before=_before_fork, after_in_parent=_unblock, after_in_child=_in_child)
