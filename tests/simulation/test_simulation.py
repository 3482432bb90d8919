# SPDX-License-Identifier: MIT
"""Machines under random, exhaustive and unlucky schedules, watched at every step.

Guests read, write and flush regions of their own and know what may be in them;
administrators send commands; a witness holds every event and every step
against the rules of run state, io-status, policies and accounting.
"""

from __future__ import annotations

import errno
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from blockcore.drive.block_backend import BlockBackend
from blockcore.drive.guest_request import Wait
from blockcore.machine.machine import Machine
from blockcore.nodes.driver import NodeOptions
from blockcore.qapi.events import BlockIoError, Event, Resume, Stop
from blockcore.qapi.names import (
    BlockDeviceIoStatus,
    DeviceErrorAction,
    IoOperationType,
    OnStop,
    RunState,
    UInt32,
)
from blockcore.rules.accounting import AcctType
from blockcore.rules.policy import Retry
from sim import Every, MemoryNode, Sim, add_drive, execute, new_machine, pause

BLOCK = 512
GUEST_BLOCKS = 4
DISK = 64 * BLOCK

RETRY = Retry(interval_ms=UInt32(10), timeout_ms=UInt32(25))

Script = list[tuple[Any, ...]]
"""Methods of a guest with their arguments, or commands with theirs (a dict)."""


class Witness:
    """Sees every event and looks at the machine after every step."""

    def __init__(self, sim: Sim, machine: Machine) -> None:
        self.sim = sim
        self.machine = machine
        self.running = machine.vm.running
        self.stop_owed = False
        self.resume_due = False
        self.ignored: Counter[tuple[str, IoOperationType]] = Counter()
        machine.listeners.append(self.event)
        sim.checks.append(self.step)

    def require(self, truth: bool, rule: str) -> None:
        if not truth:
            raise AssertionError(f"{rule}\n{self.sim.story()}")

    def event(self, event: Event, now_ns: int) -> None:
        self.sim.note(f"<- {event}")
        self.require(not self.resume_due or isinstance(event, Resume), "STOP, RESUME: a pair")
        match event:
            case Stop():
                self.require(self.running, "no STOP without RESUME before it")
                self.running, self.stop_owed = False, False
                self.resume_due = self.machine.vm.running
            case Resume():
                self.require(not self.running, "no RESUME without STOP before it")
                self.require(not self.stop_owed, "an error's STOP comes before RESUME")
                self.running, self.resume_due = True, False
            case BlockIoError():
                self.io_error(event)

    def io_error(self, event: BlockIoError) -> None:
        blk = self.machine.find.drive(event.device)
        assert blk is not None
        self.require((event.nospace is not None) == blk.iostatus_enabled, "nospace if io-status")
        self.require(event.node_name == blk.root.node_name, "the node under the device")
        if event.action is DeviceErrorAction.STOP:
            self.require(blk.iostatus is not BlockDeviceIoStatus.OK, "io-status before its event")
            self.stop_owed = self.stop_owed or self.running
        if event.action is DeviceErrorAction.IGNORE:
            self.ignored[event.device, event.operation] += 1

    def step(self) -> None:
        vm = self.machine.vm
        self.require(vm.running == self.running, "the events tell the run state")
        self.require(not self.resume_due, "STOP alone comes after the state has changed")
        self.require(not self.stop_owed or vm.stop_requested is not None, "a stop is on its way")
        for blk in self.machine.backends:
            if held_requests(blk):
                stopping = vm.stop_requested is not None
                self.require(not blk.may_run() or stopping, "held only while it must be")
                refused = blk.on_stop is OnStop.ESHUTDOWN and not vm.running and not stopping
                self.require(not refused, "nothing is held that is to fail")
            if any(request.waits_for is Wait.RETRY for request in blk.open_requests()):
                self.require(vm.running, "no request of a stopped machine is tried again")


def held_requests(blk: BlockBackend) -> int:
    """How many requests of a drive wait for the machine."""
    return sum(request.waits_for is Wait.HOLD for request in blk.open_requests())


