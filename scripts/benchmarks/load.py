# SPDX-License-Identifier: MIT
"""The load of the benchmarks: fio on the data path, commands on the control socket."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from pathlib import Path

from faultline import Machine

RAMP_S = 0.2
"""The time before that which is measured, in seconds, but no longer than that."""

PATIENCE_S = 3600.0
"""The time that a job may take, in seconds: large drives on slow disks are measured as well."""


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
        ramp_ms = round(min(seconds, RAMP_S) * 1000)
        command += ["--time_based", f"--runtime={round(seconds * 1000)}ms"]
        command += [f"--ramp_time={ramp_ms}ms"]
    command += ["--output-format=json"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"fio failed on {uri}: {ran.stderr or ran.stdout}")
    # fio may print notes to the user before the JSON.
    job = json.loads(ran.stdout[ran.stdout.index("{") :])["jobs"][0]
    done = job["read" if rw.endswith("read") else "write"]
    return {"iops": done["iops"], "mib_s": done["bw_bytes"] / (1 << 20)}


def connect(control: Path) -> Machine:
    """Connect to the control socket of any of the servers."""
    return Machine.connect(control, timeout=PATIENCE_S)


def round_trip_us(machine: Machine, command: str, seconds: float) -> float:
    """Repeat a command for some seconds; return the median time to its reply, in us.

    The library's part is in it, the same for each server: some 20 us.
    """
    times_ns: list[int] = []
    end_ns = time.perf_counter_ns() + round(seconds * 1e9)
    while not times_ns or time.perf_counter_ns() < end_ns:
        started_ns = time.perf_counter_ns()
        machine.execute(command)
        times_ns.append(time.perf_counter_ns() - started_ns)
    return statistics.median(times_ns) / 1000
