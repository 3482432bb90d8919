# SPDX-License-Identifier: MIT
"""Rows of fault rules: what they cost requests that they do not concern, and those they do."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.control import cont_us
from benchmarks.data_path import SECTOR_SIZE, Pattern
from benchmarks.held import Guests
from benchmarks.load import connect
from benchmarks.plan import Plan
from benchmarks.rounds import Budget, Row, take_turns
from benchmarks.servers import Server, faultline, nbdkit_file
from faultline import Machine

KINDS: Mapping[str, Mapping[str, Any]] = {
    "error": {},
    "delay": {"delay-ms": 1},
    "hang": {},
    "drop": {},
    "torn": {},
    "misdirect": {"by": SECTOR_SIZE},
    "duplicate": {},
    "corrupt": {},
    "badblock": {},
    "disconnect": {},
    "readonly": {},
}
"""A rule of each kind: its `action`, and the members without which there is none."""

DELAY = Pattern("randread", "4k", 16, "iops")

DELAY_MS = 1


def kinds_row(plan: Plan, name: str, pattern: Pattern) -> Row:
    """Measure fio in the first half of a drive whose second half has rules of every kind."""
    half = plan.size // 2
    drive = f"drive=id=vda,file={plan.image},format=raw"
    counts = {"no rules": 0, "one of each kind": len(KINDS)}
    counts[f"{plan.rules} of all kinds"] = plan.rules
    with contextlib.ExitStack() as stack:
        contenders = {}
        for who, count in counts.items():
            server = stack.enter_context(faultline(plan.directory, drive))
            add_rules(server, half, count)
            contenders[who] = pattern.on(server, plan, half)
        figures = take_turns(contenders, plan.rounds)
    what = f"4k {pattern.rw}, 32 in flight, rules of every kind that do not match"
    row = Row(name, what, pattern.unit, figures)
    for who in list(counts)[1:]:
        row.compare(who, "no rules", Budget(least=0.8))
    return row


def delay_row(plan: Plan, name: str) -> Row:
    """Measure requests that a rule delays.

    What is possible on this host, with its timers and its other work, is what C does.
    With a processor for each thread and no other cost it would be `ideal`.
    """
    drive = f"drive=id=vda,file={plan.image},format=raw"
    ideal = DELAY.depth * 1000 / DELAY_MS
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(faultline(plan.directory, drive, threads=DELAY.depth))
        with connect(ours.control) as qmp:
            rule = {"node-name": "vda", "action": "delay", "delay-ms": DELAY_MS}
            qmp.execute("x-fault-add", rule)
        theirs = stack.enter_context(nbdkit_file(plan.directory, plan.image, delay_ms=DELAY_MS))
        contenders: dict[str, Callable[[], float]] = {
            "x-fault-add": DELAY.on(ours, plan, plan.size),
            "nbdkit file + delay filter": DELAY.on(theirs, plan, plan.size),
            "ideal": lambda: ideal,
        }
        figures = take_turns(contenders, plan.rounds)
    what = f"4k {DELAY.rw}, {DELAY.depth} in flight, each delayed by {DELAY_MS} ms"
    row = Row(name, what, DELAY.unit, figures)
    row.compare("x-fault-add", "nbdkit file + delay filter", Budget(least=0.9))
    row.compare("x-fault-add", "ideal")
    return row


def release_row(plan: Plan, name: str) -> Row:
    """Measure the time from x-fault-release to the last answer, with one request and with many.

    `cont` does as much for requests that are held.
    """
    drive = f"drive=id=vda,file={plan.image},format=raw,werror=stop"
    many, held = f"release, {plan.held} hang", f"cont, {plan.held} held"
    per_connection = -(-plan.held // plan.connections)
    with faultline(plan.directory, drive, threads=per_connection) as server:
        with Guests(server, plan.connections) as guests, connect(server.control) as qmp:
            contenders = {
                "release, 1 hangs": lambda: _release_us(guests, qmp, 1),
                many: lambda: _release_us(guests, qmp, plan.held),
                held: lambda: cont_us(guests, qmp, plan.held),
            }
            figures = take_turns(contenders, plan.rounds)
    row = Row(name, f"x-fault-release until {plan.held} requests are done", "us", figures)
    row.compare(many, held, Budget(most=1.2))
    row.compare(many, "release, 1 hangs")
    return row


def add_rules(server: Server, start: int, count: int) -> None:
    """Add rules of all kinds in turns, for single sectors with one between each and the next."""
    with connect(server.control) as qmp:
        for index, (action, members) in zip(range(count), itertools.cycle(KINDS.items())):
            offset = start + 2 * index * SECTOR_SIZE
            place = {"node-name": "vda", "offset": offset, "length": SECTOR_SIZE}
            qmp.execute("x-fault-add", {"action": action, **place, **members})


def _release_us(guests: Guests, qmp: Machine, count: int) -> float:
    guests.hang(qmp, count)
    return 1e6 * guests.release(qmp)
