# SPDX-License-Identifier: MIT
"""Rows of qcow2: an overlay on a raw image, by this tree and by qemu-storage-daemon."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.data_path import Pattern
from benchmarks.plan import Plan
from benchmarks.rounds import Budget, Row, take_turns
from benchmarks.servers import Server, faultline, storage_daemon

ALLOCATING = Pattern("randwrite", "64k", 32, "iops", once=True)
"""A load of whole clusters of the default size, so that no data has to be copied."""

OURS, THEIRS = "faultline", "qemu-storage-daemon"


def overlay_row(plan: Plan, name: str, pattern: Pattern, least: float) -> Row:
    """Measure requests to allocated clusters: each server has an overlay with all data in it."""
    with contextlib.ExitStack() as stack:
        contenders = {}
        for who in (OURS, THEIRS):
            path = stack.enter_context(_overlay(plan, full=True))
            server = stack.enter_context(_serving(who, plan.directory, path))
            contenders[who] = pattern.on(server, plan, plan.size)
        what = f"qcow2 overlay: {pattern.block} {pattern.rw}, {pattern.depth} in flight"
        row = Row(name, what, pattern.unit, take_turns(contenders, plan.rounds))
    row.compare(OURS, THEIRS, Budget(least=least))
    return row


def allocating_row(plan: Plan, name: str) -> Row:
    """Measure writes that each allocate a cluster; each turn begins with an empty overlay."""
    contenders = {who: _allocation(who, plan) for who in (OURS, THEIRS)}
    figures = take_turns(contenders, plan.rounds)
    what = "qcow2 overlay: 64k writes that allocate, 32 in flight"
    row = Row(name, what, ALLOCATING.unit, figures)
    row.compare(OURS, THEIRS, Budget(least=0.7))
    return row


def _allocation(who: str, plan: Plan) -> Callable[[], float]:
    def measure() -> float:
        with _overlay(plan, full=False) as path, _serving(who, plan.directory, path) as server:
            return ALLOCATING.on(server, plan, plan.size)()

    return measure


@contextlib.contextmanager
def _overlay(plan: Plan, *, full: bool) -> Iterator[Path]:
    """Make an overlay on the plan's image, with no or all clusters written, for the body."""
    with tempfile.TemporaryDirectory(dir=plan.directory) as place:
        path = Path(place) / "overlay.qcow2"
        backing = ["-b", str(plan.image), "-F", "raw"]
        _run("qemu-img", "create", "-q", "-f", "qcow2", *backing, str(path))
        if full:
            write = f"write -q -P 0x5a 0 {plan.size}"
            _run("qemu-io", "-f", "qcow2", "-t", "unsafe", "-c", write, str(path))
        yield path


def _serving(
    who: str, directory: Path, path: Path
) -> contextlib.AbstractContextManager[Server]:
    if who == OURS:
        return faultline(directory, f"drive=id=vda,file={path},format=qcow2")
    return storage_daemon(directory, path)


def _run(*command: str) -> None:
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
