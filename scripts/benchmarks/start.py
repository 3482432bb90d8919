# SPDX-License-Identifier: MIT
"""Rows of the start: from nothing, from a standby, and of eight machines at once.

They are compared with nbdkit and a Python plugin of ten lines, which has no more to do
than to start the interpreter.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.plan import Plan
from benchmarks.rounds import Budget, Row, take_turns

TEN_LINES = """\
import nbdkit

API_VERSION = 2

def open(readonly):
    return 1

def get_size(handle):
    return 1 << 20

def pread(handle, buffer, offset, flags):
    buffer[:] = bytes(len(buffer))
"""

START_S = 30.0
"""How long a start may take, in seconds."""

POLL_S = 0.0002
"""How often it is looked whether nbdkit listens, in seconds: little, beside a start."""

SERVE = [sys.executable, "-c", "from blockcore.cli import main; main()", "serve"]

PLUGIN, OURS, SPARE = "ten-line plugin", "faultline serve", "faultline, from a standby"


def start_row(plan: Plan, name: str) -> Row:
    """Measure the time from exec to the ready line, and to a socket that listens."""
    with _places(plan) as place:
        _serve_ms(plan, [place])  # so that all modules are compiled, and nbdkit is known
        contenders = {PLUGIN: lambda: _plugin_ms(place), OURS: lambda: _serve_ms(plan, [place])}
        row = Row(name, "start to ready, one raw drive", "ms", take_turns(contenders, plan.rounds))
    row.compare(OURS, PLUGIN, Budget(most=15))
    return row


def standby_row(plan: Plan, name: str) -> Row:
    """Measure the time from the line that a standby gets to the greeting on its control socket."""
    with _places(plan) as place:
        contenders = {PLUGIN: lambda: _plugin_ms(place), SPARE: lambda: _standby_ms(plan)}
        what = "a standby's line to the greeting on its control socket"
        row = Row(name, what, "ms", take_turns(contenders, plan.rounds))
    row.compare(SPARE, PLUGIN, Budget(most=2))
    return row


def eight_row(plan: Plan, name: str) -> Row:
    """Measure how long it takes until eight machines that start at once are all ready."""
    with ExitStack() as stack:
        places = [stack.enter_context(_places(plan)) for _ in range(8)]
        _serve_ms(plan, places[:1])
        contenders = {
            "one": lambda: _serve_ms(plan, places[:1]),
            "eight at once": lambda: _serve_ms(plan, places),
        }
        row = Row(name, "start until all are ready", "ms", take_turns(contenders, plan.rounds))
    # No more than one after the other: fewer where there are processors for them.
    row.compare("eight at once", "one", Budget(most=8))
    return row


@contextmanager
def _places(plan: Plan) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=plan.directory) as place:
        yield Path(place)


def _environment() -> dict[str, str]:
    """Return the environment of a user, whose Python keeps what it has compiled."""
    return {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }


def _serve_ms(plan: Plan, places: list[Path]) -> float:
    """Start a machine in each place; return the milliseconds until all are ready."""
    with ExitStack() as stack:
        begun = time.perf_counter()
        machines = []
        for place in places:
            sockets = ["--nbd", str(place / "nbd"), "--control", str(place / "qmp")]
            keys = [f"drive=id=vda,file={plan.image},format=raw"]
            machines.append(stack.enter_context(_running([*SERVE, *sockets, *keys])))
        for machine in machines:
            _ready_line(machine)
        return (time.perf_counter() - begun) * 1e3


def _standby_ms(plan: Plan) -> float:
    with _running([*SERVE, "--standby"]) as machine:
        _wait_until_idle(machine.pid)
        keys = [f"drive=id=vda,file={plan.image},format=raw"]
        line = json.dumps({"keys": keys, "directory": str(plan.directory)}).encode() + b"\n"
        begun = time.perf_counter()
        assert machine.stdin is not None
        machine.stdin.write(line)
        machine.stdin.flush()
        ready = json.loads(_ready_line(machine))
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(ready["control"])
            control.recv(1)
        return (time.perf_counter() - begun) * 1e3


def _wait_until_idle(pid: int) -> None:
    """Return when a process waits for its stdin: a tenth of a second without processor time.

    RuntimeError is raised if it does not come to that.
    """
    deadline, used = time.monotonic() + START_S, -1
    while time.monotonic() < deadline:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        before, used = used, int(fields[11]) + int(fields[12])
        name = Path(f"/proc/{pid}/comm").read_text()
        if name == "nbdkit\n" and used == before:
            return
        time.sleep(0.1)
    raise RuntimeError("the standby is not idle")


def _plugin_ms(place: Path) -> float:
    plugin, path = place / "ten_lines.py", place / "plugin"
    plugin.write_text(TEN_LINES)
    path.unlink(missing_ok=True)
    begun = time.perf_counter()
    with _running(["nbdkit", "-f", "-U", str(path), "python", str(plugin)]):
        while not _accepts(path):
            if time.perf_counter() - begun > START_S:
                raise RuntimeError("nbdkit did not start")
            time.sleep(POLL_S)
        return (time.perf_counter() - begun) * 1e3


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _ready_line(machine: subprocess.Popen[bytes]) -> bytes:
    assert machine.stdout is not None
    line = machine.stdout.readline()
    if not line:
        raise RuntimeError("faultline did not start")
    return line


@contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        command,
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(START_S)
