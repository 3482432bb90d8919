# SPDX-License-Identifier: MIT
"""A volatile cache under several guests at once, full, and over storage that fails.

At each step of each run every crash state on offer is one that the model allows.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from random import Random

import pytest

from blockcore.bql.effects import Until
from blockcore.drive.block_backend import BlockBackend
from blockcore.machine.crash_clones import CrashClone, drop_clone, make_clone
from blockcore.machine.machine import Machine
from blockcore.nodes.definitions.options import BlockdevOptionsVolatileCache
from blockcore.nodes.driver import NodeOptions
from blockcore.nodes.drivers.crash_clone import CrashCloneNode
from blockcore.nodes.drivers.volatile_cache import VolatileCacheNode
from blockcore.qapi.errnos import HungUp
from blockcore.rules.crash_enumeration import enumerated
from blockcore.rules.crash_states import CrashState, Left, state_named
from crash_model import SECTOR, CrashModel
from sim import MemoryNode, Sim, add_drive, add_node, execute, new_machine, pause

SECTORS = 6
"""The sectors of each guest's own part of the disk."""

GUESTS = 3


class World:
    """A drive with a cache in memory over a disk in memory, whose requests `fail` says fail."""

    def __init__(
        self, seed: int, limit: int = 1 << 20, fail: Callable[[str], bool] = lambda what: False
    ) -> None:
        self.sim = Sim(seed)
        self.machine: Machine = new_machine(self.sim)
        self.fail = fail
        size = GUESTS * SECTORS * SECTOR
        options = NodeOptions(node_name="disk")
        self.disk = MemoryNode(options, self.machine, size, self._io)
        add_node(self.machine, self.disk)
        options = NodeOptions(node_name="cache")
        self.cache = VolatileCacheNode(options, self.machine, self.disk, limit)
        self.cache.definition = BlockdevOptionsVolatileCache(
            driver="x-volatile-cache", file="disk"
        )
        self.cache.size = size
        add_node(self.machine, self.cache)
        self.blk: BlockBackend = add_drive(self.machine, self.cache)
        self.life = 0
        self.models = [CrashModel(SECTORS) for _ in range(GUESTS)]

    def _io(self, what: str) -> None:
        if self.fail(what):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def after(self, state: CrashState) -> bytes:
        """What the disk has after a crash that leaves it in a state, also beside a flush."""
        disk, platter = bytearray(self.disk.data), self.cache.platter
        arriving = [] if platter.arriving is None else [platter.arriving]
        for piece in (*arriving, *platter.before, *state.pieces(self.cache.log)):
            disk[piece.start : piece.end] = piece.data or bytes(piece.end - piece.start)
        return bytes(disk)

    def allows(self, disk: bytes) -> bool:
        """Tell whether each guest's part is one that its model allows."""
        part = SECTORS * SECTOR
        return all(
            model.allows(disk[at * part : (at + 1) * part]) for at, model in enumerate(self.models)
        )

    def check(self) -> None:
        """Look at some of the crash states that there are now."""
        for state in enumerated(self.cache.log, 6, torn=True):
            assert self.allows(self.after(state)), state.name


async def guest(
    world: World, number: int, random: Random, steps: int, life: int = 0
) -> None:
    """Write, flush and read in a part of the disk; what may be after a crash is in the model.

    A power cut ends it: then the world has another `life`.
    """
    if world.life != life:
        return
    blk, model, base = world.blk, world.models[number], number * SECTORS * SECTOR
    for step in range(steps):
        kind = random.random()
        if kind < 0.2:
            before = list(model.now)
            try:
                await blk.flush()
            except OSError:
                if world.life != life:
                    return
                continue
            if world.life != life:
                return
            assert before == model.now
            model.flush()
            continue
        first = random.randrange(SECTORS)
        length = SECTOR * random.randint(1, SECTORS - first)
        data = b"" if kind < 0.4 else bytes([1 + number * 80 + step % 80])
        data = data * length or bytes(length)
        fua = kind > 0.85
        seen = list(model.now)
        model.write(first * SECTOR, data)
        written = True
        offset = base + first * SECTOR
        try:
            if not any(data):
                await blk.zero(offset, length, may_unmap=True, fua=fua)
            else:
                await blk.pwrite(offset, memoryview(data), fua=fua)
        except OSError:
            written = False
        if world.life != life:
            return
        buf = memoryview(bytearray(SECTORS * SECTOR))
        try:
            await blk.pread(base, buf)
        except OSError:
            return
        if world.life != life:
            return
        found = [bytes(buf[at : at + SECTOR]) for at in range(0, len(buf), SECTOR)]
        if written:
            assert found == model.now
            if fua:
                model.write(first * SECTOR, data, fua=True)
        else:
            assert found in (model.now, seen)
            model.now = found


