# SPDX-License-Identifier: MIT
"""The clients of the benchmarks: fio on the data path, a minimal client of QMP."""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any


def fio(
    uri: str, *, rw: str, block: str, depth: int, size: int, seconds: float | None
) -> dict[str, float]:
    """Run fio over one connection; return `iops` and `mib_s` (MiB per second).

    Without `seconds` fio ends when it has been over all `size` bytes once.  Raises
    RuntimeError if fio fails.
    """
    command = ["fio", "--name=bench", "--ioengine=nbd", f"--uri={uri}", f"--rw={rw}"]
    command += [f"--bs={block}", f"--iodepth={depth}", f"--size={size}"]
    if seconds is not None:
        command += ["--time_based", f"--runtime={round(seconds * 1000)}ms", "--ramp_time=200ms"]
    command += ["--output-format=json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"fio failed on {uri}: {ran.stderr or ran.stdout}")
    # fio may print notes to the user before the JSON.
    job = json.loads(ran.stdout[ran.stdout.index("{") :])["jobs"][0]
    done = job["read" if rw.endswith("read") else "write"]
    return {"iops": done["iops"], "mib_s": done["bw_bytes"] / (1 << 20)}


class Qmp:
    """A minimal QMP client, so that the server's time is measured and not the client's."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rb")
        self._events: Counter[str] = Counter()
        self._receive()
        self.execute("qmp_capabilities")

    def __enter__(self) -> Qmp:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Run a command and return its value; events are kept for `wait_event`.

        Raises RuntimeError for an error reply.
        """
        request = {"execute": command} | ({"arguments": arguments} if arguments else {})
        self._socket.sendall(json.dumps(request).encode())
        while True:
            message = self._receive()
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise RuntimeError(f"{command}: {message['error']['desc']}")
            self._events[message["event"]] += 1

    def wait_event(self, name: str, count: int = 1) -> None:
        """Wait until `count` events of a name have come since the last wait for it."""
        while self._events[name] < count:
            self._events[self._receive()["event"]] += 1
        self._events[name] -= count

    def round_trip_us(self, command: str, seconds: float) -> float:
        """Repeat a command for some seconds; return the median time to its reply, in us."""
        request = json.dumps({"execute": command}).encode()
        times_ns: list[int] = []
        end_ns = time.perf_counter_ns() + round(seconds * 1e9)
        while not times_ns or time.perf_counter_ns() < end_ns:
            started_ns = time.perf_counter_ns()
            self._socket.sendall(request)
            line = self._lines.readline()
            times_ns.append(time.perf_counter_ns() - started_ns)
            assert line.startswith(b'{"return"'), line
        return statistics.median(times_ns) / 1000

    def _receive(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise RuntimeError("the QMP server has hung up")
        message: dict[str, Any] = json.loads(line)
        return message
