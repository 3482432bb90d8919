# SPDX-License-Identifier: MIT
"""The row of crash states: how many a program can look at in a second."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable

import nbd

from benchmarks.load import connect
from benchmarks.plan import Plan
from benchmarks.rounds import Budget, Row, take_turns
from benchmarks.servers import Server, faultline, qemu_nbd
from faultline import Machine

BLOCK = 4096

WRITES = 16
"""The writes that the cache has, each of a block."""

STATES = 100
"""The most states that are gone through; then they are gone through again."""

CLONE = "clone"


def crash_row(plan: Plan, name: str) -> Row:
    """Measure clones that are made, read and dropped, beside what one does without these.

    That is a copy of the image, and a server for it.
    """
    drive = f"drive=id=vda,file={plan.image},format=raw,cache.x-volatile=on"
    with faultline(plan.directory, drive) as server, connect(server.control) as qmp:
        guest = nbd.NBD()
        guest.connect_uri(server.uri())
        for number in range(WRITES):
            guest.pwrite(bytes([number]) * BLOCK, number * BLOCK)
        found = qmp.execute("x-crash-enumerate", {"device": "vda", "limit": STATES})
        states = itertools.cycle([one["state"] for one in found])
        contenders = {
            "x-crash-clone": lambda: _rate(plan, lambda: _clone(server, qmp, next(states))),
            "copy + qemu-nbd": lambda: _rate(plan, lambda: _copy(plan)),
        }
        figures = take_turns(contenders, plan.rounds)
        guest.shutdown()
    what = f"crash states served: {WRITES * BLOCK >> 10}k of each are read"
    row = Row(name, what, "1/s", figures)
    row.compare("x-crash-clone", "copy + qemu-nbd", Budget(least=10))
    return row


def _rate(plan: Plan, look: Callable[[], None]) -> float:
    started, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < plan.seconds or not count:
        look()
        count += 1
    return count / passed


def _clone(server: Server, qmp: Machine, state: str) -> None:
    qmp.execute("x-crash-clone", {"device": "vda", "export": CLONE, "state": state})
    _read(server.uri(CLONE))
    qmp.execute("x-crash-drop", {"export": CLONE})


def _copy(plan: Plan) -> None:
    copy = plan.directory / "copy"
    shutil.copyfile(plan.image, copy)
    with qemu_nbd(plan.directory, copy) as server:
        _read(server.uri())
    copy.unlink()


def _read(uri: str) -> None:
    client = nbd.NBD()
    client.connect_uri(uri)
    client.pread(WRITES * BLOCK, 0)
    client.shutdown()
