# SPDX-License-Identifier: MIT
"""The third interpreter: the core without threads, sockets or time.

A `Sim` is the pool and the clock of a real `BigLock`, so that the settling
under test is the one in use.  What is ready (a `Call` to be performed, a
deadline that has come, an actor to be started) is a list; each step takes one
entry of it, chosen by a seeded generator, or by `Every`, which goes through
all choices there are.  Time stands still while something is ready, unless the
choice falls on letting it pass, and jumps to the next deadline when nothing is.
"""

from __future__ import annotations

import errno
import heapq
import json
import os
from collections.abc import Callable, Coroutine, Iterator
from random import Random
from typing import Any

from blockcore.bql.big_lock import BigLock
from blockcore.bql.effects import Call, Lane, Until
from blockcore.bql.routine import Routine, Timer
from blockcore.commands.table import table
from blockcore.drive.block_backend import BlockBackend
from blockcore.drive.guest_request import Device
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.options import BlockdevOptionsFile
from blockcore.nodes.driver import Extent, NodeHost, NodeOptions
from blockcore.nodes.node import BlockNode
from blockcore.nodes.shortcut.guest import GuestShortcut
from blockcore.qapi.json.writer import Encoded
from blockcore.qapi.names import DeviceOnError, QmpError
from blockcore.qapi.qemu import LATEST, RELEASES
from blockcore.qapi.schema import wire_without

START_REALTIME_NS = 1_700_000_000 * 10**9

STEPS_MAX = 100_000
"""No run of a test takes so many."""

Choose = Callable[[int], int]
"""Gets how many possibilities there are (at least 2), gives the index of one."""


class Every:
    """All sequences of choices, one after the other: ``for choose in Every(): run(choose)``."""

    def __init__(self) -> None:
        self._path: list[list[int]] = []
        self._depth = 0

    def __iter__(self) -> Iterator[Choose]:
        while True:
            self._depth = 0
            yield self._choose
            while self._path and self._path[-1][0] + 1 == self._path[-1][1]:
                self._path.pop()
            if not self._path:
                return
            self._path[-1][0] += 1

    def _choose(self, count: int) -> int:
        if self._depth == len(self._path):
            self._path.append([0, count])
        chosen, expected = self._path[self._depth]
        assert expected == count, "the scenario is not deterministic"
        self._depth += 1
        return chosen


