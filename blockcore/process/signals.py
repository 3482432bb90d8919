# SPDX-License-Identifier: MIT
"""The signals that end the process, taken by a thread of its own.

They are blocked on all threads, so that none is interrupted, none is asked to
do what a handler may not, and it is known which signal came, and from whom.
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
"""Of the process itself."""

HARMLESS = {
    *(signal.SIGCHLD, signal.SIGCONT, signal.SIGPIPE, signal.SIGTSTP, signal.SIGTTIN),
    *(signal.SIGTTOU, signal.SIGURG, signal.SIGWINCH, signal.SIGXFSZ),
}
"""What stops it, or is for nothing here; a write beyond a limit is an error (SIGPIPE, SIGXFSZ)."""

ENDING = frozenset(signal.valid_signals()) - FAULTS - HARMLESS - {signal.SIGKILL, signal.SIGSTOP}
"""What would end a process that knows nothing of it, SIGUSR1 and SIGALRM as well as SIGTERM."""


@contextmanager
def held() -> Iterator[None]:
    """Let what ends the process wait, also across an exec."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def name(number: int) -> str:
    """A signal's name as kill(1) has it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


class SignalWatch:
    """Tells `told` of every signal that is to end the process, with its sender's number.

    `told` runs on the watch's thread.  Who starts a machine with SIGHUP ignored, as
    nohup(1) does, wants it to stay.
    """

    def __init__(self, told: Callable[[int, int], None]) -> None:
        self.told = told
        ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._ending = ENDING - {signal.SIGHUP} if ignores_hangup else ENDING
        self._started = False

    def block(self) -> None:
        """Let the signals wait for the watch; before any thread is started, which inherits that.

        nbdkit has handlers of its own by the time at which it may have forked;
        of what is not for the watch they must not hear.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, self._ending)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if signal.SIGHUP not in self._ending:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def start(self) -> None:
        """Begin to wait for them; once is enough."""
        if not self._started:
            self._started = True
            threading.Thread(target=self._run, name="signals", daemon=True).start()

    def _run(self) -> None:
        while True:
            info = signal.sigwaitinfo(self._ending)
            self.told(info.si_signo, info.si_pid)


@contextmanager
def interrupts_end() -> Iterator[None]:
    """Let an interrupt end the process, as it does without Python's handler, also one that waits.

    `interrupts_raise` is the end of that.  Who has a handler of its own, or
    ignores interrupts, goes on doing so.
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
    """Let an interrupt be an exception again, where it would end the process."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def unhandle_interrupt() -> None:
    """Take away Python's handler of SIGINT, which would raise an exception on the main thread."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def discard_sigterm_of_late(parent: int) -> None:
    """Forget a SIGTERM that has waited if it came from a parent that has ended since.

    nbdkit has the kernel send it one when its parent ends, and from when it
    begins to when the plugin is loaded nothing can be done about that.
    """
    if signal.SIGTERM in signal.sigpending() and os.getppid() != parent:
        info = signal.sigtimedwait({signal.SIGTERM}, 0)
        if info is not None and info.si_pid != parent:
            os.kill(os.getpid(), signal.SIGTERM)


def die_of(number: int) -> None:
    """Let this signal do what it does to a process that has no handler for it."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    signal.pthread_kill(threading.get_ident(), number)