@pytest.mark.parametrize("seed", range(12))
def test_guests_at_once(seed: int) -> None:
    """With room and without, over storage that fails and that does not."""
    failing = Random(seed)
    rate = (0, 0, 0.1)[seed % 3]
    # Reads do not fail: a guest that cannot read cannot tell what is there.
    world = World(
        seed,
        limit=(1 << 20, 3000, 6000, 1)[seed % 4],
        fail=lambda what: what != "read" and failing.random() < rate,
    )
    world.sim.checks.append(world.check)
    for number in range(GUESTS):
        world.sim.start(f"guest {number}", guest(world, number, Random(seed + number), 25))
    world.sim.run()
    rate = 0
    world.sim.checks.clear()
    world.sim.start("end", world.machine.close())
    world.sim.run()
    now = b"".join(sector for model in world.models for sector in model.now)
    assert bytes(world.disk.data) == world.disk.stable == now
    assert not len(world.cache.log) and not world.cache.log.cost


def test_a_failed_flush_loses_nothing() -> None:
    failing = True
    world = World(1, fail=lambda what: failing and what in ("write", "flush"))

    async def work() -> None:
        await world.blk.pwrite(0, memoryview(b"x" * SECTOR))
        for _ in range(2):
            with pytest.raises(OSError):
                await world.blk.flush()
            assert len(world.cache.log) == 1

    world.sim.start("guest", work())
    world.sim.run()
    failing = False
    world.sim.start("flush", world.blk.flush())
    world.sim.run()
    assert world.disk.stable[:SECTOR] == b"x" * SECTOR and not len(world.cache.log)


def test_the_oldest_makes_room() -> None:
    world = World(2, limit=3 * 1024)

    async def work() -> None:
        for number in range(5):
            await world.blk.pwrite(number * SECTOR, memoryview(bytes([number + 1]) * SECTOR))

    world.sim.start("guest", work())
    world.sim.run()
    assert world.cache.log.numbers == [3, 4, 5]
    assert bytes(world.disk.data[: 5 * SECTOR : SECTOR]) == bytes([1, 2, 0, 0, 0])
    assert world.disk.flushes == 0


def test_a_write_with_fua_brings_down_its_own_bytes_only() -> None:
    world = World(3)

    async def work() -> None:
        await world.blk.pwrite(0, memoryview(b"a" * 3 * SECTOR))
        await world.blk.pwrite(SECTOR, memoryview(b"b" * SECTOR), fua=True)

    world.sim.start("guest", work())
    world.sim.run()
    assert bytes(world.disk.stable[: 3 * SECTOR : SECTOR]) == b"\0b\0"
    assert {world.after(state)[: 3 * SECTOR : SECTOR] for state in enumerated(
        world.cache.log, 100, torn=True
    )} == {b"\0b\0", b"ab\0", b"\0ba", b"aba"}


@pytest.mark.parametrize("seed", range(8))
def test_clones_stay_as_they_are_beside_guests(seed: int) -> None:
    """Each has what it was made with, whatever the live drive does, and its own client's writes."""
    world = World(seed, limit=(1 << 20, 3000)[seed % 2])
    clones: list[tuple[CrashClone, bytearray]] = []
    random = Random(seed)

    async def look(clone: CrashClone, expected: bytearray) -> None:
        part = memoryview(bytearray(2 * SECTOR))
        for step in range(8):
            at = random.randrange(world.cache.size - len(part))
            if step % 3 == 2:
                data = bytes([250 - step]) * random.randint(1, len(part))
                expected[at : at + len(data)] = data
                await clone.pwrite(at, memoryview(data))
            else:
                await clone.pread(at, part)
                assert part == expected[at : at + len(part)]

    async def make() -> None:
        for number in range(6):
            await pause()
            await pause()
            state = random.choice(enumerated(world.cache.log, 20, torn=True))
            clone = make_clone(world.machine, world.cache, f"c{number}", state)
            # At the step of the clone: nothing runs between these lines.
            clones.append((clone, bytearray(world.after(state))))
            world.sim.start(f"client {number}", look(*clones[-1]))

    for number in range(GUESTS):
        world.sim.start(f"guest {number}", guest(world, number, Random(seed + number), 20))
    world.sim.start("make", make())
    world.sim.run()

    async def drop() -> None:
        await world.blk.flush()
        for clone, expected in clones:
            disk = memoryview(bytearray(world.cache.size))
            await clone.pread(0, disk)
            assert disk == expected
            await drop_clone(world.machine, clone.export)

    world.sim.start("drop", drop())
    world.sim.run()
    assert not world.machine.clones and not world.cache.platter.watchers
    now = b"".join(sector for model in world.models for sector in model.now)
    assert world.disk.stable == now