class Guest:
    """Uses the blocks from `first` on, and knows which bytes each of them may consist of."""

    def __init__(self, witness: Witness, name: str, blk: BlockBackend, first: int) -> None:
        self.witness = witness
        self.sim = witness.sim
        self.name = name
        self.blk = blk
        self.first = first
        self.expected: list[set[int]] = [{0} for _ in range(GUEST_BLOCKS)]
        self.tally: Counter[tuple[AcctType, str]] = Counter()
        self.written = 0

    async def run(self, script: Script) -> None:
        for index, (method, *arguments) in enumerate(script):
            if index:
                await pause()
            await getattr(self, method)(*arguments)

    def random_script(self, length: int) -> Script:
        choice = self.sim.random.choice
        script: Script = []
        for _ in range(length):
            block = self.sim.random.randrange(GUEST_BLOCKS)
            count = self.sim.random.randint(1, GUEST_BLOCKS - block)
            script.append(
                choice(
                    [
                        ("read", block, count),
                        ("write", block, count),
                        ("write", block, count, True),
                        ("zero", block, count),
                        ("discard", block, count),
                        ("flush",),
                        ("beyond",),
                    ]
                )
            )
        return script

    async def read(self, block: int, count: int) -> None:
        buf = memoryview(bytearray(b"\xee" * (count * BLOCK)))
        outcome = await self.request(
            AcctType.READ, f"read {block}+{count}", self.blk.pread(self.offset(block), buf)
        )
        if outcome == "ignored":
            self.require(self.fits(block, buf) or not any(buf), "an ignored read gives zeroes")
        elif outcome == "ok":
            self.require(self.fits(block, buf), f"read {bytes(buf[::BLOCK])!r}")
            for index, value in enumerate(buf[::BLOCK], block):
                self.expected[index] = {value}

    async def write(self, block: int, count: int, fua: bool = False) -> None:
        self.written += 1
        value = self.written % 255 + 1
        buf = memoryview(bytes([value]) * (count * BLOCK))
        outcome = await self.request(
            AcctType.WRITE,
            f"write {block}+{count} {value} {'FUA' * fua}",
            self.blk.pwrite(self.offset(block), buf, fua),
        )
        self.changed(block, count, value, outcome)
        if outcome == "ok" and fua:
            self.require_stable(block, count)

    async def zero(self, block: int, count: int) -> None:
        coro = self.blk.zero(self.offset(block), count * BLOCK, may_unmap=True)
        outcome = await self.request(AcctType.WRITE, f"zero {block}+{count}", coro)
        self.changed(block, count, 0, outcome)

    async def discard(self, block: int, count: int) -> None:
        coro = self.blk.discard(self.offset(block), count * BLOCK)
        outcome = await self.request(None, f"discard {block}+{count}", coro)
        self.changed(block, count, 0, outcome)

    async def flush(self) -> None:
        if await self.request(AcctType.FLUSH, "flush", self.blk.flush()) == "ok":
            self.require_stable(0, GUEST_BLOCKS)

    async def beyond(self) -> None:
        """A request behind the end of any size the disk ever has."""
        buf = memoryview(bytes(BLOCK))
        outcome = await self.request(AcctType.WRITE, "beyond", self.blk.pwrite(4 * DISK, buf))
        self.require(outcome in ("invalid", "dropped"), "refused")

    async def request(self, kind: AcctType | None, what: str, coro: Awaitable[None]) -> str:
        """Carry out a request and tell how it went; the policy is not the guest's business."""
        operation = IoOperationType.READ if kind is AcctType.READ else IoOperationType.WRITE
        ignored = self.witness.ignored[self.blk.name, operation]
        self.sim.note(f"{self.name}: {what}")
        try:
            await coro
            outcome = counted = "ok"
            if self.witness.ignored[self.blk.name, operation] != ignored:
                outcome = "ignored"
        except OSError as exc:
            names = {errno.EINVAL: "invalid", errno.ESHUTDOWN: "dropped"}
            outcome = counted = names.get(exc.errno or 0, "failed")
        self.sim.note(f"{self.name}: {what}: {outcome}")
        if kind is not None:
            self.tally[kind, counted] += 1
        return outcome

    def changed(self, block: int, count: int, value: int, outcome: str) -> None:
        for index in range(block, block + count):
            if outcome == "ok":
                self.expected[index] = {value}
            else:
                self.expected[index] = self.expected[index] | {value}

    def fits(self, block: int, buf: memoryview) -> bool:
        return all(
            set(buf[start : start + BLOCK]) <= self.expected[index]
            and len(set(buf[start : start + BLOCK])) == 1
            for index, start in enumerate(range(0, len(buf), BLOCK), block)
        )

    def require_stable(self, block: int, count: int) -> None:
        root = self.blk.root
        assert isinstance(root, MemoryNode)
        start = self.offset(block)
        saved = memoryview(root.stable)[start : start + count * BLOCK]
        self.require(self.fits(block, saved), "what was flushed is stable")

    def require(self, truth: bool, rule: str) -> None:
        self.witness.require(truth, f"{self.name}: {rule} {self.expected}")

    def offset(self, block: int) -> int:
        return (self.first + block) * BLOCK


