# SPDX-License-Identifier: MIT
"""Runs of pytest with the plugin, each in a place of its own, and what they leave behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from live import TIMEOUT_S

RUN_S = 4 * TIMEOUT_S
"""The patience with a run, in seconds: each has several machines."""

PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error"]


@dataclass(frozen=True)
class Place:
    """A directory with tests, and one for all that their machines make: sockets, disks, logs."""

    tests: Path
    private: Path

    def start(self, text: str, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """Start pytest on a test module in a process group of its own."""
        (self.tests / "test_it.py").write_text(text)
        return subprocess.Popen(
            [*PYTEST, f"--basetemp={self.tests}/t", "-c", "/dev/null", "test_it.py", *arguments],
            cwd=self.tests,
            env=self.environ() | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )

    def environ(self) -> dict[str, str]:
        """The environment in which all that machines make is in this place."""
        private = str(self.private)
        ours = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
        return ours | {"TMPDIR": private, "XDG_RUNTIME_DIR": private, "COLUMNS": "300"}

    def run(self, text: str, *arguments: str, **environ: str) -> str:
        """Run pytest to its end; what it has printed."""
        with self.start(text, *arguments, **environ) as run:
            return run.communicate(timeout=RUN_S)[0]

    def left(self) -> list[str]:
        """What there is of machines: their processes, and their files."""
        return [*map(str, self.processes()), *(path.name for path in self.private.iterdir())]

    def processes(self) -> list[int]:
        """The processes whose private files are, or would be, in this place."""
        wanted = b"TMPDIR=" + os.fsencode(self.private)
        return [pid for pid in pids() if wanted in environment(pid)]

    def await_the_end_of_all(self) -> None:
        """Wait until no process of this place is left, also none that ends while this looks."""
        while found := self.processes():
            for pid in found:
                assert ends(pid), f"{pid} does not end"


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def environment(pid: int) -> list[bytes]:
    """The variables of a process; none if it has ended, or is another user's."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def ends(pid: int) -> bool:
    """Whether a process ends before a test's patience does."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        return bool(poller.poll(TIMEOUT_S * 1000))
    finally:
        os.close(descriptor)


@contextmanager
def place() -> Iterator[Place]:
    """Make a place; its path is short, so that there is room for that of a socket."""
    with tempfile.TemporaryDirectory(prefix="fl-", dir="/tmp") as directory:
        made = Place(Path(directory) / "tests", Path(directory) / "private")
        made.tests.mkdir()
        made.private.mkdir()
        try:
            yield made
        finally:
            # What a test has not seen ending, because it has failed before.
            for pid in made.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