def test_a_clone_that_cannot_be_kept_is_spoilt_and_the_drive_goes_on() -> None:
    failing = False
    world = World(5, fail=lambda what: failing and what == "read")
    told: list[str] = []
    world.machine.warn = told.append
    state = enumerated(world.cache.log, 1, torn=True)[0]
    clone = make_clone(world.machine, world.cache, "c", state)

    async def work() -> None:
        nonlocal failing
        failing = True
        await world.blk.pwrite(0, memoryview(b"x" * SECTOR), fua=True)
        failing = False
        with pytest.raises(OSError, match="Input/output error"):
            await clone.pread(0, memoryview(bytearray(SECTOR)))

    world.sim.start("guest", work())
    world.sim.run()
    assert world.disk.stable[:SECTOR] == b"x" * SECTOR
    told_of = "the crash clone on cache after a crash: 1-0:none"
    assert told == [f"{told_of} is spoilt: Input/output error"]


def test_a_clone_without_room() -> None:
    world = World(6)
    world.disk.data[:] = b"o" * len(world.disk.data)
    state = enumerated(world.cache.log, 1, torn=True)[0]
    options = NodeOptions(node_name="clone")
    node = CrashCloneNode(options, world.machine, world.cache, state, room=2 * SECTOR)

    async def work() -> None:
        for at in (0, SECTOR, 0, SECTOR):
            await node.pwrite(at, memoryview(b"c" * SECTOR))
        with pytest.raises(OSError, match="No space left"):
            await node.pwrite(2 * SECTOR, memoryview(b"c" * SECTOR))
        await world.blk.pwrite(0, memoryview(b"x" * SECTOR), fua=True)
        assert not node.spoilt  # its client has written there: nothing is to be saved
        await world.blk.pwrite(4 * SECTOR, memoryview(b"x" * SECTOR), fua=True)
        assert node.spoilt

    world.sim.start("guest", work())
    world.sim.run()


@pytest.mark.parametrize("seed", range(12))
def test_what_waits_for_room_ends_with_the_power(seed: int) -> None:
    """A write that waits while the power goes and comes back belongs to the time before."""
    world = World(seed, limit=1)
    begun = 0
    lost = 0

    async def write(number: int) -> None:
        nonlocal begun, lost
        begun += 1
        try:
            await world.cache.pwrite(number * SECTOR, memoryview(b"x" * SECTOR))
            assert world.cache.powered
        except HungUp:
            lost += 1

    async def cut() -> None:
        await Until(lambda: begun == SECTORS)
        world.cache.lose_power()
        await world.cache.restore_power(enumerated(world.cache.log, 1, torn=False)[0])

    for number in range(SECTORS):
        world.sim.start(f"write {number}", write(number))
    world.sim.start("cut", cut())
    world.sim.run()
    assert lost and world.cache.log.numbers == []


@pytest.mark.parametrize("seed", range(8))
def test_cuts_at_any_moment(seed: int) -> None:
    """What was answered as stable is there, whatever is under way, and nothing comes back later."""
    world = World(seed, limit=(1 << 20, 3000)[seed % 2])

    async def cut() -> None:
        for number in range(4):
            for _ in range(3 + seed):
                await pause()
            keep = ("none", "prefix", "random", "all")[(seed + number) % 4]
            world.life += 1
            lost = await execute(world.machine, "x-power-cut", device="vda", keep=keep, seed=seed)
            assert lost["unusable"] == []
            # No guest has begun anew: what is there now is what there is to begin with.
            assert not len(world.cache.log) and world.allows(bytes(world.disk.data))
            for number, model in enumerate(world.models):
                part = world.disk.data[number * SECTORS * SECTOR :][: SECTORS * SECTOR]
                model.now = [bytes(part[at : at + SECTOR]) for at in range(0, len(part), SECTOR)]
                model.flush()
            for number in range(GUESTS):
                name = f"guest {world.life} {number}"
                again = guest(world, number, Random(seed + number), 12, world.life)
                world.sim.start(name, again)

    for number in range(GUESTS):
        world.sim.start(f"guest {number}", guest(world, number, Random(seed + number), 12))
    world.sim.start("cut", cut())
    world.sim.run()
    assert world.life == 4