class World:
    """A machine with a drive or two in memory, guests, administrators and a witness."""

    def __init__(self, sim: Sim, drives: list[tuple[str, str]]) -> None:
        self.sim = sim
        self.machine = new_machine(sim)
        self.witness = Witness(sim, self.machine)
        self.guests: list[Guest] = []
        self.io_count = 0
        self.fails: Callable[[int], int] = lambda count: 0
        for index, (rerror, werror) in enumerate(drives):
            options = NodeOptions(node_name=f"node{index}")
            node = MemoryNode(options, self.machine, DISK, self.on_io)
            add_drive(self.machine, node, f"vd{index}", rerror, werror, retry=RETRY)

    def on_io(self, what: str) -> None:
        """Called for every I/O that reaches a disk; `fails` gives its errno, or 0."""
        if what == "truncate":
            return
        self.io_count += 1
        number = self.fails(self.io_count)
        self.sim.note(f"disk: {what} ({self.io_count}){' fails' * bool(number)}")
        if number:
            raise OSError(number, "injected")

    def add_guest(self, script: Script | None = None, drive: int = 0) -> Guest:
        blk = self.machine.backends[drive]
        number = len(self.guests)
        guest = Guest(self.witness, f"guest{number}", blk, number * GUEST_BLOCKS)
        self.guests.append(guest)
        self.sim.start(guest.name, guest.run(script or guest.random_script(8)))
        return guest

    def add_admin(self, script: Script) -> None:
        self.sim.start(f"admin{len(self.sim.running)}{len(script)}", self.administrate(script))

    async def administrate(self, script: Script) -> None:
        for index, (command, arguments) in enumerate(script):
            if index:
                await pause()
            await self.command(command, **arguments)

    async def command(self, name: str, **arguments: Any) -> Any:
        self.sim.note(f"-> {name} {arguments}")
        result = await execute(self.machine, name, **arguments)
        self.sim.note(f"{name}: {str(result)[:80]}")
        if name == "cont":
            good = all(blk.iostatus is BlockDeviceIoStatus.OK for blk in self.machine.backends)
            self.witness.require(good, "cont makes every io-status ok")
        return result

    def finish(self) -> None:
        """Repair everything, let it run, and settle the accounts."""
        self.sim.run()
        self.sim.be_orderly()
        self.fails = lambda count: 0
        self.settle("x-fault-clear")
        for _ in range(3):
            self.settle("cont")
        waiting = set(self.sim.running) - {"stop on error", "flush after stop"}
        self.witness.require(not waiting, f"{waiting} never end")
        self.witness.require(self.machine.vm.state is RunState.RUNNING, "running")
        for blk in self.machine.backends:
            self.witness.require(blk.quiet() and not held_requests(blk), "quiet")
            queues = blk.throttle.queues.values() if blk.throttle else ()
            self.witness.require(not any(queues), "no request is left in a throttle queue")
            self.check_accounts(blk)
        for guest in self.guests:
            self.sim.start(guest.name, guest.run([("read", 0, GUEST_BLOCKS), ("flush",)]))
        self.sim.run()

    def settle(self, command: str) -> None:
        self.sim.start(command, self.command(command))
        self.sim.run()

    def check_accounts(self, blk: BlockBackend) -> None:
        """Every request of every guest is in exactly one counter of its drive."""
        told: Counter[tuple[AcctType, str]] = Counter()
        for guest in self.guests:
            if guest.blk is blk:
                told += guest.tally
        for kind, tally in blk.stats().tallies.items():
            counted = (tally.operations, tally.failed, tally.invalid)
            wanted = tuple(told[kind, outcome] for outcome in ("ok", "failed", "invalid"))
            self.witness.require(counted == wanted, f"{kind}: counted {counted}, not {wanted}")