class Sim:
    """One run; `seed` is a number, or what chooses.  It is also the machine's clock.

    `release` is the QEMU whose answers a machine of it may give: half of the seeds have each.
    """

    def __init__(self, seed: int | Choose) -> None:
        self.random = Random(seed if isinstance(seed, int) else 0)
        self._choose: Choose = self.random.randrange if isinstance(seed, int) else seed
        self._seed = seed if isinstance(seed, int) else "every"
        self.release = RELEASES["7.2"] if isinstance(seed, int) and seed % 2 else LATEST
        self.trace: list[str] = []
        self.checks: list[Callable[[], None]] = []
        self.running: dict[str, Routine] = {}
        self.now_ns = 1
        self.lock = BigLock(self)
        self.lock.pool = self
        self._ready: list[Callable[[], None]] = []
        self._timers: list[tuple[int, int, Timer]] = []
        self._timer_count = 0

    def monotonic_ns(self) -> int:
        return self.now_ns

    def realtime_ns(self) -> int:
        return START_REALTIME_NS + self.now_ns

    def submit(self, work: Callable[[], None], lane: Lane) -> None:
        self._ready.append(work)

    def is_wanted(self, lane: Lane) -> bool:
        """So that no call follows another before all others have had their chance."""
        return True

    def call_at(self, deadline_ns: int, timer: Timer) -> None:
        self._timer_count += 1
        heapq.heappush(self._timers, (deadline_ns, self._timer_count, timer))

    def note(self, line: str) -> None:
        """Write a line into the trace."""
        self.trace.append(f"{self.now_ns / 1e6:10.3f} {line}")

    def story(self) -> str:
        """What a failed assertion shows."""
        return "\n".join([f"seed {self._seed}", *self.trace])

    def start(self, name: str, coro: Coroutine[Any, Any, Any], *, now: bool = False) -> None:
        """Make an actor of `coro`; one that ends by an exception ends the run with it."""

        def begin() -> None:
            with self.lock.region():
                routine = self.lock.spawn(coro, ended)
                if not routine.done:
                    self.running[name] = routine

        def ended(routine: Routine) -> None:
            self.running.pop(name, None)
            self.note(f"{name} ends")
            if routine.error is not None:
                raise AssertionError(f"{name} failed\n{self.story()}") from routine.error

        if now:
            begin()
        else:
            self._ready.append(begin)

    def spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        """Start a loop of the machine; the lock is held."""

        def ended(routine: Routine) -> None:
            if routine.error is not None:
                raise AssertionError(f"a loop failed\n{self.story()}") from routine.error

        self.lock.spawn(coro, ended)

    def be_orderly(self) -> None:
        """No more surprises: from now on, first come, first served."""
        self.choose_by(lambda count: 0)

    def choose_by(self, choose: Choose) -> None:
        """Let `choose` choose from now on."""
        self._choose = choose

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Go on until nothing is ready and no deadline is ahead, or `until` holds."""
        for _ in range(STEPS_MAX):
            while self._timers and self._timers[0][2].cancelled:
                heapq.heappop(self._timers)
            if until() or not (self._ready or self._timers):
                return
            choices = len(self._ready) + bool(self._timers)
            chosen = self._choose(choices) if choices > 1 else 0
            if chosen == len(self._ready):
                self._let_time_pass()
            else:
                self._ready.pop(chosen)()
            for check in self.checks:
                check()
        raise AssertionError(f"it never ends\n{self.story()[-5000:]}")

    def _let_time_pass(self) -> None:
        self.now_ns = max(self.now_ns, self._timers[0][0])
        while self._timers and self._timers[0][0] <= self.now_ns:
            self._ready.append(heapq.heappop(self._timers)[2].fire)


async def pause() -> None:
    """Let others go first, perhaps."""
    await Call(_nothing)


def _nothing() -> None:
    """What an actor that only pauses asks for."""


class MemoryNode(BlockNode):
    """A disk in memory.  Its effect and its completion are two steps, each at its own time.

    `on_io` gets the kind of every request that arrives, and may raise OSError.
    `stable` is what the last flush has saved.
    """

    driver = "memory"

    def __init__(
        self,
        options: NodeOptions,
        host: NodeHost,
        size: int,
        on_io: Callable[[str], None] = lambda what: None,
    ) -> None:
        super().__init__(options, host)
        self.definition = BlockdevOptionsFile(driver="file", filename="memory")
        self.filename = "memory"
        self.size = size
        self.data = bytearray(size)
        self.stable = bytes(size)
        self.flushes = 0
        self.on_io = on_io

    async def _io(self, what: str, work: Callable[..., None], *args: Any) -> None:
        def effect() -> None:
            self.on_io(what)
            work(*args)

        await Call(effect)
        await pause()

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        await self._io("read", self._load, offset, buf)

    async def do_pwrite(self, offset: int, buf: memoryview) -> None:
        await self._io("write", self._store, offset, buf)

    async def do_zero(self, offset: int, length: int, may_unmap: bool) -> None:
        await self._io("zero", self._store, offset, bytes(length))

    async def do_discard(self, offset: int, length: int) -> None:
        await self._io("discard", self._store, offset, bytes(length))

    async def do_flush(self) -> None:
        await self._io("flush", self._save)

    async def do_block_status(self, offset: int, length: int) -> Extent:
        return Extent(length, data=True, zero=False)

    async def do_truncate(self, size: int) -> None:
        await self._io("truncate", self._resize, size)

    def _load(self, offset: int, buf: memoryview) -> None:
        buf[:] = self.data[offset : offset + len(buf)]

    def _store(self, offset: int, buf: memoryview | bytes) -> None:
        self.data[offset : offset + len(buf)] = buf

    def _save(self) -> None:
        self.flushes += 1
        self.stable = bytes(self.data)

    def _resize(self, size: int) -> None:
        self.data = self.data[:size].ljust(size, b"\0")


class FarNode(MemoryNode):
    """A disk behind a connection, whose server `hangs` once it has had `patience` more requests.

    Then no request ends before somebody hangs up: it was carried out or not,
    as `is_late` says each time.  `is_local()`: there is no connection at the moment.
    """

    connected = True
    hangs = False
    patience: int | None = None
    given_up = False
    cuts = 0
    is_late: Callable[[], bool] = staticmethod(lambda: False)
    is_local: Callable[[], bool] = staticmethod(lambda: False)

    async def _io(self, what: str, work: Callable[..., None], *args: Any) -> None:
        if self.is_local():
            await super()._io(what, work, *args)
            return
        if self.patience is not None:
            self.patience -= 1
            self.hangs |= self.patience < 0
        cuts, late = self.cuts, self.is_late()
        if not late:
            await self._answered(cuts)
        await super()._io(what, work, *args)
        if late:
            await self._answered(cuts)

    async def _answered(self, cuts: int) -> None:
        await Until(lambda: not self.hangs or self.given_up or self.cuts != cuts)
        if self.given_up or self.cuts != cuts:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def cancel_in_flight(self) -> None:
        """It is connected, all the time."""

    def hang_up(self) -> None:
        self.cuts += 1

    def yank(self) -> None:
        self.given_up = True

    def go_on(self) -> None:
        """The server answers again."""
        self.hangs, self.patience = False, None


def perform(coro: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that has nobody to wait for; its result, or its exception raised."""
    routine = Routine(coro)
    routine.advance()
    while not routine.done:
        assert routine.call is not None, "it waits"
        try:
            value = routine.call.perform()
        except Exception as exc:
            routine.advance(error=exc)
        else:
            routine.advance(value)
    return routine.outcome()


