# SPDX-License-Identifier: MIT
"""Guests of a machine that is recorded."""

from __future__ import annotations

import contextlib

from benchmarks.data_path import Pattern
from benchmarks.plan import Plan
from benchmarks.rounds import Budget, Row, take_turns
from benchmarks.servers import faultline

READ = Pattern("randread", "4k", 16, "iops")
WRITE = Pattern("randwrite", "4k", 16, "iops")

WHAT_IS_WRITTEN = {"recorded": "on", "recorded, no data": "off"}
"""The contenders that are recorded, each with its ``record-data=``."""


def recording_row(plan: Plan, name: str, pattern: Pattern) -> Row:
    """Measure small requests to a machine that writes each of them down."""
    drive = f"drive=id=vda,file={plan.image},format=raw"
    with contextlib.ExitStack() as stack:
        servers = {"not recorded": stack.enter_context(faultline(plan.directory, drive))}
        for who, data in WHAT_IS_WRITTEN.items():
            record = [f"record={plan.directory}/{name}-{data}.jsonl", f"record-data={data}"]
            servers[who] = stack.enter_context(faultline(plan.directory, drive, *record))
        contenders = {
            who: pattern.on(server, plan, plan.size) for who, server in servers.items()
        }
        figures = take_turns(contenders, plan.rounds)
    row = Row(name, f"4k {pattern.rw}, 16 in flight, recorded", pattern.unit, figures)
    for who in WHAT_IS_WRITTEN:
        row.compare(who, "not recorded", Budget(least=0.4))
    return row
