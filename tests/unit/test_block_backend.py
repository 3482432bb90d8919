# SPDX-License-Identifier: MIT
"""A drive's requests: what each policy makes of each failure, and what is counted."""

from __future__ import annotations

import errno
import gc
import itertools
import os
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from blockcore.bql.effects import Until
from blockcore.drive.block_backend import BlockBackend
from blockcore.drive.guest_request import Device
from blockcore.faults.options import Request
from blockcore.jobs.mirror.filter import MirrorTopNode
from blockcore.machine.drain import Drain
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.options import parse_blockdev_options
from blockcore.nodes.driver import Extent, NodeOptions
from blockcore.nodes.drivers.file import FileNode
from blockcore.nodes.graph import links
from blockcore.nodes.graph.reopen import Change, reopen
from blockcore.nodes.shortcut.slot import Slot
from blockcore.qapi.events import BlockIoError, Event
from blockcore.qapi.names import (
    BlkdebugEvent,
    BlkdebugIOType,
    BlockdevDetectZeroesOptions,
    BlockDeviceIoStatus,
    DeviceErrorAction,
    DeviceOnError,
    IoOperationType,
    RunState,
)
from blockcore.rules.accounting import AcctType, Tally
from blockcore.rules.bitmap import DirtyBitmap
from blockcore.rules.throttle import Limit, ThrottleConfig
from rules import fail
from sim import MemoryNode, Sim, add_drive, add_node, new_machine, perform, shortcut

SIZE = 64 << 10

KINDS: dict[str, tuple[IoOperationType, AcctType | None]] = {
    "read": (IoOperationType.READ, AcctType.READ),
    "write": (IoOperationType.WRITE, AcctType.WRITE),
    "fua": (IoOperationType.WRITE, AcctType.WRITE),
    "zero": (IoOperationType.WRITE, AcctType.WRITE),
    "flush": (IoOperationType.WRITE, AcctType.FLUSH),
    "discard": (IoOperationType.WRITE, None),
}
"""What a request fails as, and what it counts as (semantics 1.3, 7.2)."""


class Drive:
    """A drive on a disk in memory, which fails every I/O with `number` unless it is 0."""

    def __init__(self, rerror: str = "report", werror: str = "enospc", **more: Any) -> None:
        self.sim = Sim(1)
        self.sim.be_orderly()
        self.machine = new_machine(self.sim)
        self.number = 0
        self.disk = MemoryNode(NodeOptions(node_name="disk"), self.machine, SIZE, self.on_io)
        self.disk.data[:] = b"\x11" * SIZE
        self.blk = add_drive(self.machine, self.disk, "vda", rerror, werror, **more)
        self.events: list[Event] = []
        self.machine.listeners.append(lambda event, now_ns: self.events.append(event))
        self.outcome: str | None = None
        self.buf = memoryview(bytearray(b"\xee" * 512))

    def on_io(self, what: str) -> None:
        if self.number:
            raise OSError(self.number, "injected")

    def request(self, kind: str, offset: int = 0, length: int = 512) -> str | None:
        """Start a request and let it go as far as it can; its outcome, None if it is held."""
        self.outcome = None
        self.sim.start(kind, self._watch(self.coro(kind, offset, length)))
        self.sim.run()
        return self.outcome

    def coro(self, kind: str, offset: int, length: int) -> Coroutine[Any, Any, None]:
        data = memoryview(b"\x22" * length)
        match kind:
            case "read":
                self.buf = memoryview(bytearray(b"\xee" * length))
                return self.blk.pread(offset, self.buf)
            case "zero":
                return self.blk.zero(offset, length, may_unmap=True)
            case "flush":
                return self.blk.flush()
            case "discard":
                return self.blk.discard(offset, length)
        return self.blk.pwrite(offset, data, fua=kind == "fua")

    async def _watch(self, coro: Coroutine[Any, Any, None]) -> None:
        try:
            await coro
            self.outcome = "ok"
        except OSError as exc:
            self.outcome = errno.errorcode[exc.errno or 0]

    def tally(self, kind: str) -> Tally | None:
        acct = KINDS[kind][1]
        return None if acct is None else self.blk.stats().tallies[acct]