def number_of(coro: Coroutine[Any, Any, Any]) -> int:
    """The errno that a request ends with, 0 if it succeeds."""
    try:
        perform(coro)
    except OSError as exc:
        return exc.errno or -1
    return 0


def new_machine(sim: Sim, *, prelaunch: bool = False) -> Machine:
    """A machine of the simulation, with its own loops running."""
    machine = Machine(
        sim, sim.random.getrandbits(32), region=sim.lock.region,
        asker=lambda: sim.lock.asker, directory="/", prelaunch=prelaunch
    )
    machine.spawn = sim.spawn
    sim.start("stop on error", machine.stopping.stop_on_error(), now=True)
    sim.start("flush after stop", machine.stopping.flush_after_stop(), now=True)
    return machine


def add_node(machine: Machine, node: BlockNode, *, monitor_owned: bool = False) -> None:
    """Put a node that was made by hand into the graph, its children being there."""
    machine.graph.nodes[node.node_name] = node
    node.monitor_owned = monitor_owned
    for child in node.children.values():
        child.parents.append(node)


def add_drive(
    machine: Machine,
    root: BlockNode,
    name: str = "vda",
    rerror: str = "report",
    werror: str = "enospc",
    **more: Any,
) -> BlockBackend:
    """A drive on `root`, which is added to the graph if it is not there."""
    if root.node_name not in machine.graph.nodes:
        add_node(machine, root)
    device = Device(path=f"/machine/peripheral/{name}/virtio-backend", id=f"{name}-device")
    blk = BlockBackend(
        machine,
        name=name,
        export=name,
        root=root,
        rerror=DeviceOnError(rerror),
        werror=DeviceOnError(werror),
        **{"device": device, **more},
    )
    machine.add_backend(blk)
    return blk


async def execute(machine: Machine, name: str, /, **arguments: Any) -> Any:
    """A QMP command as a client would send it, ``_`` for ``-``; gives the wire form of its reply.

    Arguments of commands that keep their underscores are found as well.
    """
    absent = machine.qemu.absent
    if name in absent:
        raise QmpError(f"The command {name} has not been found")
    command = table.commands[name]
    known = {member.wire_name for member in command.members}
    wire = {
        key if key in known else key.replace("_", "-"): value for key, value in arguments.items()
    }
    result = command.function(machine, **command.bind(wire, absent=absent))
    if isinstance(result, Encoded):
        return json.loads(result.text)
    return wire_without(absent)(await result if command.is_coroutine else result)


def shortcut(blk: BlockBackend) -> GuestShortcut | None:
    """Return the way that a drive's plain requests take once one has come the long way."""
    blk.renew_shortcut()
    return blk.shortcut
