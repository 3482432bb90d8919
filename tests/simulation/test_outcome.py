# SPDX-License-Identifier: MIT
"""A bug of ours in a driver is one request that fails: nothing is stuck, open or lost by it."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any

import pytest

from blockcore.nodes.driver import Extent, NodeHost, NodeOptions
from blockcore.nodes.drivers.file import FileNode
from blockcore.nodes.drivers.raw import RawNode
from blockcore.nodes.node import BlockNode
from blockcore.qapi.names import BlkdebugEvent, QmpError
from qcow2_disk import Disk, judge
from qcow2_guest import Guest, read_disk
from qcow2_images import Around, create, open_on
from sim import Sim, execute, new_machine, perform

K = 1024


class Told(Around):
    """Remembers the bugs that it is told of."""

    def __init__(self) -> None:
        super().__init__()
        self.bugs: list[tuple[str, Exception]] = []

    def bug(self, where: str, error: Exception) -> None:
        self.bugs.append((where, error))


class Broken(BlockNode):
    """Everything that its driver does ends with `error`."""

    driver = "broken"

    def __init__(self, host: NodeHost, error: Exception) -> None:
        super().__init__(NodeOptions(node_name="n"), host)
        self.size = 4 * K
        self.error = error

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        raise self.error

    async def do_pwrite(self, offset: int, buf: memoryview) -> None:
        raise self.error

    async def do_zero(self, offset: int, length: int, may_unmap: bool) -> None:
        raise self.error

    async def do_discard(self, offset: int, length: int) -> None:
        raise self.error

    async def do_flush_to_os(self) -> None:
        raise self.error

    async def do_block_status(self, offset: int, length: int) -> Extent:
        raise self.error

    async def do_is_allocated(self, offset: int, length: int) -> tuple[bool, int]:
        raise self.error

    async def do_truncate(self, size: int) -> None:
        raise self.error


class BrokenFlush(Broken):
    async def do_flush_to_os(self) -> None:
        return

    async def do_flush(self) -> None:
        raise self.error


REQUESTS: dict[str, Callable[[BlockNode], Coroutine[Any, Any, object]]] = {
    "read": lambda node: node.pread(0, memoryview(bytearray(K))),
    "read copied": lambda node: node.populate(0, K),
    "write": lambda node: node.pwrite(0, memoryview(b"1" * K)),
    "write kept": lambda node: node.keep(0, memoryview(b"1" * K)),
    "zero": lambda node: node.zero(0, K, may_unmap=True),
    "discard": lambda node: node.discard(0, K),
    "flush": lambda node: node.flush(),
    "block status": lambda node: node.block_status(0, K),
    "is allocated": lambda node: node.is_allocated(0, K),
    "truncate": lambda node: node.truncate(8 * K),
}

BUGS: list[tuple[Exception, int]] = [
    (OverflowError("too large"), errno.EIO),
    (AssertionError(), errno.EIO),
    (RecursionError(), errno.EIO),
    (UnicodeDecodeError("utf-8", b"", 0, 0, ""), errno.EIO),
    (MemoryError(), errno.ENOMEM),
]


@pytest.mark.parametrize(("error", "number"), BUGS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("name", REQUESTS)
def test_every_request(name: str, tracked: bool, error: Exception, number: int) -> None:
    around = Told()
    for kind in (Broken, BrokenFlush) if name == "flush" else (Broken,):
        around.bugs.clear()
        node = kind(around, error)
        node.traces.reached(K)
        if tracked or name == "read copied":
            node.track_requests()
        with pytest.raises(OSError) as caught:
            perform(REQUESTS[name](node))
        assert caught.value.errno == number
        assert around.bugs == [("node 'n'", error)]
        assert node.size == 4 * K
        assert node.requests is None or not node.requests.serialising


def test_outcomes_are_left_alone() -> None:
    around = Told()
    for error in (OSError(errno.ENOSPC, "full"), QmpError("no")):
        with pytest.raises(type(error)) as caught:
            perform(Broken(around, error).truncate(K))
        assert caught.value is error
    assert not around.bugs


def test_nobody_to_tell() -> None:
    """Tests of the core see the exception itself."""
    with pytest.raises(OverflowError):
        perform(Broken(new_machine(Sim(0)), OverflowError()).flush())


def test_a_file_has_no_place_for_it(tmp_path: Path) -> None:
    """What the system's interface cannot even express."""
    (tmp_path / "file").write_bytes(bytes(K))
    around = Told()
    node = FileNode(NodeOptions(node_name="f"), around, "file", str(tmp_path / "file"))
    perform(node.do_open())
    for request in (
        node.pread(1 << 63, memoryview(bytearray(1))),
        node.pwrite(1 << 63, memoryview(b"1")),
        node.pwrite(1 << 64, memoryview(b"1")),
    ):
        with pytest.raises(OSError) as caught:
            perform(request)
        assert caught.value.errno == errno.EIO
    perform(node.do_close())


