# SPDX-License-Identifier: MIT
"""One look at a machine, as lines of text."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from blockcore.cli import fault_table, job_table, volumes
from blockcore.cli.amounts import duration, size, typed
from blockcore.cli.tables import fitted
from faultline.job_info import JobInfo

DRIVES = ("DRIVE", "SIZE", "RERROR", "WERROR", "IO-STATUS", "IMAGE")

REQUESTS = ("REQUEST", "DRIVE", "OFFSET", "LENGTH", "AGE", "WAITS FOR")

LINE_MAX = 1000
"""The width where there is no screen."""

REQUESTS_MAX = 10
"""How many requests are shown, the oldest first: a client may have hundreds."""

WAITS = {"run": "cont", "drain": "end of a drain", "throttle": "I/O limits", "retry": "next try"}
"""What a request waits for (RequestWait), in other words; one that waits for a fault has its id."""


def described(machine: Mapping[str, Any], width: int | None) -> list[str]:
    """Return the lines: the run state, then a table for each thing of which there is any."""
    sections = [
        _drives(machine["block"], machine["drives"], width),
        _requests(machine["requests"], width),
        fault_table.table(machine["faults"], width) if machine["faults"] else [],
        _jobs(machine["jobs"], width),
        _volumes(machine, width),
    ]
    lines = textwrap.wrap(headline(machine), width or LINE_MAX, subsequent_indent="  ")
    for section in filter(None, sections):
        lines += ["", *section]
    return lines


def headline(machine: Mapping[str, Any]) -> str:
    """Return ``m0: io-error, 3 requests are held, the oldest for 0:12``."""
    state = machine["status"].get("status", "no run state")
    name = machine.get("name")
    held = [one for one in machine["requests"] if one.get("waits-for") == "run"]
    words = [f"{name}: {state}" if name else state]
    if held:
        oldest = duration(max(one["age-ms"] for one in held) / 1000)
        many = "1 request is" if len(held) == 1 else f"{len(held)} requests are"
        words.append(f"{many} held, {'for' if len(held) == 1 else 'the oldest for'} {oldest}")
    return ", ".join(words)


def _drives(
    block: Sequence[Mapping[str, Any]], policies: Sequence[Mapping[str, Any]], width: int | None
) -> list[str]:
    if not block:
        return ["There are no drives."]
    # Both lists have all drives in one order; QEMU has only the first.
    known = policies if len(policies) == len(block) else [{}] * len(block)
    rows = []
    for info, policy in zip(block, known, strict=True):
        inserted = info.get("inserted") or {}
        image = inserted.get("image") or {}
        rows.append(
            (
                info["device"] or info.get("qdev", ""),
                size(image["virtual-size"]) if "virtual-size" in image else "",
                policy.get("rerror", ""),
                policy.get("werror", ""),
                info.get("io-status", ""),
                inserted.get("file", ""),
            )
        )
    return fitted(DRIVES, rows, width)


def _requests(requests: Sequence[Mapping[str, Any]], width: int | None) -> list[str]:
    if not requests:
        return []
    oldest = sorted(requests, key=lambda one: -one["age-ms"])
    rows = [
        (
            one["iotype"],
            one["device"],
            typed(one["offset"]),
            typed(one["length"]),
            duration(one["age-ms"] / 1000),
            one.get("fault") or WAITS.get(one.get("waits-for", ""), "its node"),
        )
        for one in oldest[:REQUESTS_MAX]
    ]
    more = len(requests) - REQUESTS_MAX
    return [*fitted(REQUESTS, rows, width), *([f"and {more} more"] if more > 0 else [])]


def _jobs(jobs: Sequence[Mapping[str, Any]], width: int | None) -> list[str]:
    if not jobs:
        return []
    first, *rest = job_table.table([JobInfo.of(job) for job in jobs], width)
    return [re.sub("^ID ", "JOB", first), *rest]


def _volumes(machine: Mapping[str, Any], width: int | None) -> list[str]:
    if not machine["volumes"]:
        return []
    return volumes.table(machine["volumes"], machine["above"], width)
