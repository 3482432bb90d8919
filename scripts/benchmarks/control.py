# SPDX-License-Identifier: MIT
"""Rows of the control socket: the round trip of a command, and `cont` with requests held."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from benchmarks.held import Guests
from benchmarks.load import connect, round_trip_us
from benchmarks.plan import Plan
from benchmarks.rounds import Budget, Row, take_turns
from benchmarks.servers import faultline, qemu_system, storage_daemon
from faultline import Machine


def round_trip_row(plan: Plan, name: str) -> Row:
    """Measure one client that sends one command after the other.

    qemu-storage-daemon has no query-status, so it is compared by query-version.
    """
    drive = f"drive=id=vda,file={plan.image},format=raw"
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(faultline(plan.directory, drive))
        system = stack.enter_context(qemu_system(plan.directory))
        daemon = stack.enter_context(storage_daemon(plan.directory))
        clients = [
            ("faultline, query-status", ours, "query-status"),
            ("qemu-system, query-status", system, "query-status"),
            ("faultline, query-version", ours, "query-version"),
            ("storage-daemon, query-version", daemon, "query-version"),
        ]
        contenders = {}
        for who, server, command in clients:
            qmp = stack.enter_context(connect(server.control))
            contenders[who] = _round_trips(qmp, command, plan.seconds)
        row = Row(name, "QMP round trip", "us", take_turns(contenders, plan.rounds))
    row.compare("faultline, query-status", "qemu-system, query-status", Budget(most=1))
    row.compare("faultline, query-version", "storage-daemon, query-version", Budget(most=1))
    return row


def cont_row(plan: Plan, name: str) -> Row:
    """Measure the time from `cont` to the last answer, with one request held and with many."""
    drive = f"drive=id=vda,file={plan.image},format=raw,werror=stop"
    many = f"cont, {plan.held} held"
    per_connection = -(-plan.held // plan.connections)
    with faultline(plan.directory, drive, threads=per_connection) as server:
        with Guests(server, plan.connections) as guests, connect(server.control) as qmp:
            contenders = {
                "query-status": _round_trips(qmp, "query-status", min(plan.seconds, 0.2)),
                "cont, 1 held": lambda: cont_us(guests, qmp, 1),
                many: lambda: cont_us(guests, qmp, plan.held),
            }
            figures = take_turns(contenders, plan.rounds)
    row = Row(name, f"cont until {plan.held} held requests are done", "us", figures)
    row.compare(many, "cont, 1 held", Budget(most=10))
    row.compare("cont, 1 held", "query-status")
    return row


def _round_trips(qmp: Machine, command: str, seconds: float) -> Callable[[], float]:
    return lambda: round_trip_us(qmp, command, seconds)


def cont_us(guests: Guests, qmp: Machine, count: int) -> float:
    """Hold `count` writes; return the microseconds from `cont` to the last answer."""
    guests.hold(qmp, count)
    return 1e6 * guests.cont(qmp)