@pytest.mark.parametrize("method", ["do_open", "do_close", "do_flush"])
def test_opening_and_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Whatever a driver does, its children are closed and there is no half of a node."""
    (tmp_path / "file").write_bytes(bytes(K))
    machine = new_machine(Sim(0))
    machine.graph.directory = str(tmp_path)
    told: list[Exception] = []
    machine.on_bug = lambda where, error: told.append(error)
    before = len(os.listdir("/proc/self/fd"))

    async def fail(_self: RawNode) -> None:
        raise OverflowError

    monkeypatch.setattr(RawNode, method, fail)
    add = {"driver": "raw", "node_name": "r", "file": {"driver": "file", "filename": "file"}}
    if method == "do_open":
        with pytest.raises(QmpError, match="^Could not open 'r': Input/output error$"):
            perform(execute(machine, "blockdev-add", **add))
    else:
        perform(execute(machine, "blockdev-add", **add))
        perform(machine.graph.nodes["r"].pwrite(0, memoryview(b"1")))
        perform(execute(machine, "blockdev-del", node_name="r"))
    assert not machine.graph.nodes and len(os.listdir("/proc/self/fd")) == before
    assert told and all(isinstance(error, OverflowError) for error in told)
    monkeypatch.undo()
    perform(execute(machine, "blockdev-add", **add))
    perform(machine.graph.close_all())


class Trapped(Disk):
    """The file of an image whose driver fails in the middle of its work, at an event."""

    def __init__(self, data: bytes, host: NodeHost) -> None:
        super().__init__(data, host)
        self.fired = False

    def fail(self, after: int) -> None:
        left = after

        def on_io(what: str) -> None:
            nonlocal left
            left -= what == "event"
            if left < 0 and not self.fired:
                self.fired = True
                raise OverflowError

        self.on_io = on_io

    def debug_event(self, event: BlkdebugEvent) -> None:
        if event not in (BlkdebugEvent.FLUSH_TO_OS, BlkdebugEvent.FLUSH_TO_DISK):
            self.on_io("event")  # those are not the driver's


@pytest.mark.slow
def test_an_image_goes_on_after_a_bug(tmp_path: Path) -> None:
    """At any step of any request: the next one works, and nothing is lost but clusters."""
    image = create(tmp_path / "image", 64 * K, cluster_size=512).read_bytes()
    after = 0
    while True:
        around = Told()
        disk = Trapped(image, around)
        node = open_on(disk, around)
        disk.fail(after)

        def attempts(attempt: Callable[[], Awaitable[None]]) -> None:
            try:
                perform(attempt())  # type: ignore[arg-type]
            except OSError as exc:
                assert exc.errno == errno.EIO and around.bugs
                perform(attempt())  # type: ignore[arg-type]

        guest = Guest(node, Random(3))
        guest.attempts = attempts
        guest.work(disk, 120)
        attempts(node.flush)
        assert not node.image.lock.taken
        assert read_disk(node) == guest.now
        perform(node.do_close())
        errors, _ = judge(disk.data)
        assert not errors, (after, around.bugs, errors)
        if not disk.fired:
            break
        assert len(around.bugs) == 1
        after += 1 + after // 40
    assert after > 250
