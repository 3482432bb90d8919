# SPDX-License-Identifier: MIT
"""The process of a machine: how it is started, what it says, and how it ends.

Nothing here waits for long: the faces of the package wait, each in its way, for
`ready_fd` to have the ready line, and for `pidfd` to tell that the process has ended.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from faultline.errors import StartFailed
from faultline.remains import remove_remains

COMMAND = "from blockcore.cli import main; raise SystemExit(main())"
"""What `python -m faultline` runs, without the import of this package, which takes longer."""

STARTED_BY = "FAULTLINE_STARTED_BY"
"""The variable that tells a machine which process has started it."""

TAIL = 10
"""Lines of the log that the message of an error has."""


def serve_command() -> list[str]:
    """Return the command `faultline serve`; raises StartFailed if it is not installed.

    It is the one that is installed beside this package, else the first on PATH.
    """
    if importlib.util.find_spec("blockcore") is not None:
        # -P: a module of the current directory is not taken for one of the command's.
        return [sys.executable, "-P", "-c", COMMAND, "serve"]
    program = shutil.which("faultline")
    if program is None:
        raise StartFailed("the command faultline is not installed: pip install faultline")
    return [program, "serve"]


class Process:
    """A started machine, which ends when this process ends.

    Its log goes to a file without a name, so that nothing is left of it.  `is_ours`
    is false in a child of the process that has started it, after a fork.  Any number of
    threads may ask for its status and log, also while one of them ends it: both descriptors
    are closed when nobody has this object any more.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        standby: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        command = [*serve_command(), "--exit-with-parent", "--log-format", "json"]
        if standby:
            command.append("--standby")
        self._owner = os.getpid()
        # The machine compares this with its parent, which may be gone before it can look.
        environ = {**(os.environ if environ is None else environ), STARTED_BY: str(self._owner)}
        with tempfile.TemporaryFile() as log:
            self._log = self._kept(os.dup(log.fileno()))
        try:
            self._popen = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.PIPE if standby else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environ,
                # An interrupt of the terminal is for this process, which ends the machine in order.
                process_group=0,
            )
        except OSError as exc:
            raise StartFailed(f"{command[0]}: {exc.strerror}") from exc
        self.pidfd = self._kept(os.pidfd_open(self._popen.pid))
        self._line = bytearray()
        self._ready: dict[str, Any] = {}
        self._closed = False

    def _kept(self, descriptor: int) -> int:
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._popen.pid

    @property
    def is_ours(self) -> bool:
        """Whether this is the process that has started it."""
        return os.getpid() == self._owner

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while the process runs.

        `Popen.poll` answers None as well where another thread is just collecting the
        status, so what has ended is waited for, which takes no time.
        """
        status = self._popen.poll()
        return self._popen.wait() if status is None and self.ends_within(0) else status

    def ends_within(self, seconds: float) -> bool:
        """Return whether the process has ended, or ends in that time, for which this waits."""
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return bool(poller.poll(seconds * 1000))

    @property
    def ready_fd(self) -> int:
        """The descriptor on which the ready line comes."""
        assert self._popen.stdout is not None
        return self._popen.stdout.fileno()

    def configure(self, keys: Sequence[str], directory: str) -> None:
        """Tell a standby what it is; relative paths begin in `directory`.

        Raises StartFailed if it has ended.
        """
        line = json.dumps({"keys": list(keys), "directory": directory})
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.write(os.fsencode(line) + b"\n")
            self._popen.stdin.flush()
        except OSError as exc:
            raise StartFailed(self.log_text() or str(exc)) from exc

    def ready(self) -> dict[str, Any] | None:
        """Return the ready line if all of it has come, else None; after `ready_fd` is readable.

        Raises StartFailed with what the process has written if it has ended.
        """
        data = os.read(self.ready_fd, 65536)
        self._line += data
        if self._line.endswith(b"\n"):
            assert self._popen.stdout is not None
            self._ready = json.loads(self._line)
            return self._ready
        if data:
            return None
        self._popen.wait()
        raise StartFailed(_reason(self.log_text()))

    def terminate(self) -> None:
        """Tell the machine to end."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.terminate()

    def kill(self) -> None:
        """End the process by force."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(signal.SIGKILL)

    def log_text(self) -> str:
        """Return all that the machine has written on stderr so far."""
        size = os.fstat(self._log).st_size
        return os.pread(self._log, size, 0).decode(errors="replace")

    def closed(self) -> None:
        """Close the pipes; to be called when the process has ended.

        If it was killed, what it could not remove is removed here.
        """
        if self._closed:
            return
        self._closed = True
        if self._popen.wait() < 0:
            remove_remains(self._ready)
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def abandoned(self) -> None:
        """Leave the process to its parent; for a child after a fork."""
        self._closed = True
        self._popen.returncode = 0


def log_lines(text: str) -> list[dict[str, Any]]:
    """Return the lines of a log as objects; a line that is no JSON is the member `event` of one.

    >>> log_lines('{"event": "STOP", "level": "info"}\\nSegmentation fault\\n')
    [{'event': 'STOP', 'level': 'info'}, {'event': 'Segmentation fault'}]
    """
    lines = []
    for line in text.splitlines():
        try:
            parsed = json.loads(line)
        except ValueError:
            parsed = None
        lines.append(parsed if isinstance(parsed, dict) else {"event": line})
    return lines


def tail(text: str) -> str:
    """Return the last lines of a log as the end of a message; empty if there are none."""
    lines = text.splitlines()[-TAIL:]
    return "".join(["; its log ends with:", *(f"\n  {line}" for line in lines)]) if lines else ""


def _reason(text: str) -> str:
    """Return why a machine did not start: what it wrote, without the name of the command."""
    lines = [line for line in text.splitlines() if not line.startswith("{")] or text.splitlines()
    return "\n".join(lines).removeprefix("faultline: ") or "the machine has ended without a word"