def counted(tally: Tally | None) -> tuple[int, int, int, int] | None:
    if tally is None:
        return None
    return tally.operations, tally.bytes, tally.failed, tally.invalid


@pytest.mark.parametrize("kind", KINDS)
def test_success(kind: str) -> None:
    drive = Drive()
    if kind == "flush":
        drive.disk.traces.reached(0)
    assert drive.request(kind) == "ok"
    nbytes = 0 if kind == "flush" else 512
    assert counted(drive.tally(kind)) in ((1, nbytes, 0, 0), None)
    wanted = {"read": 0x11, "flush": 0x11, "write": 0x22, "fua": 0x22, "zero": 0, "discard": 0}
    assert drive.disk.data[:513] == bytes([wanted[kind]]) * 512 + b"\x11"
    assert kind != "read" or bytes(drive.buf) == b"\x11" * 512
    assert drive.disk.flushes == (kind in ("flush", "fua"))
    assert not drive.events


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.ETIMEDOUT], ids=os.strerror)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("rerror", "werror"),
    list(itertools.product(("report", "ignore", "stop"), ("report", "ignore", "stop", "enospc"))),
)
def test_failure(rerror: str, werror: str, kind: str, number: int) -> None:
    """Semantics 1.2 to 1.7, all of them."""
    drive = Drive(rerror, werror)
    drive.number = number
    if kind == "flush":
        drive.disk.traces.reached(0)
    operation = KINDS[kind][0]
    policy = rerror if operation is IoOperationType.READ else werror
    if policy == "enospc":
        policy = "stop" if number == errno.ENOSPC else "report"
    outcome = drive.request(kind)
    wanted = {"report": errno.errorcode[number], "ignore": "ok", "stop": None}
    assert outcome == wanted[policy]
    enabled = rerror == "stop" or werror in ("stop", "enospc")
    assert drive.events[0] == BlockIoError(
        qom_path="/machine/peripheral/vda/virtio-backend",
        device="vda",
        node_name="disk",
        operation=operation,
        action=DeviceErrorAction(policy),
        nospace=(number == errno.ENOSPC) if enabled else None,
        reason=os.strerror(number),
    )
    assert [event.NAME for event in drive.events[1:]] == ["STOP"] * (policy == "stop")
    nbytes = 0 if kind == "flush" else 512
    count = {"report": (0, 0, 1, 0), "ignore": (1, nbytes, 0, 0), "stop": (0, 0, 0, 0)}
    assert counted(drive.tally(kind)) in (count[policy], None)
    status = "nospace" if number == errno.ENOSPC else "failed"
    assert drive.blk.iostatus == (status if policy == "stop" else "ok")
    assert drive.disk.data == b"\x11" * SIZE
    if policy == "stop":
        check_retry(drive, kind)


def check_retry(drive: Drive, kind: str) -> None:
    """The final success counts once; the failed attempt not at all."""
    drive.number = 0
    drive.machine.cont()
    drive.sim.lock.poke()
    drive.sim.run()
    assert drive.outcome == "ok"
    nbytes = 0 if kind == "flush" else 512
    assert counted(drive.tally(kind)) in ((1, nbytes, 0, 0), None)
    assert drive.blk.iostatus is BlockDeviceIoStatus.OK


@pytest.mark.parametrize(
    ("kind", "number"),
    [*((kind, errno.EIO) for kind in KINDS), *((kind, 0) for kind in KINDS if kind != "flush")],
)
def test_a_failed_request_leaves_nothing_to_the_garbage_collector(kind: str, number: int) -> None:
    """What it had in its hands, buffers among them, is free at once, not some time later."""
    drive = Drive(werror="report")
    drive.number = number
    drive.disk.traces.reached(0)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(OSError, match="injected" if number else os.strerror(errno.EINVAL)):
            run(drive, kind, offset=0 if number else SIZE)
        assert gc.collect() == 0
    finally:
        gc.enable()


