# SPDX-License-Identifier: MIT
"""The machines of this user on this host: processes of nbdkit with the plugin.

They are found in /proc, whatever has started them, and cannot be found when they are
dead.  Their control sockets are those Unix sockets at which they listen and that
speak QMP; so also the socket of a machine is found whose command line does not name
it.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from blockcore.qapi.record import dataclass
from faultline.aio import Machine
from faultline.errors import FaultlineError

PROC = Path("/proc")

ANSWER_S = 2.0
"""How long a machine may take to tell about itself."""

PLUGIN = re.compile(r"(^|/)(plugin|faultline_plugin)/drive\.py$")
"""The path of the plugin, in a source tree or where it is installed."""

LISTENS = 1 << 16
"""The flag of a socket in /proc/net/unix that accepts connections (__SO_ACCEPTCON)."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a machine; `sockets` are where it listens, without that of NBD."""

    pid: int
    age_s: float
    sockets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """A machine; `status` is None for one that does not answer."""

    pid: int
    age_s: float
    control: str
    name: str = ""
    status: str | None = None
    drives: tuple[str, ...] = ()

    def members(self) -> dict[str, Any]:
        """Return the machine for JSON."""
        return {
            "pid": self.pid,
            "name": self.name or None,
            "status": self.status,
            "drives": list(self.drives),
            "control": self.control,
            "age": round(self.age_s, 1),
        }


def processes(proc: Path = PROC, uid: int | None = None) -> list[Process]:
    """Return the processes of machines of a user (default: this one), the oldest first."""
    owner = os.geteuid() if uid is None else uid
    found = []
    for directory in proc.glob("[0-9]*"):
        # A process may end at any moment.
        with suppress(OSError, ValueError):
            if directory.stat().st_uid == owner:
                words = _words(directory / "cmdline")
                if is_machine(words):
                    found.append(_process(proc, directory, nbd_sockets(words)))
    return sorted(found, key=lambda process: (-process.age_s, process.pid))


def is_machine(words: list[str]) -> bool:
    """Return whether a command line is nbdkit's with the plugin."""
    pairs = zip(words, words[1:], strict=False)
    return any(word == "python" and PLUGIN.search(plugin) for word, plugin in pairs)


def nbd_sockets(words: list[str]) -> list[str]:
    """Return the values of nbdkit's option -U."""
    return [path for word, path in zip(words, words[1:], strict=False) if word == "-U"]


def _process(proc: Path, directory: Path, nbd: list[str]) -> Process:
    return Process(
        pid=int(directory.name),
        age_s=_age_s(proc, directory),
        sockets=tuple(path for path in _sockets(directory) if path not in nbd),
    )


def _words(file: Path) -> list[str]:
    return os.fsdecode(file.read_bytes()).split("\0")


def _age_s(proc: Path, directory: Path) -> float:
    # The name of the program, in parentheses, may have blanks and parentheses in it.
    fields = (directory / "stat").read_text(errors="replace").rpartition(")")[2].split()
    started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return max(float((proc / "uptime").read_text().split()[0]) - started_s, 0.0)


def _sockets(directory: Path) -> Iterator[str]:
    """Yield the paths of the Unix sockets at which a process listens."""
    inodes = set()
    for descriptor in (directory / "fd").iterdir():
        with suppress(OSError):
            if found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(descriptor)):
                inodes.add(found[1])
    table = os.fsdecode((directory / "net" / "unix").read_bytes())
    for line in table.splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and int(fields[3], 16) & LISTENS and fields[6] in inodes:
            yield os.path.join(os.readlink(directory / "cwd"), fields[7])


async def found(processes: list[Process]) -> list[Found]:
    """Ask machines about themselves, all at once.

    Those that have no control socket, or not yet, are left out.
    """
    machines = await asyncio.gather(*(_asked(process) for process in processes))
    return [machine for machine in machines if machine is not None]


async def _asked(process: Process) -> Found | None:
    for path in process.sockets:
        with suppress(FaultlineError):
            return await _told(process, path)
    if not process.sockets:
        return None
    return Found(process.pid, process.age_s, process.sockets[0])


async def _told(process: Process, path: str) -> Found:
    async with Machine.connect(path, timeout=ANSWER_S) as machine:
        status = (await machine.query_status())["status"]
        name = (await machine.query_name()).get("name", "")
        blocks = await machine.query_block()
        drives = tuple(info["device"] or info.get("qdev", "") for info in blocks)
        return Found(process.pid, process.age_s, path, name, status, drives)


def called(name: str) -> list[Found]:
    """Return the machines with that name, or the one with that process id."""
    machines = asyncio.run(found(processes()))
    return [one for one in machines if name in (one.name, str(one.pid))]
