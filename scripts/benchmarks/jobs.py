# SPDX-License-Identifier: MIT
"""Rows of block jobs: this tree and qemu-storage-daemon run a job by identical commands.

Both servers start empty.  A turn adds its nodes, runs the job, and removes the
nodes.  Measured is the time from the command to the event that says that
everything has been copied.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.load import connect
from benchmarks.plan import Plan, write_pattern
from benchmarks.rounds import Budget, Row, take_turns
from benchmarks.servers import faultline, storage_daemon
from faultline import Machine

OURS, THEIRS = "faultline", "qemu-storage-daemon"

MANY = 64
"""Drives of the rows with many jobs at once."""

READY, COMPLETED = "BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED"

Node = dict[str, Any]

Job = Callable[[Machine], float]
"""A function that sets up a job, runs it, and cleans up; returns MiB per second."""


def copy_row(plan: Plan, name: str, command: str, layout: str) -> Row:
    """Measure a copy of a whole drive to another file, by blockdev-mirror or -backup."""
    with _room(plan) as room:
        target = room / "target"
        source = plan.image if layout == "raw" else _full(room / "source", plan.size)

        def measure(qmp: Machine) -> float:
            _new(target, layout, plan.size)
            nodes = [image_node("source", source, layout), image_node("target", target, layout)]
            with _nodes(qmp, *nodes):
                started = time.perf_counter()
                _start_copy(qmp, command, "source", "target")
                qmp.wait_event(READY if command == "mirror" else COMPLETED)
                elapsed = time.perf_counter() - started
                _end_copies(qmp, command, ["source"])
            return plan.size / elapsed / (1 << 20)

        return _row(plan, name, f"{command}, {layout} to {layout}", layout, measure)


def stream_row(plan: Plan, name: str, layout: str) -> Row:
    """Measure a stream of a whole backing file into an empty overlay."""
    with _room(plan) as room:
        top = room / "top"
        base = plan.image if layout == "raw" else _full(room / "base", plan.size)

        def measure(qmp: Machine) -> float:
            _new(top, "qcow2", plan.size, base, layout)
            with _nodes(qmp, image_node("top", top, "qcow2")):
                return _timed(plan, qmp, "block-stream", {"job-id": "job", "device": "top"})

        return _row(plan, name, f"stream, {layout} to an overlay", layout, measure)


def commit_row(plan: Plan, name: str, layout: str) -> Row:
    """Measure a commit of a full overlay into its backing file, under another overlay."""
    with _room(plan) as room:
        top, middle = room / "top", room / "middle"
        base = plan.image if layout == "raw" else _full(room / "base", plan.size)
        _full(middle, plan.size, base, layout)

        def measure(qmp: Machine) -> float:
            _new(top, "qcow2", plan.size, middle, "qcow2")
            below = [
                image_node("base", base, layout),
                image_node("middle", middle, "qcow2") | {"backing": "base"},
                image_node("top", top, "qcow2") | {"backing": "middle"},
            ]
            with _nodes(qmp, *below):
                nodes = {"top-node": "middle", "base-node": "base"}
                arguments = {"job-id": "job", "device": "top", **nodes}
                return _timed(plan, qmp, "block-commit", arguments)

        return _row(plan, name, f"commit, an overlay to {layout}", layout, measure)


def many_row(plan: Plan, name: str, command: str) -> Row:
    """Measure copies of many drives at once, each with an equal part of the bytes."""
    part = max(plan.size // MANY, 1 << 16)
    with _room(plan) as room:
        nodes, sources = [], [f"source{index}" for index in range(MANY)]
        for index, source in enumerate(sources):
            path = room / source
            _new(path, "raw", part)
            _new(room / f"target{index}", "raw", part)
            nodes.append(image_node(source, path, "raw"))
            nodes.append(image_node(f"target{index}", room / f"target{index}", "raw"))

        def measure(qmp: Machine) -> float:
            with _nodes(qmp, *nodes):
                started = time.perf_counter()
                for index, source in enumerate(sources):
                    _start_copy(qmp, command, source, f"target{index}")
                qmp.expect(*[READY if command == "mirror" else COMPLETED] * MANY)
                elapsed = time.perf_counter() - started
                _end_copies(qmp, command, sources)
            return MANY * part / elapsed / (1 << 20)

        return _row(plan, name, f"{command} of {MANY} drives at once", "raw", measure)


def _row(plan: Plan, name: str, what: str, layout: str, job: Job) -> Row:
    """Measure a job in both servers; only the rows of raw drives have a budget."""
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(faultline(plan.directory))
        theirs = stack.enter_context(storage_daemon(plan.directory))
        contenders = {}
        for who, server in ((OURS, ours), (THEIRS, theirs)):
            qmp = stack.enter_context(connect(server.control))
            contenders[who] = _turn(job, qmp)
        row = Row(name, what, "MiB/s", take_turns(contenders, plan.rounds))
    row.compare(OURS, THEIRS, Budget(least=1) if layout == "raw" else None)
    return row


def _turn(job: Job, qmp: Machine) -> Callable[[], float]:
    return lambda: job(qmp)


def _timed(plan: Plan, qmp: Machine, command: str, arguments: dict[str, Any]) -> float:
    """Run a job that ends by itself, and return its rate in MiB per second."""
    started = time.perf_counter()
    qmp.execute(command, arguments)
    qmp.wait_event(COMPLETED)
    return plan.size / (time.perf_counter() - started) / (1 << 20)


def _start_copy(qmp: Machine, command: str, source: str, target: str) -> None:
    arguments = {"job-id": source, "device": source, "target": target, "sync": "full"}
    qmp.execute(f"blockdev-{command}", arguments)


def _end_copies(qmp: Machine, command: str, jobs: list[str]) -> None:
    """End mirrors, which go on until they are cancelled; the drives keep their sources."""
    if command == "mirror":
        for job in jobs:
            qmp.execute("block-job-cancel", {"device": job})
        qmp.expect(*[COMPLETED] * len(jobs))


def image_node(name: str, path: Path, layout: str) -> Node:
    file = {"driver": "file", "filename": str(path)}
    return {"driver": layout, "node-name": name, "file": file}


@contextlib.contextmanager
def _nodes(qmp: Machine, *nodes: Node) -> Iterator[None]:
    """Add nodes, lower ones first, and remove them after the body, in reverse order."""
    for node in nodes:
        qmp.execute("blockdev-add", node)
    yield
    for node in reversed(nodes):
        qmp.execute("blockdev-del", {"node-name": node["node-name"]})


@contextlib.contextmanager
def _room(plan: Plan) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=plan.directory) as place:
        yield Path(place)


def _new(
    path: Path, layout: str, size: int, below: Path | None = None, below_layout: str = ""
) -> None:
    """Make an empty qcow2 image, or a raw file that is written everywhere.

    A raw file that exists is kept.
    """
    if layout == "raw":
        if not path.exists():
            write_pattern(path, size)
        return
    backing = [] if below is None else ["-b", str(below), "-F", below_layout]
    _run("qemu-img", "create", "-q", "-f", layout, *backing, str(path), str(size))


def _full(path: Path, size: int, below: Path | None = None, below_layout: str = "") -> Path:
    """Make a qcow2 image with all clusters written, and return its path."""
    _new(path, "qcow2", size, below, below_layout)
    write = f"write -q -P 0x5a 0 {size}"
    _run("qemu-io", "-f", "qcow2", "-t", "unsafe", "-c", write, str(path))
    return path


def _run(*command: str) -> None:
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