def run(drive: Drive, kind: str, offset: int) -> None:
    """Carry out a request on this thread, as the plugin does."""
    drive.sim.lock.run_in_thread(drive.coro(kind, offset, 512), lambda: True)


def test_ignored_reads_give_zeroes() -> None:
    drive = Drive("ignore")
    drive.number = errno.EIO
    assert drive.request("read") == "ok"
    assert bytes(drive.buf) == bytes(512)


def test_a_held_write_takes_the_buffer_as_it_is_then() -> None:
    """Semantics 1.4: the retry is made from scratch."""
    drive = Drive()
    drive.number = errno.ENOSPC
    data = bytearray(b"a")
    drive.sim.start("write", drive.blk.pwrite(0, memoryview(data)))
    drive.sim.run()
    data[:] = b"b"
    drive.number = 0
    drive.machine.cont()
    drive.sim.lock.poke()
    drive.sim.run()
    assert drive.disk.data[:1] == b"b"


INVALID: dict[str, tuple[int | None, int, int, bool]] = {
    # logical block size, offset, length, whether it is valid
    "behind the end": (None, SIZE, 1, False),
    "across the end": (None, SIZE - 1, 2, False),
    "last byte": (None, SIZE - 1, 1, True),
    "nothing at the end": (None, SIZE, 0, True),
    "any alignment": (None, 3, 5, True),
    "misaligned": (512, 1, 512, False),
    "too short": (512, 0, 511, False),
    "aligned": (512, 512, 1024, True),
    "large sectors": (4096, 512, 4096, False),
}


@pytest.mark.parametrize("kind", ["read", "write", "zero", "discard"])
@pytest.mark.parametrize(("block", "offset", "length", "valid"), INVALID.values(), ids=INVALID)
def test_invalid_requests(
    kind: str, block: int | None, offset: int, length: int, valid: bool
) -> None:
    """No policy, no event, counted apart (semantics 1.3, guest-invalid-request)."""
    device = Device(path="/machine/peripheral/vda", logical_block_size=block)
    drive = Drive("stop", "stop", device=device)
    assert drive.request(kind, offset, length) == ("ok" if valid else "EINVAL")
    count = (1, length, 0, 0) if valid else (0, 0, 0, 1)
    assert counted(drive.tally(kind)) in (count, None)
    assert not drive.events and drive.machine.vm.running


def test_a_request_may_become_invalid_while_it_is_held() -> None:
    drive = Drive()
    drive.number = errno.ENOSPC
    assert drive.request("write", SIZE - 512) is None
    drive.number = 0
    drive.disk.size = 4096
    drive.machine.cont()
    drive.sim.lock.poke()
    assert drive.outcome == "EINVAL"
    assert counted(drive.tally("write")) == (0, 0, 0, 1)


@pytest.mark.parametrize("kind", ["write", "zero"])
def test_without_write_cache_every_write_is_flushed(kind: str) -> None:
    drive = Drive(writeback=False)
    assert drive.request(kind) == "ok"
    assert drive.disk.flushes == 1


def test_discard_with_fua() -> None:
    drive = Drive()
    perform(drive.blk.discard(0, 512, fua=True))
    assert drive.disk.flushes == 1


def test_a_write_fails_as_one() -> None:
    """The write itself succeeds, its flush does not: one event, one failure."""
    drive = Drive(werror="report")
    drive.disk.injector().add(fail(id="f", iotype=BlkdebugIOType.FLUSH))
    assert drive.request("fua") == "EIO"
    assert len(drive.events) == 1
    assert counted(drive.tally("fua")) == (0, 0, 1, 0)