POLICIES = list(
    itertools.product(("report", "ignore", "stop"), ("report", "ignore", "stop", "enospc"))
)

THROTTLE = {"bps": 0, "bps_rd": 0, "bps_wr": 0, "iops_rd": 0, "iops_wr": 0, "device": "vd0"}

COMMANDS: Script = [
    *(4 * [("cont", {})]),
    *(2 * [("stop", {})]),
    ("system_reset", {}),
    ("x-fault-add", {"node_name": "vd0", "errno": "ENOSPC", "iotype": "write", "count": 2}),
    ("x-fault-add", {"node_name": "vd0", "errno": "EIO", "iotype": "read", "rate": 0.5}),
    ("x-fault-add", {"node_name": "vd0", "offset": 3 * BLOCK, "length": BLOCK, "after": 2}),
    ("x-fault-add", {"node_name": "vd0", "iotype": "flush", "once": True}),
    ("x-fault-clear", {}),
    ("x-query-faults", {}),
    ("x-query-requests", {}),
    ("x-drive-set-policy", {"device": "vd0", "rerror": "report", "werror": "ignore"}),
    ("x-drive-set-policy", {"device": "node0", "rerror": "stop", "werror": "stop"}),
    ("x-drive-set-policy", {"device": "node0", "rerror": "retry", "werror": "retry"}),
    ("x-drive-set-policy", {"device": "vd0", "x_on_stop": "eshutdown"}),
    ("x-drive-set-policy", {"device": "vd0", "x_on_stop": "hold"}),
    ("block_resize", {"device": "vd0", "size": 2 * DISK}),
    ("block_resize", {"node_name": "node0", "size": DISK}),
    ("block-set-write-threshold", {"node_name": "node0", "write_threshold": 5 * BLOCK}),
    ("block_set_io_throttle", {**THROTTLE, "iops": 0}),
    ("block_set_io_throttle", {**THROTTLE, "iops": 100}),
    ("block_set_io_throttle", {**THROTTLE, "iops": 40, "group": "both"}),
    ("block_set_io_throttle", {**THROTTLE, "iops": 40, "group": "both", "device": "vd1"}),
    ("query-status", {}),
    ("query-block", {}),
    ("query-blockstats", {}),
    ("query-named-block-nodes", {}),
]


@pytest.mark.parametrize("seed", range(300))
def test_seeds(seed: int) -> None:
    """Two drives, four guests, two administrators, and disks that fail now and then."""
    sim = Sim(seed)
    world = World(sim, [sim.random.choice(POLICIES), sim.random.choice(POLICIES)])
    rate = sim.random.choice([0.0, 0.1, 0.5])
    world.fails = lambda count: sim.random.random() < rate and sim.random.choice(
        [errno.EIO, errno.ENOSPC]
    )
    for drive in (0, 0, 0, 1):
        world.add_guest(drive=drive)
    for _ in range(2):
        world.add_admin([sim.random.choice(COMMANDS) for _ in range(10)])
    world.finish()


