# SPDX-License-Identifier: MIT
"""The shortcut: what it does, what it leaves to the long way, and that nobody slips through."""

from __future__ import annotations

import contextlib
import errno
import sys
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from blockcore.bql.big_lock import BigLock
from blockcore.bql.clock import SystemClock
from blockcore.bql.routine import Routine
from blockcore.drive.block_backend import BlockBackend
from blockcore.faults.gate import Gate
from blockcore.faults.injector import FaultInjector
from blockcore.nodes.definitions.flat_options import open_options
from blockcore.nodes.file_calls import FileSystem
from blockcore.nodes.shortcut.guest import GuestShortcut, Tried
from blockcore.nodes.shortcut.slot import Slot
from blockcore.nodes.shortcut.way import Way
from blockcore.process.connection import Connection
from blockcore.process.server import Server
from blockcore.qapi.events import Event
from blockcore.qapi.names import BlkdebugEvent, FaultIOType, RunState
from blockcore.rules.accounting import AcctType
from blockcore.rules.bitmap import DirtyBitmap
from rules import Host, fail
from sim import add_drive, execute, perform, shortcut

K = 1024
SIZE = 64 * K
HANG_S = 30


@pytest.fixture(name="image")
def _image(tmp_path: Path) -> Path:
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(range(256)) * (SIZE // 256))
    return image


# By itself.


class Ticks:
    """A clock on which everything takes 10 ns."""

    now_ns = 0

    def monotonic_ns(self) -> int:
        self.now_ns += 10
        return self.now_ns

    def realtime_ns(self) -> int:
        return 0


def open_path(
    image: Path, *, shift: int = 0, size: int = SIZE, reads: Gate | None = None, mode: str = "r+b"
) -> Iterator[GuestShortcut]:
    with image.open(mode, buffering=0) as file:
        writes = Gate([(8 * K, 9 * K)])
        way = Way(file.fileno(), FileSystem(0), reads or Gate(), writes, shift)
        yield GuestShortcut(way, size, Ticks())


def test_read_and_write(image: Path) -> None:
    slot = Slot()
    for path in open_path(image, shift=K):
        buf = memoryview(bytearray(3))
        assert path.pread(slot, 5, buf)
        assert bytes(buf) == b"\5\6\7"
        assert path.pwrite(slot, 10, memoryview(b"abcd"))
    assert image.read_bytes()[K + 9 : K + 15] == b"\tabcd\x0e"
    assert (slot.rd_ops, slot.rd_bytes, slot.rd_ns) == (1, 3, 10)
    assert (slot.wr_ops, slot.wr_bytes, slot.wr_ns) == (1, 4, 10)
    assert (slot.wr_highest, slot.last_ns) == (14, 40)


def test_the_highest_offset_is_kept(image: Path) -> None:
    slot = Slot()
    for path in open_path(image):
        for offset in (100, 50):
            assert path.pwrite(slot, offset, memoryview(b"a"))
    assert slot.wr_highest == 101


@pytest.mark.parametrize("mode", ["r+b", "rb"], ids=["done", "failed"])
def test_writes_are_marked_where_each_node_has_them(image: Path, mode: str) -> None:
    """In the bitmap of the node itself, and 4 KiB further down in that of one below."""
    above, below = DirtyBitmap(SIZE, 512), DirtyBitmap(SIZE, 512)
    with image.open(mode, buffering=0) as file:
        system = FileSystem(0)
        way = Way(file.fileno(), system, Gate(), Gate())
        way.traces.mark_in(below)
        way = way.shifted(4 * K)
        way.traces.mark_in(above)
        path = GuestShortcut(way, SIZE, Ticks())
        with contextlib.nullcontext() if mode == "r+b" else pytest.raises(OSError):
            assert path.pwrite(Slot(), K - 1, memoryview(b"ab"))
        assert path.pread(Slot(), 0, memoryview(bytearray(1)))
    assert list(above.areas()) == [(K - 512, K)]
    assert list(below.areas()) == [(5 * K - 512, K)]


LEFT: dict[str, tuple[str, int, int]] = {
    "behind the end": ("both", SIZE, 1),
    "across the end": ("both", SIZE - 1, 2),
    "a rule on writes": ("write", 9 * K - 1, 1),
    "across a rule on writes": ("write", 0, 16 * K),
    "a rule on reads": ("read", 16 * K, 1),
}


@pytest.mark.parametrize(("kind", "offset", "length"), LEFT.values(), ids=LEFT)
def test_what_is_left_to_the_long_way(image: Path, kind: str, offset: int, length: int) -> None:
    """Nothing is done and nothing is counted."""
    before, slot = image.read_bytes(), Slot()
    for path in open_path(image, reads=Gate([(16 * K, 17 * K)])):
        data = memoryview(b"\xee" * length)
        assert path.pread(slot, offset, memoryview(bytearray(length))) == (kind == "write")
        assert path.pwrite(slot, offset, data) == (kind == "read")
    assert slot.rd_ops == (kind == "write") and slot.wr_ops == (kind == "read")
    assert (image.read_bytes() == before) == (kind != "read")


def test_a_short_read_is_left_to_the_long_way(image: Path) -> None:
    """Somebody has cut the file off."""
    slot = Slot()
    for path in open_path(image, size=2 * SIZE):
        assert not path.pread(slot, SIZE - 1, memoryview(bytearray(2)))
    assert slot.rd_ops == 0


def test_errors_are_raised_and_not_counted(image: Path) -> None:
    slot = Slot()
    for path in open_path(image, mode="rb"):
        with pytest.raises(OSError) as caught:
            path.pwrite(slot, 0, memoryview(b"a"))
    assert caught.value.errno == errno.EBADF and slot.wr_ops == slot.last_ns == 0


# Under threads: a server with a drive, its connections used as nbdkit's workers would.


@dataclass
class Guest:
    """What one worker thread does, and what it was told."""

    connection: Connection
    number: int
    told: Counter[tuple[AcctType, bool]] = field(default_factory=Counter)
    failure: BaseException | None = None

    def run(self, is_over: Callable[[], bool]) -> None:
        slot = self.connection.new_slot()
        random = Random(self.number)
        try:
            while not is_over():
                self.one(slot, random.choice([AcctType.READ, AcctType.WRITE]), random)
        except BaseException as exc:
            self.failure = exc
        finally:
            self.connection.retire(slot)

    def one(self, slot: Slot, kind: AcctType, random: Random) -> None:
        """As in the plugin: the shortcut, and the long way if that did not do it."""
        blk, lock = self.connection.blk, self.connection._lock
        buf = memoryview(bytes([self.number]) * K if kind is AcctType.WRITE else bytearray(K))
        offset = random.randrange(SIZE // K) * K
        if kind is AcctType.READ:
            tried = self.connection.shortcut_pread(slot, offset, buf)
            request: Callable[..., Coroutine[Any, Any, None]] = blk.pread
        else:
            tried = self.connection.shortcut_pwrite(slot, offset, buf)
            request = blk.pwrite
        good = True
        if tried is not True:
            try:
                lock.run_in_thread(request(offset, buf, tried=tried), lambda: True)
            except OSError as exc:
                assert exc.errno == errno.ETIMEDOUT
                good = False
        self.told[kind, good] += 1


class Setup:
    """A server as after get_ready, its drive reporting all errors."""

    def __init__(self, tmp_path: Path) -> None:
        self.server = Server({}, str(tmp_path))
        self.server.config("drive", "file=disk.raw,format=raw,id=vda,rerror=report,werror=report")
        self.server.config_complete()
        self.server.get_ready()
        self.machine = self.server.machine
        self.blk: BlockBackend = self.machine.backends[0]
        self.threads: list[threading.Thread] = []
        self.machine.spawn = self.spawn

    def start(self, work: Callable[..., object], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()
        return thread

    def spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        """What the main loop does, which does not run here."""
        self.start(self.run, coro)

    def run(self, coro: Coroutine[Any, Any, Any]) -> Any:
        return self.server.lock.run_in_thread(coro, lambda: True)

    def command(self, name: str, **arguments: Any) -> Any:
        return self.run(execute(self.machine, name, **arguments))

    def close(self) -> None:
        for thread in self.threads:
            thread.join(HANG_S)
            assert not thread.is_alive()
        for node in list(self.machine.graph.nodes.values()):
            self.run(node.do_close())


@pytest.fixture(name="world")
def _world(tmp_path: Path, image: Path) -> Iterator[Setup]:
    world = Setup(tmp_path)
    yield world
    world.close()


@pytest.mark.parametrize("command", ["stop", "block_resize", "system_reset"])
@pytest.mark.parametrize("kind", ["read", "write"])
def test_nothing_is_done_while_a_slot_is_busy(world: Setup, command: str, kind: str) -> None:
    """A request on the shortcut holds up whoever drains the drive, however often it looks."""
    path = shortcut(world.blk)
    assert path is not None
    inside, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def slowly(offset: int, nbytes: int) -> bool:
        inside.set()
        return not go_on.wait(HANG_S)

    path.read_guard = path.write_guard = slowly
    connection = world.server.exports.connect("vda", False)
    slot = connection.new_slot()
    request = connection.shortcut_pread if kind == "read" else connection.shortcut_pwrite
    outcomes: list[Tried] = []
    world.start(lambda: outcomes.append(request(slot, 0, memoryview(bytearray(K)))))
    assert inside.wait(HANG_S)
    arguments = {"device": "vda", "size": SIZE} if command == "block_resize" else {}

    def drain() -> None:
        world.command(command, **arguments)
        done.set()

    world.start(drain)
    while world.blk.shortcut is not None:
        world.server.lock.poke()
    for _ in range(10):
        world.server.lock.poke()
        assert not done.is_set()
    go_on.set()
    assert done.wait(HANG_S)
    assert outcomes == [True] and not slot.busy


def test_a_stop_is_for_all_drives_at_once(world: Setup, tmp_path: Path) -> None:
    """However long the first one takes to become quiet."""
    path = tmp_path / "other.img"
    path.write_bytes(bytes(4096))
    options = open_options({"driver": "file", "filename": str(path)})
    add_drive(world.machine, perform(world.machine.graph.open(options)), "vdb")
    slot = Slot()
    slot.busy = True
    world.blk.slots.append(slot)
    drives = world.machine.backends
    assert [shortcut(blk) is not None for blk in drives] == [True, True]
    with world.server.lock.region():
        stop = Routine(world.machine.stop(RunState.PAUSED))
        stop.advance()
    assert not stop.done
    assert [blk.shortcut is not None for blk in drives] == [False, False]
    stop.abandon()


@pytest.fixture(name="hasty")
def _hasty() -> Iterator[None]:
    """Threads take turns 100 times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 100)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
def test_no_request_slips_through_a_stop(world: Setup) -> None:
    """32 workers; while the machine is stopped not one byte moves, and at the end all add up."""
    lock, blk = world.server.lock, world.blk
    over = threading.Event()
    guests = [Guest(world.server.exports.connect("vda", False), number) for number in range(1, 33)]
    for guest in guests:
        world.start(guest.run, over.is_set)
    rule = {"node_name": "vda", "offset": 0, "length": SIZE // 2, "errno": "ETIMEDOUT", "id": "r"}
    for turn in range(20):
        world.command("stop")
        before = moved(lock, blk)
        if turn % 4 == 1:
            world.command("x-fault-add", **rule)
        if turn % 4 == 3:
            world.command("x-fault-remove", id="r")
        assert moved(lock, blk) == before and blk.quiet()
        world.command("cont")
        while sum(moved(lock, blk)) < sum(before) + 100:
            lock.poke()
    over.set()
    for thread in world.threads:
        thread.join(HANG_S)
    assert [guest.failure for guest in guests if guest.failure is not None] == []
    assert not blk.slots and blk.quiet()
    for kind in (AcctType.READ, AcctType.WRITE):
        good, bad = (sum(guest.told[kind, ok] for guest in guests) for ok in (True, False))
        tally = blk.stats().tallies[kind]
        assert (tally.operations, tally.bytes, tally.failed) == (good, good * K, bad)
        assert good and bad


def moved(lock: BigLock, blk: BlockBackend) -> list[int]:
    """How many requests have ended so far."""
    with lock.region():
        tallies = blk.stats().tallies
    return [tally.operations + tally.failed for tally in tallies.values()]


def test_a_rule_that_has_been_added_hits(world: Setup) -> None:
    """Requests that begin after `x-fault-add` has returned see the rule, on either way."""
    connection = world.server.exports.connect("vda", False)
    guest = Guest(connection, 1)
    slot = connection.new_slot()
    with world.server.lock.region():
        assert shortcut(world.blk) is not None
    guest.one(slot, AcctType.WRITE, Random(1))
    assert (slot.wr_ops, guest.told) == (1, {(AcctType.WRITE, True): 1})
    world.command("x-fault-add", node_name="vda", offset=0, length=SIZE, errno="ETIMEDOUT")
    for kind in (AcctType.READ, AcctType.WRITE):
        guest.one(slot, kind, Random(1))
        assert guest.told[kind, False] == 1
    assert (slot.rd_ops, slot.wr_ops) == (0, 1)
    world.command("x-fault-clear")
    for rd_ops in (0, 1):
        guest.one(slot, AcctType.READ, Random(1))
        assert slot.rd_ops == rd_ops, "the first one looks for the way anew"
    connection.retire(slot)


def test_an_error_on_the_shortcut_is_the_drive_s(world: Setup) -> None:
    """It is not tried again before the policy has seen it."""
    events: list[Event] = []
    world.machine.listeners.append(lambda event, now_ns: events.append(event))
    connection = world.server.exports.connect("vda", False)
    slot = connection.new_slot()
    world.blk.shortcut = GuestShortcut(Way(-1, FileSystem(0), Gate(), Gate()), SIZE, SystemClock())
    error = connection.shortcut_pread(slot, 0, memoryview(bytearray(K)))
    assert isinstance(error, OSError) and error.errno == errno.EBADF and not slot.busy
    with pytest.raises(OSError):
        world.run(world.blk.pread(0, memoryview(bytearray(K)), tried=error))
    assert [event.NAME for event in events] == ["BLOCK_IO_ERROR"]
    assert world.blk.stats().tallies[AcctType.READ].failed == 1
    assert world.machine.vm.state is RunState.RUNNING
    connection.retire(slot)


@pytest.mark.parametrize("side", ["read", "write"])
def test_events_of_what_goes_past(side: str) -> None:
    """A request that no rule can hit makes rules active that wait for its event."""
    event = BlkdebugEvent.READ_AIO if side == "read" else BlkdebugEvent.WRITE_AIO
    injector = FaultInjector(Host())
    injector.add(fail(event=event, iotype=FaultIOType.WRITE, offset=4096, length=512))
    way = Way(-1, FileSystem(0), Gate(), Gate(), 0)
    assert way.keep_to(injector, (BlkdebugEvent.READ_AIO,), (BlkdebugEvent.WRITE_AIO,))
    other, guard = way.write_guard(), way.read_guard()
    if side == "write":
        other, guard = guard, other
    assert injector.check(FaultIOType.WRITE, 4096, 512) is None
    assert other is None or not other(0, 512)
    assert injector.check(FaultIOType.WRITE, 4096, 512) is None
    assert guard is not None and not guard(0, 512)
    assert injector.check(FaultIOType.WRITE, 4096, 512) is not None
