# SPDX-License-Identifier: MIT
"""A machine as a child of this process, from its start to its end.

Signals are blocked here (`signals.held`), and taken one by one with `signals.wait`:
also SIGCHLD, and SIGIO for the pipe on which the machine tells that it is ready.  So
there is one place to wait for everything, without handlers and threads.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from typing import Any

import click

from blockcore.bql.clock import SystemClock
from blockcore.cli.launch import Launch
from blockcore.cli.output import tell
from blockcore.process import signals

END_S = 5.0
"""How long a process may take to end when it is asked to, in seconds; then it is killed.

A machine promises two.
"""

_monotonic_ns = SystemClock.monotonic_ns


class Deadline:
    """A moment that is `timeout_s` seconds from now; None for never."""

    def __init__(self, timeout_s: float | None) -> None:
        self._end_ns = None if timeout_s is None else _monotonic_ns() + int(timeout_s * 1e9)

    def left_s(self) -> float | None:
        """Return the seconds until then, at least 0."""
        if self._end_ns is None:
            return None
        return max(self._end_ns - _monotonic_ns(), 0) / 1e9


class Child:
    """A child of this process; `status` is its exit status as a shell has it, once it has ended."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None

    def has_ended(self) -> bool:
        """Return whether it has ended; waits for nothing."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = shell_status(os.waitstatus_to_exitcode(status))
        return self.status is not None

    def signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if not self.has_ended():
            os.kill(self.pid, number)

    def end(self) -> None:
        """Ask it to end, wait until it has, and kill it if it does not.

        Signals that come meanwhile are dropped: they ask for what happens anyway.
        """
        self.signal(signals.ASKING)
        deadline = Deadline(END_S)
        while not self.has_ended():
            if signals.wait(deadline.left_s()) is None:
                self.signal(signals.KILLING)
                deadline = Deadline(None)


class ServedMachine(Child):
    """nbdkit with the plugin, in a process group of its own, or with `session` in a session.

    So a terminal's Ctrl-C does not reach it.  It has the ready line's pipe as its
    stdout, and nothing on stdin.
    """

    def __init__(self, launch: Launch, session: bool = False) -> None:
        signals.hold_of_children()
        self._ready, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            _become(launch, writer, session)
        super().__init__(pid)
        os.close(writer)
        launch.close()

    def wait_until_ready(self) -> dict[str, Any] | None:
        """Return what the ready line says; None if the machine has ended, having said why.

        Signals to this process go to the machine.
        """
        fcntl.fcntl(self._ready, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(self._ready, fcntl.F_GETFL)
        # With O_ASYNC the kernel sends SIGIO when there is something to read.
        fcntl.fcntl(self._ready, fcntl.F_SETFL, flags | os.O_NONBLOCK | os.O_ASYNC)
        line = b""
        while not line.endswith(b"\n"):
            try:
                data = os.read(self._ready, 1 << 16)
            except BlockingIOError:
                self._pass_on_a_signal()
                continue
            if not data:
                break
            line += data
        os.close(self._ready)
        signals.forget_readable()
        if line.endswith(b"\n"):
            ready: dict[str, Any] = json.loads(line)
            return ready
        while not self.has_ended():
            self._pass_on_a_signal()
        return None

    def _pass_on_a_signal(self) -> None:
        came = signals.wait(None)
        if came is not None and came[0] not in (signals.DIED, signals.READABLE):
            self.signal(came[0])


def _become(launch: Launch, writer: int, session: bool) -> None:
    """Turn this child into the machine; never returns."""
    try:
        if session:
            os.setsid()
        else:
            os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(writer, 1)
        signals.let_of_children()
        launch.become()
    except click.ClickException as exc:
        tell(f"faultline: {exc.format_message()}")
    finally:
        os._exit(1)


def shell_status(code: int) -> int:
    """Return an exit status as a shell has it: 128 and more for signals.

    `code` is negative for a signal (waitstatus_to_exitcode).
    """
    return code if code >= 0 else 128 - code


def descendants(pid: int) -> list[int]:
    """Return the numbers of a process's descendants, by /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found
