# SPDX-License-Identifier: MIT
"""One random sequence of operations, with the shortcut forced off and on: nobody can tell which.

Not the counters, statistics, bitmaps, events and replies, nor the bytes.
"""

from __future__ import annotations

import errno
import re
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import Any

import pytest

from blockcore.drive.block_backend import BlockBackend
from blockcore.machine.machine import Machine
from blockcore.qapi.names import QmpError
from both_ways import WAYS, force
from qcow2_images import create
from sim import Sim, add_drive, execute, new_machine

KIB = 1024
SIZE = 256 * KIB
CLUSTER = 4096
STEPS = 200
EIGHTH = SIZE // 8

EVENTS = ("read_aio", "read_aio", "write_aio", "pwritev", "pwritev_done", "none")

STACKS: dict[str, dict[str, Any]] = {
    "file": {"driver": "file", "filename": "raw"},
    "raw": {"driver": "raw", "file": {"driver": "file", "filename": "raw"}},
    "raw, further down": {
        "driver": "raw",
        "offset": 8 * KIB,
        "size": SIZE,
        "file": {"driver": "file", "filename": "long"},
    },
    "qcow2": {"driver": "qcow2", "file": {"driver": "file", "filename": "qcow2"}},
    "blkdebug over qcow2": {
        "driver": "blkdebug",
        "image": {"driver": "qcow2", "file": {"driver": "file", "filename": "qcow2"}},
    },
}


class Story:
    """A machine with a drive on a stack of nodes, and what it has been told and has told."""

    def __init__(self, directory: Path, stack: str, seed: int) -> None:
        directory.mkdir()
        (directory / "raw").write_bytes(bytes(SIZE))
        (directory / "long").write_bytes(bytes(SIZE + 16 * KIB))
        create(directory / "qcow2", SIZE, cluster_size=CLUSTER)
        self.directory = directory
        self.random = Random(seed)
        self.sim = Sim(0)
        self.machine: Machine = new_machine(self.sim)
        self.machine.region = nullcontext  # the simulation has the lock all the time
        self.told: list[object] = []
        self.machine.listeners.append(lambda event, now_ns: self.told.append(event))
        self.do(execute(self.machine, "blockdev-add", **self._named(STACKS[stack], "top")))
        root = self.machine.graph.nodes["top"]
        self.blk: BlockBackend = add_drive(self.machine, root, "vda", "report", "report")
        self.nodes = list(self.machine.graph.nodes)

    def _named(self, options: dict[str, Any], name: str) -> dict[str, Any]:
        named = {**options, "node-name": name}
        for child in ("file", "image"):
            if child in named:
                named[child] = self._named(named[child], f"{name}-{child}")
        if "filename" in named:
            named["filename"] = str(self.directory / named["filename"])
        return named

    def do(self, coro: Any) -> None:
        """Note what comes of it, as a client would be told."""

        async def noted() -> None:
            try:
                self.told.append(await coro)
            except (OSError, QmpError) as exc:
                number = exc.errno if isinstance(exc, OSError) else str(exc)
                self.told.append((type(exc).__name__, number))

        self.sim.start("client", noted(), now=True)
        self.sim.run()

    def range(self) -> tuple[int, int]:
        """Whole clusters, a part of one, or across some."""
        random = self.random
        if random.random() < 0.5:
            first = random.randrange(SIZE // CLUSTER)
            return first * CLUSTER, random.choice([1, 1, 2]) * CLUSTER
        offset = random.randrange(SIZE // 512) * 512
        return offset, min(random.choice([512, 1024, 9 * KIB]), SIZE - offset)

    def step(self) -> None:
        kind = self.random.choice(["read"] * 5 + ["write"] * 6 + ["other"] * 2 + ["command"])
        offset, length = self.range()
        if kind == "read":
            buf = memoryview(bytearray(length))
            self.do(self.blk.pread(offset, buf))
            self.told.append(bytes(buf))
        elif kind == "write":
            self.do(self.blk.pwrite(offset, memoryview(self.random.randbytes(length))))
        elif kind == "other":
            unmap = self.random.random() < 0.5
            self.do(
                self.random.choice(
                    [
                        lambda: self.blk.zero(offset, length, may_unmap=unmap),
                        lambda: self.blk.discard(offset, length),
                        self.blk.flush,
                    ]
                )()
            )
        else:
            self.command(offset, length)

    def command(self, offset: int, length: int) -> None:
        random = self.random
        node, name = random.choice(self.nodes), random.choice("abcd")
        rule = {
            "offset": offset // EIGHTH * EIGHTH,
            "length": EIGHTH,
            "errno": errno.errorcode[random.choice([errno.EIO, errno.ENOSPC])],
            "iotype": random.choice(["read", "read", "write", "flush"]),
            "event": random.choice(EVENTS),
            "count": random.choice([1, 20]),
        }
        commands: list[tuple[str, dict[str, Any]]] = [
            ("x-fault-add", {"id": name, **rule}),
            ("x-fault-add", {"id": name, **rule}),
            ("x-fault-remove", {"id": name}),
            ("x-query-faults", {}),
            ("block-dirty-bitmap-add", {"node": node, "name": name, "granularity": 512}),
            ("block-dirty-bitmap-clear", {"node": node, "name": name}),
            ("block-dirty-bitmap-disable", {"node": node, "name": name}),
            ("block-set-write-threshold", {"node-name": node, "write-threshold": offset}),
            ("query-blockstats", {}),
            ("query-blockstats", {"query-nodes": True}),
            ("query-block", {}),
        ]
        command, arguments = random.choice(commands)
        if command == "x-fault-add":
            arguments["node-name"] = node
        self.told.append((command, arguments.get("node", arguments.get("node-name"))))
        self.do(execute(self.machine, command, **arguments))

    def end(self) -> list[object]:
        """Everything that is left, and all that was told."""
        for query in ("query-blockstats", "query-block", "x-query-faults"):
            self.do(execute(self.machine, query))
        nodes = self.machine.graph.nodes
        self.told.append({name: node.wr_highest_offset for name, node in nodes.items()})
        self.told.append(
            {name: [[*bitmap.areas()] for bitmap in node.bitmaps] for name, node in nodes.items()}
        )
        buf = memoryview(bytearray(SIZE))
        self.do(self.machine.graph.nodes["top"].pread(0, buf))
        self.told.append(bytes(buf))
        self.do(self.machine.close())
        names = ("raw", "long", "qcow2")
        self.told += [(self.directory / name).read_bytes() for name in names]
        return self.told


def told_of(line: object, directory: Path) -> str:
    """What the host has allocated for a file is its own affair, and where that is this test's."""
    return re.sub(r"'actual-size': \d+", "", repr(line).replace(str(directory), ""))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stack", STACKS)
def test_nobody_can_tell_the_way(tmp_path: Path, stack: str, seed: int) -> None:
    told: list[list[str]] = []
    for way in WAYS:
        with pytest.MonkeyPatch.context() as patch:
            counter = force(patch, way)
            story = Story(tmp_path / way, stack, seed)
            for _ in range(STEPS):
                story.step()
            told.append([told_of(line, story.directory) for line in story.end()])
    assert counter.done > 10, "the shortcut is taken"
    for number, (off, on) in enumerate(zip(*told, strict=True)):
        assert off == on, f"{number}: {told[0][max(0, number - 6) : number]}"