def test_fast_zeroes_may_be_refused() -> None:
    """That is no failure of the disk: no policy applies."""
    drive = Drive("stop", "stop")
    drive.number = errno.ENOTSUP
    with pytest.raises(OSError) as caught:
        perform(drive.blk.zero(0, 512, may_unmap=False, fast=True))
    assert caught.value.errno == errno.ENOTSUP and not drive.events
    drive.number = errno.EIO
    drive.sim.start("zero", drive.blk.zero(0, 512, may_unmap=False, fast=True))
    drive.sim.run()
    assert [event.NAME for event in drive.events] == ["BLOCK_IO_ERROR", "STOP"]


@pytest.mark.parametrize("kind", ["read", "write"])
@pytest.mark.parametrize("policy", ["report", "ignore", "stop"])
def test_the_shortcut_has_failed_first(policy: str, kind: str) -> None:
    """The policy sees its error at once; a retry goes the long way."""
    drive = Drive(policy, policy)
    error = OSError(errno.EIO, "from the shortcut")
    buf = memoryview(bytearray(b"\x33" * 512))
    request = drive.blk.pread if kind == "read" else drive.blk.pwrite
    ended: list[str] = []

    async def guest() -> None:
        try:
            await request(0, buf, tried=error)
            ended.append("ok")
        except OSError as exc:
            ended.append(errno.errorcode[exc.errno or 0])

    drive.sim.start("guest", guest())
    drive.sim.run()
    wanted = {"report": ["EIO"], "ignore": ["ok"], "stop": []}
    assert ended == wanted[policy]
    assert isinstance(drive.events[0], BlockIoError) and drive.events[0].action == policy
    assert drive.disk.data[:1] == b"\x11"
    drive.machine.cont()
    drive.sim.lock.poke()
    drive.sim.run()
    assert ended == (wanted[policy] or ["ok"])
    assert counted(drive.tally(kind)) == ((0, 0, 1, 0) if policy == "report" else (1, 512, 0, 0))


def test_times_count_the_last_attempt() -> None:
    """A wait for the machine is not the disk's time."""
    drive = Drive()
    drive.number = errno.ENOSPC
    drive.request("write")
    drive.sim.now_ns += 10**9
    drive.number = 0
    drive.machine.cont()
    drive.sim.lock.poke()
    drive.sim.run()
    tally = drive.tally("write")
    assert tally is not None and tally.operations == 1 and tally.time_ns < 10**9


def test_anonymous_drives_are_called_nothing() -> None:
    drive = Drive()
    drive.blk.name = ""
    drive.number = errno.EIO
    drive.request("write")
    (event,) = drive.events
    assert isinstance(event, BlockIoError) and event.device == ""


def test_policy_is_that_of_the_moment_of_failure() -> None:
    drive = Drive("report", "report")
    drive.blk.werror = DeviceOnError.STOP
    drive.number = errno.EIO
    assert drive.request("write") is None


def test_block_status() -> None:
    """No device asks it: while the machine is stopped it is answered, with an error if need be."""
    drive = Drive("stop", "stop")
    drive.machine.vm.stop(RunState.PAUSED)
    whole = [Extent(SIZE, data=True, zero=False)]
    assert perform(drive.blk.block_status(0, SIZE)) == whole
    assert perform(drive.blk.block_status(0, 2 * SIZE)) == whole
    assert perform(drive.blk.block_status(SIZE, 512)) == []
    drive.disk.injector().add(fail(id="f", iotype=BlkdebugIOType.BLOCK_STATUS))
    with pytest.raises(OSError) as caught:
        perform(drive.blk.block_status(0, SIZE))
    assert caught.value.errno == errno.EIO
    assert drive.blk.quiet() and [event.NAME for event in drive.events] == ["STOP"]