SCENARIO: Script = [
    ("write", 0, 2),
    ("read", 0, 2),
    ("write", 1, 2, True),
    ("flush",),
    ("zero", 2, 2),
    ("discard", 0, 1),
    ("read", 0, 4),
    ("flush",),
]


@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize(("rerror", "werror"), [*POLICIES, ("retry", "retry")])
def test_every_io_fails_in_turn(rerror: str, werror: str, number: int, persistent: bool) -> None:
    """The first I/O fails, then the second, ... until the fault comes too late."""
    for nth in itertools.count(1):
        world = World(Sim(nth), [(rerror, werror)])
        world.fails = lambda count, n=nth: number * (  # type: ignore[misc]
            count >= n if persistent else count == n
        )
        for _ in range(2):
            world.add_guest(SCENARIO)
        world.add_admin([("stop", {}), ("cont", {}), ("cont", {})])
        world.sim.run()
        over = world.io_count < nth
        world.finish()
        if over:
            break
    assert nth > 10


WRITE: Script = [("write", 0, 1)]
FLUSH: Script = [("flush",)]
STOP: tuple[Any, ...] = ("stop", {})
CONT: tuple[Any, ...] = ("cont", {})
RESET: tuple[Any, ...] = ("system_reset", {})
REFUSE: tuple[Any, ...] = ("x-drive-set-policy", {"device": "vd0", "x_on_stop": "eshutdown"})
RESIZE: tuple[Any, ...] = ("block_resize", {"device": "vd0", "size": 2 * DISK})

SMALL: dict[str, tuple[str, int, list[Script], list[Script]]] = {
    "a failed write and cont": ("stop", 2, [WRITE], [[CONT]]),
    "a failed write and stop, cont": ("stop", 2, [WRITE], [[STOP, CONT]]),
    "a failed write and two that continue": ("stop", 1, [WRITE], [[CONT], [CONT]]),
    "a failed write, stop, and one that continues": ("stop", 1, [WRITE], [[STOP], [CONT]]),
    "a failed write and a reset": ("stop", 2, [WRITE], [[RESET]]),
    "a failed write, reset and cont": ("stop", 2, [WRITE], [[RESET, CONT]]),
    "two failed writes": ("stop", 2, [WRITE, WRITE], []),
    "two writes, one of them failed, and cont": ("stop", 1, [WRITE, WRITE], [[CONT]]),
    "a reported write and stop": ("report", 2, [WRITE], [[STOP], [CONT]]),
    "an ignored write and stop": ("ignore", 2, [WRITE], [[STOP], [CONT]]),
    "a flush and stop": ("stop", 2, [FLUSH], [[STOP, CONT]]),
    "a write, a flush and stop": ("stop", 0, [WRITE, FLUSH], [[STOP]]),
    "a write tried again and stop, cont": ("retry", 2, [WRITE], [[STOP, CONT]]),
    "a write tried again and a reset": ("retry", 2, [WRITE], [[RESET]]),
    "a write tried in vain, and stop": ("retry", 5, [WRITE], [[STOP]]),
    "a write tried again, and a resize": ("retry", 2, [WRITE], [[RESIZE]]),
    "a failed write that nobody holds": ("stop", 1, [WRITE], [[REFUSE], [CONT]]),
    "a resize under a write": ("stop", 1, [WRITE], [[RESIZE, CONT]]),
}
"""The policy, how many of the first I/Os fail, what guests do, what administrators do."""


@pytest.mark.parametrize(("werror", "failures", "guests", "admins"), SMALL.values(), ids=SMALL)
def test_all_interleavings(
    werror: str, failures: int, guests: list[Script], admins: list[Script]
) -> None:
    """Every order of the steps of a few short actors."""
    runs = 0
    for choose in Every():
        world = World(Sim(choose), [("stop", werror)])
        world.fails = lambda count: errno.ENOSPC if count <= failures else 0
        for script in guests:
            world.add_guest(script)
        for script in admins:
            world.add_admin(script)
        world.finish()
        runs += 1
    assert runs > 2
