# SPDX-License-Identifier: MIT
"""The signals that end the process, and the thread that waits for them.

The signals are blocked on all threads, and one thread takes them by
sigwaitinfo.  So no system call is interrupted, no code runs inside a signal
handler, and the log can say which signal came and which process sent it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FAULTS = {
    *(signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL),
    *(signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP),
}
"""Signals that the process's own faults cause; they are never blocked."""

HARMLESS = {
    *(signal.SIGCHLD, signal.SIGCONT, signal.SIGPIPE, signal.SIGTSTP, signal.SIGTTIN),
    *(signal.SIGTTOU, signal.SIGURG, signal.SIGWINCH, signal.SIGXFSZ),
}
"""Signals that stop the process for a while, or that mean nothing here.

SIGPIPE and SIGXFSZ are ignored: the write that causes them fails with an errno.
"""

ENDING = frozenset(signal.valid_signals()) - FAULTS - HARMLESS - {signal.SIGKILL, signal.SIGSTOP}
"""Signals whose default action ends a process: SIGTERM, and also SIGUSR1 or SIGALRM."""


READABLE = signal.SIGIO
"""What the kernel sends when there is something to read at a descriptor with O_ASYNC."""

DIED = signal.SIGCHLD
"""What the kernel sends when a child has ended."""

SUPERVISED = ENDING | {READABLE, DIED}
"""What a process waits for that has a machine as its child."""

TYPED = frozenset({signal.SIGINT, signal.SIGQUIT})
"""What a terminal's keys send, to all processes in its foreground."""

ASKING = signal.SIGTERM
"""What asks a process to end."""

HANGUP = signal.SIGHUP
"""What a terminal sends that is closed."""

KILLING = signal.SIGKILL
"""What ends a process at once."""

IGNORED_BY_PYTHON = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
"""The signals that Python ignores, and programs expect not to be ignored."""


@contextmanager
def held() -> Iterator[set[int]]:
    """Block the signals that end the process during the body; an exec keeps them blocked.

    The body gets the signals that were blocked before.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield {int(number) for number in before}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def name(number: int) -> str:
    """Return the name of a signal as kill(1) has it, such as "SIGTERM" or "SIGRTMIN+3"."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


class SignalWatch:
    """A thread that waits for the signals that end the process.

    For each it calls `told(number, sender)` on its thread; `sender` is a process
    id, 0 for the kernel.  SIGHUP stays ignored if the process was started with it
    ignored, as by nohup(1).
    """

    def __init__(self, told: Callable[[int, int], None]) -> None:
        self.told = told
        ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._ending = ENDING - {signal.SIGHUP} if ignores_hangup else ENDING
        self._started = False

    def block(self) -> None:
        """Block the signals on this thread, and on all threads that it starts from now on.

        To be called before any other thread is started.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, self._ending)
        # nbdkit has handlers of its own by the time at which it may have forked; they must not
        # get the signals that are ignored here.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if signal.SIGHUP not in self._ending:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def start(self) -> None:
        """Start the thread, unless it was started before."""
        if not self._started:
            self._started = True
            threading.Thread(target=self._run, name="signals", daemon=True).start()

    def _run(self) -> None:
        while True:
            info = signal.sigwaitinfo(self._ending)
            self.told(info.si_signo, info.si_pid)


@contextmanager
def interrupts_end() -> Iterator[None]:
    """Let SIGINT end the process at once during the body, instead of raising KeyboardInterrupt.

    Also unblocks SIGINT, so that one that is pending takes effect.
    `interrupts_raise` ends this early.  A handler other than Python's own is kept,
    and so is SIG_IGN.
    """
    is_pythons = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_pythons:
        unhandle_interrupt()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if is_pythons:
            interrupts_raise()


def interrupts_raise() -> None:
    """Let SIGINT raise KeyboardInterrupt again, if it would end the process now."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def unhandle_interrupt() -> None:
    """Remove Python's handler of SIGINT, which would raise KeyboardInterrupt on the main thread."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def unwinding() -> Iterator[None]:
    """Let SIGTERM and SIGHUP be interrupts during the body, and end the process then.

    So what the body has made is removed as after an interrupt, and the status is still
    that of the signal.  A second one waits for that.  SIGHUP stays ignored if it is.
    """
    came: list[int] = []

    def unwind(number: int, _frame: object) -> None:
        came.append(number)
        if len(came) == 1:
            # asyncio has a handler of its own for it, which cancels the task: an exception that
            # is raised anywhere in its loop might leave something waiting for ever.
            signal.raise_signal(signal.SIGINT)

    numbers = [one for one in (ASKING, HANGUP) if signal.getsignal(one) is not signal.SIG_IGN]
    before = {number: signal.signal(number, unwind) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            die_of(came[0])


def discard_sigterm_of_late(parent: int) -> None:
    """Drop a pending SIGTERM that the death of the parent has caused.

    `parent` is the process id that the parent had.  nbdkit asks the kernel for
    SIGTERM at its parent's death, which applies until the plugin is loaded and
    can undo it (`plugin/lifetime.py`).  A SIGTERM of another sender is sent again.
    """
    if signal.SIGTERM in signal.sigpending() and os.getppid() != parent:
        info = signal.sigtimedwait({signal.SIGTERM}, 0)
        if info is not None and info.si_pid != parent:
            os.kill(os.getpid(), signal.SIGTERM)


def die_of(number: int) -> None:
    """Unblock a signal on this thread, and raise it: its default action ends the process."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    signal.pthread_kill(threading.get_ident(), number)


def hold_of_children() -> None:
    """Block what tells of children as well, so that `wait` returns it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SUPERVISED)


def let_of_children() -> None:
    """Undo `hold_of_children`, in a child."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SUPERVISED - ENDING)


def forget_readable() -> None:
    """Drop a pending SIGIO, which would end this process as soon as it is no longer blocked."""
    signal.sigtimedwait({READABLE}, 0)


def wait(timeout_s: float | None) -> tuple[int, int] | None:
    """Wait for one of the signals `SUPERVISED`, which are blocked; None after `timeout_s` seconds.

    Returns the signal and the process that has sent it, 0 for the kernel.  SIGHUP is
    none if the process was started with it ignored.
    """
    awaited = SUPERVISED
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        awaited = SUPERVISED - {signal.SIGHUP}
    if timeout_s is None:
        info: signal.struct_siginfo | None = signal.sigwaitinfo(awaited)
    else:
        info = signal.sigtimedwait(awaited, max(timeout_s, 0.0))
    return None if info is None else (info.si_signo, info.si_pid)