def test_dropped_requests() -> None:
    """Whether they have failed before or never been tried; those that come later wait anew."""
    drive = Drive()
    drive.number = errno.ENOSPC
    outcomes: list[str] = []
    for name in ("failed", "waiting"):
        drive.sim.start(name, _note(outcomes, name, drive.blk.pwrite(0, memoryview(b"a"))))
        drive.sim.run()
    drive.blk.drop_held()
    drive.sim.lock.poke()
    assert outcomes == ["failed ESHUTDOWN", "waiting ESHUTDOWN"]
    drive.number = 0
    drive.sim.start("later", _note(outcomes, "later", drive.blk.pwrite(0, memoryview(b"a"))))
    drive.sim.run()
    assert len(outcomes) == 2
    drive.machine.cont()
    drive.sim.lock.poke()
    drive.sim.run()
    assert outcomes[2:] == ["later ok"]
    assert counted(drive.tally("write")) == (1, 1, 0, 0)


async def _note(outcomes: list[str], name: str, coro: Coroutine[Any, Any, None]) -> None:
    try:
        await coro
        outcomes.append(f"{name} ok")
    except OSError as exc:
        outcomes.append(f"{name} {errno.errorcode[exc.errno or 0]}")


def test_quiesced_sections_nest() -> None:
    drive = Drive()
    with drive.blk.quiesced():
        with drive.blk.quiesced():
            assert drive.request("write") is None
        drive.sim.lock.poke()
        assert "write" in drive.sim.running
        assert not drive.blk.may_run()
    drive.sim.lock.poke()
    drive.sim.run()
    assert "write" not in drive.sim.running
    assert drive.blk.may_run()


def test_drain_waits_for_what_is_under_way() -> None:
    drive = Drive()
    order: list[str] = []

    async def drainer() -> None:
        await drive.blk.drain()
        order.append("drained")
        await Until(drive.blk.accepts)

    drive.sim.start("write", _note(order, "write", drive.blk.pwrite(0, memoryview(b"a"))))
    drive.sim.start("drain", drainer())
    drive.sim.run()
    assert order == ["write ok", "drained"]


# The shortcut: who may take it.


@pytest.fixture(name="machine")
def _machine() -> Machine:
    sim = Sim(0)
    return Machine(sim, 0, region=sim.lock.region, directory="/")


@pytest.fixture(name="blk")
def _blk(machine: Machine, tmp_path: Path) -> Iterator[BlockBackend]:
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(SIZE))
    node = FileNode(NodeOptions(node_name="disk"), machine, "disk.raw", str(image))
    perform(node.do_open())
    yield add_drive(machine, node)
    perform(node.do_close())


def test_a_plain_file_has_a_shortcut(blk: BlockBackend) -> None:
    path = shortcut(blk)
    assert path is not None and isinstance(blk.root, FileNode)
    assert (path.fd, path.shift, path.size) == (blk.root.fd, 0, SIZE)


def _stopped(machine: Machine, blk: BlockBackend) -> None:
    machine.vm.stop(RunState.PAUSED)


def _throttled(machine: Machine, blk: BlockBackend) -> None:
    machine.set_throttle(blk, ThrottleConfig(iops_total=Limit(1)), "g")


def _write_through(machine: Machine, blk: BlockBackend) -> None:
    blk.writeback = False
    machine.concerns_changed()


def _sectors(machine: Machine, blk: BlockBackend) -> None:
    blk.device = Device(path="", logical_block_size=512)
    machine.concerns_changed()


def _watched(machine: Machine, blk: BlockBackend) -> None:
    blk.root.set_write_threshold(1)


def _rule_on_an_event(machine: Machine, blk: BlockBackend) -> None:
    blk.root.injector().add(fail(id="f", event=BlkdebugEvent.PWRITEV))


def _rule_anywhere(machine: Machine, blk: BlockBackend) -> None:
    blk.root.injector().add(fail(id="f"))


def _quit(machine: Machine, blk: BlockBackend) -> None:
    machine.vm.set(RunState.SHUTDOWN)


@pytest.mark.parametrize(
    "concern",
    [
        _stopped,
        _throttled,
        _write_through,
        _sectors,
        _watched,
        _rule_on_an_event,
        _rule_anywhere,
        _quit,
    ],
)
def test_what_takes_the_shortcut_away(machine: Machine, blk: BlockBackend, concern: Any) -> None:
    assert shortcut(blk) is not None
    concern(machine, blk)
    assert shortcut(blk) is None


