# SPDX-License-Identifier: MIT
"""How `faultline serve` makes known that the machine serves: a pidfile, and the ready line."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from typing import Any

from blockcore.process import pidfile
from blockcore.process.leftovers import Leftovers

READY_S = 1.0
"""How long the start waits for the ready line to be written, in seconds.

If stdout is a pipe that nobody reads, the machine serves without it.
"""


class Announcement:
    """The pidfile and the ready line of one process; made before nbdkit takes its stdout away.

    `environ` has the variables that `faultline serve` sets (`cli/nbdkit_command.py`).
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._stdout = os.dup(1)
        self._pidfile = environ.get("FAULTLINE_PIDFILE")
        self._pid = int(environ.get("FAULTLINE_PID", os.getpid()))

    def write_pidfile(self, leftovers: Leftovers) -> None:
        """Make the pidfile, if there is to be one; raises QmpError if it cannot be made."""
        if self._pidfile is not None:
            pidfile.write(self._pidfile, self._pid)
            leftovers.add(self._pidfile)

    def write_line(self, ready: Mapping[str, Any]) -> None:
        """Write the ready line to stdout; raises OSError if that fails.

        A thread of its own writes, and goes on waiting if nobody reads within
        `READY_S`.
        """
        line = json.dumps(ready).encode() + b"\n"
        errors: list[OSError] = []

        def write() -> None:
            try:
                with open(self._stdout, "wb") as stdout:
                    stdout.write(line)
            except OSError as exc:
                errors.append(exc)

        writer = threading.Thread(target=write, name="ready line", daemon=True)
        writer.start()
        writer.join(READY_S)
        if errors:
            raise errors[0]
