# SPDX-License-Identifier: MIT
"""`serve --run`: a shell command while a machine serves, with the machine's addresses.

The command has the standard streams, and variables as nbdkit's --run has them, and
more (`variables`).  It has a process group of its own, which gets the signals that
come here.  Only where this process is in the foreground of a terminal the command
stays in its group, so that it can read the terminal, and gets Ctrl-C from there.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

from blockcore.cli.output import tell
from blockcore.cli.supervise import END_S, Child, Deadline, ServedMachine, descendants
from blockcore.process import signals

TIMED_OUT = 124
"""The exit status after the time is over, as timeout(1) has it."""


def run_beside(
    machine: ServedMachine,
    command: str,
    timeout_s: float | None,
    mask: set[int],
    environ: Mapping[str, str],
) -> int:
    """Wait until the machine is ready, run the command, end both, and return the exit status.

    `mask` are the signals that the command has blocked.  The status is the
    command's, or the machine's if that is not ready or has crashed; `TIMED_OUT` if
    the command was ended because it took longer than `timeout_s`.
    """
    try:
        ready = machine.wait_until_ready()
        if ready is None:
            assert machine.status is not None
            return machine.status or 1
        env = {**environ, **variables(ready)}
        status = ShellCommand(command, env, mask).wait(Deadline(timeout_s), machine)
    finally:
        machine.end()
    if machine.status and not status:
        tell(f"faultline: the machine has ended with status {machine.status}")
        return 1
    return status


def variables(ready: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables of the command, from what the ready line says.

    nbdkit's are about the first drive: uri, nbd (QEMU's older form of it, which has no
    TLS), and unixsocket or port.
    """
    env: dict[str, str] = {}
    for export, uri in ready["drives"].items():
        if not env:
            env |= _as_nbdkit(uri)
        env.setdefault(f"FAULTLINE_URI_{re.sub(r'[^A-Za-z0-9]', '_', export)}", uri)
    if ready["control"] is not None:
        env["FAULTLINE_CONTROL"] = ready["control"]
    return env


def _as_nbdkit(uri: str) -> dict[str, str]:
    parts = urlsplit(uri)
    export = f":exportname={parts.path.removeprefix('/')}"
    if "unix" in parts.scheme:
        path = parse_qs(parts.query, errors="surrogateescape")["socket"][0]
        old = {} if "nbds" in parts.scheme else {"nbd": f"nbd:unix:{path}{export}"}
        return {"uri": uri, "unixsocket": path, **old}
    if "nbds" in parts.scheme:
        return {"uri": uri, "port": str(parts.port)}
    host = parts.netloc.rpartition("@")[2].replace("%25", "%")
    return {"uri": uri, "nbd": f"nbd:{host}{export}", "port": str(parts.port)}


class ShellCommand(Child):
    """A command that a shell runs."""

    def __init__(self, command: str, env: Mapping[str, str], mask: set[int]) -> None:
        self._at_terminal = is_in_foreground()
        spawn = functools.partial(
            os.posix_spawn,
            *("/bin/sh", ["sh", "-c", command], env),
            setsigmask=mask,
            setsigdef=signals.IGNORED_BY_PYTHON,
        )
        super().__init__(spawn() if self._at_terminal else spawn(setpgroup=0))

    def wait(self, deadline: Deadline, machine: Child) -> int:
        """Wait for the command's end, passing signals on; return its status or `TIMED_OUT`.

        After a signal or the deadline it has `END_S` seconds to end, and is then
        killed, and what it has started with it.
        """
        told = timed_out = False
        while not self.has_ended():
            came = signals.wait(deadline.left_s())
            if came is None:
                self._send(signals.KILLING if told else signals.ASKING)
                timed_out = timed_out or not told
            elif came[0] in (signals.DIED, signals.READABLE):
                machine.has_ended()
                continue
            elif self._at_terminal and came[0] in signals.TYPED and came[1] == 0:
                continue  # The command has it as well, and may be a shell that goes on.
            else:
                self._send(came[0])
            told, deadline = True, Deadline(END_S)
        if told and not self._at_terminal:
            self._send(signals.KILLING)
        assert self.status is not None
        return TIMED_OUT if timed_out else self.status

    def _send(self, number: int) -> None:
        """Send a signal to the command and to what it has started."""
        if not self._at_terminal:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            return
        for pid in (*descendants(self.pid), self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def is_in_foreground() -> bool:
    """Return whether this process is in the foreground of a terminal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