def test_another_child_below_takes_it_away(machine: Machine, tmp_path: Path) -> None:
    """Whoever changes links need not say so, nor whoever reopens a node."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(SIZE))
    file = {"driver": "file", "node-name": "a", "filename": str(tmp_path / "a")}
    top = {"driver": "raw", "node-name": "top", "file": file}
    root = perform(machine.graph.open(parse_blockdev_options(top)))
    other = {"driver": "file", "node-name": "b", "filename": str(tmp_path / "b")}
    below = perform(machine.graph.open(parse_blockdev_options(other)))
    blk = add_drive(machine, root)
    first = shortcut(blk)
    links.replace(machine.graph.nodes["a"], below, [below])
    assert blk.shortcut is None
    second = shortcut(blk)
    assert first is not None and second is not None and first.fd != second.fd
    options = replace(root.options, detect_zeroes=BlockdevDetectZeroesOptions.ON)
    perform(reopen(machine.graph, [Change(root, options, root.definition, {})]))
    assert blk.shortcut is None
    assert shortcut(blk) is None
    perform(machine.close())


def test_detect_zeroes_takes_it_away(machine: Machine, tmp_path: Path) -> None:
    image = tmp_path / "d"
    image.write_bytes(bytes(SIZE))
    options = NodeOptions(node_name="d", detect_zeroes=BlockdevDetectZeroesOptions.ON)
    node = FileNode(options, machine, "d", str(image))
    perform(node.do_open())
    assert shortcut(add_drive(machine, node)) is None
    perform(node.do_close())


def test_it_comes_back(machine: Machine, blk: BlockBackend) -> None:
    """As soon as what took it away is gone, be it used up or removed."""
    assert shortcut(blk)
    with blk.quiesced():
        assert blk.shortcut is None
        assert not shortcut(blk)
    assert shortcut(blk)
    machine.vm.stop(RunState.PAUSED)
    machine.cont()
    assert shortcut(blk) is not None
    machine.set_throttle(blk, ThrottleConfig(iops_total=Limit(1)), "g")
    machine.set_throttle(blk, ThrottleConfig(), "g")
    assert shortcut(blk) is not None
    blk.root.set_write_threshold(1)
    blk.root.set_write_threshold(0)
    assert shortcut(blk) is not None
    blk.root.injector().add(fail(id="f", count=1, errno=errno.ETIMEDOUT))
    machine.concerns_changed()
    with pytest.raises(OSError):
        perform(blk.pread(0, memoryview(bytearray(1))))
    assert shortcut(blk) is not None


def test_short_writes_are_the_nodes_writes(machine: Machine, blk: BlockBackend) -> None:
    """They count for the highest offset and need a flush, as soon as anybody looks."""
    slot = Slot()
    blk.slots.append(slot)
    path = shortcut(blk)
    assert path is not None and path.pwrite(slot, 4096, memoryview(b"abc"))
    blk.stats()
    assert blk.root.wr_highest_offset == 4099
    assert blk.root.traces.generation != blk.root._flushed_gen
    perform(blk.flush())
    assert blk.root.traces.generation == blk.root._flushed_gen
    blk.publish_traces()
    assert blk.root.traces.generation == blk.root._flushed_gen


def test_another_root_begins_at_nothing(
    machine: Machine, blk: BlockBackend, tmp_path: Path
) -> None:
    """How far writes reached is the old root's, which an overlay need not be told of."""
    (tmp_path / "other").write_bytes(bytes(SIZE))
    other = FileNode(NodeOptions(node_name="o"), machine, "other", str(tmp_path / "other"))
    perform(other.do_open())
    old, slot = blk.root, Slot()
    blk.slots.append(slot)
    path = shortcut(blk)
    assert path is not None and path.pwrite(slot, 4096, memoryview(b"abc"))
    links.replace(old, other, [other])
    assert blk.root is other and blk.shortcut is None
    path = shortcut(blk)
    assert path is not None and path.pwrite(slot, 8, memoryview(b"abc"))
    blk.publish_traces()
    assert (old.wr_highest_offset, other.wr_highest_offset) == (4099, 11)
    perform(other.do_close())


