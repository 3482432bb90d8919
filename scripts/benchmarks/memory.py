# SPDX-License-Identifier: MIT
"""The row of memory: what a drive, a connection and a held request take, and whether it grows."""

from __future__ import annotations

from pathlib import Path

import nbd

from benchmarks.held import Guests
from benchmarks.load import connect
from benchmarks.plan import Plan
from benchmarks.rounds import Budget, Row, Samples
from benchmarks.servers import Server, faultline

FLAT = 1.02
"""The ratio up to which growth counts as none: the allocator's, not the server's."""


def memory_row(plan: Plan, name: str) -> Row:
    """Measure the resident memory of the process, in KiB."""
    one = _resident(plan.directory, plan.image, 1)
    many = _resident(plan.directory, plan.image, 1 + plan.drives)
    figures = {"process, one drive": one, "per drive": (many - one) / plan.drives}
    drive = f"drive=id=vda,file={plan.image},format=raw,werror=stop"
    per_connection = -(-plan.held // plan.connections)
    with faultline(plan.directory, drive, threads=per_connection) as server:
        figures |= _held(server, plan)
    with faultline(plan.directory, drive) as server:
        before, after = _churn(server, plan)
    figures |= {"first half of many connections": before, "second half": after}
    row = Row(
        name,
        f"resident memory; {per_connection} workers per connection; "
        f"twice {plan.held} connections one after the other",
        "KiB",
        {what: Samples((kib,)) for what, kib in figures.items()},
    )
    row.compare("second half", "first half of many connections", Budget(most=FLAT))
    row.compare("fourth time all held", "second time", Budget(most=FLAT))
    return row


def _resident(directory: Path, image: Path, drives: int) -> float:
    keys = [f"drive=id=d{index},file={image},format=raw" for index in range(drives)]
    with faultline(directory, *keys) as server:
        return server.rss_kib()


def _held(server: Server, plan: Plan) -> dict[str, float]:
    """Return the memory of connections with nothing in flight, and of requests held on them."""
    idle = server.rss_kib()
    with Guests(server, plan.connections) as guests, connect(server.control) as qmp:
        connected = server.rss_kib()
        full = []
        for _ in range(4):
            guests.hold(qmp, plan.held)
            full.append(server.rss_kib())
            guests.cont(qmp)
    return {
        "per connection": (connected - idle) / plan.connections,
        "per held request": (full[0] - connected) / plan.held,
        "all held": full[0],
        "second time": full[1],
        "fourth time all held": full[3],
    }


def _churn(server: Server, plan: Plan) -> tuple[float, float]:
    """Return the resident memory after `plan.held` connections, and after as many again."""
    seen = []
    for _ in range(2):
        for _ in range(plan.held):
            handle = nbd.NBD()
            handle.connect_uri(server.uri())
            handle.pread(512, 0)
            handle.shutdown()
        seen.append(server.rss_kib())
    return seen[0], seen[1]