class Moment:
    """A world, with guests at work in it, after so many steps; the same each time it is made."""

    def __init__(self, seed: int, steps: int) -> None:
        failing, self.reached = Random(seed), False
        rate = (0, 0.2, 0.5)[seed % 3]
        self.world = World(
            seed,
            limit=(1 << 20, 1 << 20, 3000)[seed // 3 % 3],
            fail=lambda what: what != "read" and not self.reached and failing.random() < rate,
        )
        for number in range(GUESTS):
            work = guest(self.world, number, Random(seed + number), 12)
            self.world.sim.start(f"guest {number}", work, now=True)
        run_steps(self.world.sim, steps)
        self.reached = True

    @property
    def within_a_flush(self) -> bool:
        return len(self.world.cache.platter.before) > 0

    def clones(self, names: list[str]) -> list[bytes]:
        """What clones show, while the drive goes on, whose states have these names."""
        world, found = self.world, []
        clones = [
            make_clone(world.machine, world.cache, name, state_named(name, world.cache.log))
            for name in names
        ]

        async def look() -> None:
            for clone in clones:
                await pause()
                disk = memoryview(bytearray(world.cache.size))
                await clone.pread(0, disk)
                found.append(bytes(disk))

        world.sim.start("look", look())
        world.sim.run()
        return found

    def cut(self, name: str) -> tuple[bytes, Left]:
        """What the medium has after a power cut, and what is told of it."""
        world = self.world
        found: list[tuple[bytes, Left]] = []
        world.life += 1

        async def lose() -> None:
            state = state_named(name, world.cache.log)
            world.cache.lose_power()
            told = await world.cache.restore_power(state)
            found.append((bytes(world.disk.data), told))

        world.sim.start("cut", lose(), now=True)
        world.sim.run()
        return found[0]


@pytest.mark.parametrize("seed", range(9))
def test_clones_and_cuts_agree_at_every_moment(seed: int) -> None:
    """Within flushes as well, and after writes that have failed: so does what is told of them."""
    moments = 0
    for steps in range(seed % 7, 200, 7):
        moment = Moment(seed, steps)
        world, log = moment.world, moment.world.cache.log
        if not moment.within_a_flush and steps % 3:
            continue
        states = enumerated(log, 40, torn=True)
        counts = {state.name: state.counts(log) for state in states}
        names = [states[at].name for at in {0, len(states) // 2, len(states) - 1}]
        moments += moment.within_a_flush
        models = [[set(may) for may in model.allowed] for model in world.models]
        found = moment.clones(names)
        for name, disk in zip(names, found, strict=True):
            sectors = [disk[at : at + SECTOR] for at in range(0, len(disk), SECTOR)]
            allowed = [may for model in models for may in model]
            assert all(one in may for one, may in zip(sectors, allowed, strict=True)), name
            left, told = Moment(seed, steps).cut(name)
            assert left == disk, (steps, name)
            assert (told.state.name, told.counts, told.refused) == (name, counts[name], [])
    assert moments > 3


def run_steps(sim: Sim, steps: int) -> None:
    left = iter(range(steps))
    sim.run(lambda: next(left, None) is None)


def test_each_moment_of_a_flush_has_all_states() -> None:
    """A flush of two writes: each of four contents is there once, before each of its steps."""
    found: list[set[bytes]] = []
    for steps in range(30):
        world = World(4)

        async def work(world: World = world) -> None:
            await world.cache.pwrite(0, memoryview(b"a" * SECTOR))
            await world.cache.pwrite(2 * SECTOR, memoryview(b"b" * SECTOR))
            await world.cache.flush()

        world.sim.start("guest", work())
        run_steps(world.sim, steps)
        log = world.cache.log
        names = [state.name for state in enumerated(log, 100, torn=True)]
        clones = [
            make_clone(world.machine, world.cache, name, state_named(name, log)) for name in names
        ]
        disks: list[bytes] = []

        async def look(clones: list[CrashClone] = clones, disks: list[bytes] = disks) -> None:
            for clone in clones:
                disk = memoryview(bytearray(3 * SECTOR))
                await clone.pread(0, disk)
                disks.append(bytes(disk[::SECTOR]))

        world.sim.start("look", look())
        world.sim.run()
        assert len(disks) == len(set(disks)), steps
        if set(disks) not in found:
            found.append(set(disks))
    assert found[-2:] == [{b"\0\0\0", b"a\0\0", b"\0\0b", b"a\0b"}, {b"a\0b"}]