def test_the_filter_of_a_mirror_takes_it_away(machine: Machine, tmp_path: Path) -> None:
    """As soon as writes are to be marked there, and as long as they go to the target, too."""
    (tmp_path / "d").write_bytes(bytes(SIZE))
    file = FileNode(NodeOptions(node_name="d"), machine, "d", str(tmp_path / "d"))
    perform(file.do_open())
    add_node(machine, file)
    top = MirrorTopNode(NodeOptions(node_name="top"), machine, file)
    perform(top.do_open())
    blk = add_drive(machine, top)
    slot = Slot()

    def writes() -> object:
        path = shortcut(blk)
        assert path is not None
        return path.pwrite(slot, 512, memoryview(b"abc"))

    assert writes()
    top.copies = True
    assert not writes()
    top.copies = False
    assert writes()
    top.marks = marks = DirtyBitmap(SIZE, 512)
    assert writes() and marks.count == 512
    perform(file.do_close())


def test_a_drained_section_flushes_short_writes(
    machine: Machine, blk: BlockBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot makes the image read-only then, and no later flush would reach it."""
    slot = Slot()
    blk.slots.append(slot)
    path = shortcut(blk)
    assert path is not None and path.pwrite(slot, 4096, memoryview(b"abc"))
    flushed: list[bytes] = []

    async def flush() -> None:
        assert isinstance(blk.root, FileNode)
        flushed.append(os.pread(blk.root.fd, 3, 4096))

    monkeypatch.setattr(blk.root, "do_flush", flush)

    async def section() -> None:
        async with Drain(machine, [blk.root]):
            await blk.root.flush()

    perform(section())
    assert flushed == [b"abc"]


def test_a_retired_slot_is_not_forgotten(machine: Machine, blk: BlockBackend) -> None:
    slots = [Slot(), Slot()]
    path = shortcut(blk)
    assert path is not None
    for slot in slots:
        blk.slots.append(slot)
        assert path.pwrite(slot, 0, memoryview(b"abc"))
        assert path.pread(slot, 0, memoryview(bytearray(2)))
    before = blk.stats()
    blk.retire(slots[0])
    assert blk.stats() == before
    assert path.pwrite(slots[1], 100, memoryview(b"abc"))
    blk.retire(slots[1])
    assert not blk.slots and blk.root.wr_highest_offset == 103
    after = blk.stats()
    assert after.tallies[AcctType.WRITE].operations == 3
    assert after.tallies[AcctType.WRITE].bytes == 9
    assert after.tallies[AcctType.READ].bytes == 4


def test_busy_slots_are_not_quiet(blk: BlockBackend) -> None:
    slot = Slot()
    blk.slots.append(slot)
    assert blk.quiet()
    slot.busy = True
    assert not blk.quiet()


@pytest.mark.parametrize("seed", range(10))
def test_held_requests_are_retried_in_the_order_of_their_arrival(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order in which they have failed."""
    drive = Drive()
    drive.sim = sim = Sim(seed)
    drive.machine = new_machine(sim)
    drive.disk = MemoryNode(NodeOptions(node_name="disk"), drive.machine, SIZE, drive.on_io)
    drive.blk = add_drive(drive.machine, drive.disk, "vda", "stop", "stop")
    drive.number = errno.EIO
    offsets = [0, 512, 1024, 1536]
    for offset in offsets:
        sim.start(str(offset), drive.blk.pwrite(offset, memoryview(b"a" * 512)), now=True)
    sim.run()
    drive.number = 0
    tried: list[int] = []

    async def note(request: Request) -> None:
        tried.append(request.offset)
        await MemoryNode.perform(drive.disk, request)

    monkeypatch.setattr(drive.disk, "perform", note)
    with sim.lock.region():
        drive.machine.cont()
    sim.run()
    assert tried == offsets
