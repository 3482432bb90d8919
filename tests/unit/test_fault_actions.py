# SPDX-License-Identifier: MIT
"""What each kind of fault does to data, to the byte."""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from statistics import mean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcore.faults.bad import Healed
from blockcore.faults.delay import Delay, DelayDistribution
from blockcore.faults.dice import Dice
from blockcore.faults.disconnect import Disconnect
from blockcore.faults.injector import FaultInjector
from blockcore.faults.kinds import FAULT_OPTIONS
from blockcore.faults.lost import Torn, TornKeep, runs
from blockcore.faults.options import Request
from blockcore.machine.machine import Machine
from blockcore.nodes.driver import NodeOptions
from blockcore.qapi.errnos import HungUp
from blockcore.qapi.events import Event, XFaultTriggered
from blockcore.qapi.names import (
    BlockdevDetectZeroesOptions,
    FaultIOType,
    QmpError,
    UInt32,
    UInt64,
)
from blockcore.qapi.schema import parse
from rules import Host
from sim import MemoryNode, Sim, new_machine, number_of, perform

BLOCK = 4096
SIZE = 16 * BLOCK
SECTOR = 512
READ = FaultIOType.READ


class World:
    """A disk in memory, full of `1`, whose machine has a simulated clock."""

    def __init__(self) -> None:
        self.sim = Sim(0)
        self.machine: Machine = new_machine(self.sim)
        self.disk = MemoryNode(NodeOptions(node_name="disk"), self.machine, SIZE)
        self.disk.data[:] = b"1" * SIZE

    def rule(self, action: str, **members: Any) -> Any:
        """Add a rule as x-fault-add does, and return it."""
        named = {name.replace("_", "-"): value for name, value in members.items()}
        options = parse(FAULT_OPTIONS, {"node-name": "disk", "action": action, **named})
        options.check()
        return self.disk.injector().add(options)

    def write(self, offset: int, data: bytes) -> int:
        return number_of(self.disk.pwrite(offset, memoryview(bytearray(data))))

    def read(self, offset: int, length: int) -> bytes:
        buf = memoryview(bytearray(length))
        perform(self.disk.pread(offset, buf))
        return bytes(buf)


@pytest.fixture(name="world")
def _world() -> World:
    return World()


def test_what_is_dropped_is_told_as_done(world: World) -> None:
    world.rule("drop", offset=0, length=2 * BLOCK)
    assert world.write(0, b"2" * BLOCK) == 0
    assert number_of(world.disk.discard(BLOCK, BLOCK)) == 0
    assert number_of(world.disk.zero(0, BLOCK, may_unmap=False)) == 0
    assert world.write(2 * BLOCK, b"2" * BLOCK) == 0
    assert world.disk.data[: 3 * BLOCK] == b"1" * 2 * BLOCK + b"2" * BLOCK
    assert world.read(0, BLOCK) == b"1" * BLOCK


def test_a_flush_that_lies(world: World) -> None:
    world.rule("drop", iotype="flush")
    world.write(0, b"2")
    assert number_of(world.disk.flush()) == 0
    assert (world.disk.flushes, world.disk.stable[:1]) == (0, b"\0")
    world.disk.injector().clear()
    world.write(0, b"2")
    perform(world.disk.flush())
    assert world.disk.stable[:1] == b"2"


@pytest.mark.parametrize(
    ("keep", "sectors", "kept"),
    [("prefix", 3, "222....."), ("suffix", 3, ".....222"), ("prefix", 0, "........"),
     ("suffix", 99, "22222222")],
)
def test_a_torn_write(world: World, keep: str, sectors: int, kept: str) -> None:
    world.rule("torn", keep=keep, sectors=sectors)
    assert world.write(BLOCK, b"2" * BLOCK) == errno.EIO
    wanted = b"".join((b"2" if mark == "2" else b"1") * SECTOR for mark in kept)
    assert world.disk.data == b"1" * BLOCK + wanted + b"1" * (SIZE - 2 * BLOCK)


def test_a_torn_write_that_is_told_as_done(world: World) -> None:
    world.rule("torn", sectors=1, errno=0)
    assert world.write(0, b"2" * BLOCK) == 0
    assert world.disk.data[: SECTOR + 1] == b"2" * SECTOR + b"1"


def test_sectors_are_those_of_the_disk(world: World) -> None:
    """A write that begins within a sector is torn at the sector's end."""
    world.rule("torn", sectors=1, errno=0)
    world.write(500, b"2" * 100)
    assert world.disk.data[498:514] == b"11" + b"2" * 12 + b"11"


@given(st.integers(0, 40), st.integers(1, 40), st.integers(0))
def test_random_sectors_are_as_many_as_wanted(sectors: int, total: int, state: int) -> None:
    torn = Torn(node_name="n", keep=TornKeep.RANDOM, sectors=UInt32(sectors))
    kept = torn.kept(total, Dice(state))
    assert len(kept) == min(sectors, total)
    assert kept == sorted(set(kept)) and set(kept) <= set(range(total))


@given(st.sets(st.integers(0, 30)))
def test_runs(numbers: set[int]) -> None:
    found = runs(sorted(numbers))
    assert [n for start, end in found for n in range(start, end)] == sorted(numbers)
    assert all(before < after for (_, before), (after, _) in zip(found, found[1:], strict=False))


def test_a_misdirected_write(world: World) -> None:
    world.rule("misdirect", by=-BLOCK, iotype=["write", "read"])
    assert world.write(2 * BLOCK, b"2" * BLOCK) == 0
    assert world.disk.data[BLOCK : 3 * BLOCK] == b"2" * BLOCK + b"1" * BLOCK
    assert world.read(2 * BLOCK, 1) == b"2"
    assert world.write(0, b"2") == errno.EIO


def test_a_duplicate(world: World) -> None:
    seen: list[str] = []
    world.disk.on_io = seen.append
    world.rule("duplicate", count=1)
    world.write(0, b"2")
    world.write(0, b"3")
    assert seen == ["write"] * 3


def test_only_a_guest_is_hung_up() -> None:
    host = Host()
    injector = FaultInjector(host)
    injector.add(Disconnect(node_name="n", id="f"))

    async def done(request: Request) -> str:
        return "done"

    async def read() -> str:
        request = Request(READ, 0, BLOCK)
        return await injector.around(request, done, SIZE)(request)

    def ask() -> str:
        return str(perform(read()))

    assert (ask(), host.hung_up, injector.rules[0].seen) == ("done", [], 0)
    host.asking = 7
    with pytest.raises(HungUp):
        ask()
    assert (host.hung_up, injector.rules[0].hits) == ([7], 1)


def test_readonly(world: World) -> None:
    world.rule("readonly")
    assert world.write(0, b"2") == errno.EPERM
    assert number_of(world.disk.discard(0, BLOCK)) == errno.EPERM
    assert world.read(0, 1) == b"1"
    world.disk.injector().clear()
    assert world.write(0, b"2") == 0


@pytest.mark.parametrize("how", ["flip", "zero", "random"])
def test_what_is_read_is_corrupt_and_the_medium_is_not(world: World, how: str) -> None:
    rule = world.rule("corrupt", how=how, offset=BLOCK, length=BLOCK)
    first = world.read(0, 3 * BLOCK)
    assert first[:BLOCK] == first[2 * BLOCK :] == b"1" * BLOCK
    assert first[BLOCK : 2 * BLOCK] != b"1" * BLOCK
    assert world.read(0, 3 * BLOCK) == first
    pieces = b"".join(world.read(at, 100) for at in range(0, 3 * BLOCK, 100))
    assert pieces[: 3 * BLOCK] == first, "a byte is wrong in the same way however it is read"
    world.disk.injector().remove(rule)
    assert world.read(0, SIZE) == b"1" * SIZE


@pytest.mark.parametrize("bits", [1, 7, 4096 * 8])
def test_bits_of_each_block_are_flipped(world: World, bits: int) -> None:
    world.rule("corrupt", bits=bits)
    data = world.read(0, 2 * BLOCK)
    for block in (data[:BLOCK], data[BLOCK:]):
        assert sum((byte ^ ord("1")).bit_count() for byte in block) == bits


def test_what_reaches_the_medium_is_corrupt(world: World) -> None:
    rule = world.rule("corrupt", how="zero", medium=True, offset=0, length=SECTOR)
    data = bytearray(b"2" * BLOCK)
    assert world.write(0, bytes(data)) == 0
    world.disk.injector().remove(rule)
    assert world.read(0, BLOCK) == bytes(SECTOR) + b"2" * (BLOCK - SECTOR)


def test_a_corrupt_write_leaves_the_buffer_of_its_client(world: World) -> None:
    world.rule("corrupt", how="zero", medium=True)
    data = memoryview(bytearray(b"2" * BLOCK))
    perform(world.disk.pwrite(0, data))
    assert data == b"2" * BLOCK
    assert world.disk.data[:1] == b"\0"


def test_stale_reads(world: World) -> None:
    """They give what was there before writes that came since, of whatever kind."""
    world.write(BLOCK, b"0" * BLOCK)
    rule = world.rule("corrupt", how="stale")
    world.write(0, b"2" * 100)
    world.write(0, b"3" * 100)
    perform(world.disk.zero(BLOCK, BLOCK, may_unmap=False))
    assert world.read(0, 2 * BLOCK) == b"1" * BLOCK + b"0" * BLOCK
    world.disk.injector().remove(rule)
    assert world.read(0, 200) == b"3" * 100 + b"1" * 100
    assert world.read(BLOCK, 1) == b"\0"


def test_a_bad_block_is_read_again_once_it_was_written(world: World) -> None:
    rule = world.rule("badblock", offset=BLOCK, length=2 * BLOCK)
    assert number_of(world.disk.pread(0, memoryview(bytearray(BLOCK)))) == 0
    assert number_of(world.disk.pread(0, memoryview(bytearray(BLOCK + 1)))) == errno.EIO
    world.write(BLOCK, b"2" * SECTOR)
    assert world.read(BLOCK, SECTOR) == b"2" * SECTOR
    assert number_of(world.disk.pread(BLOCK, memoryview(bytearray(SECTOR + 1)))) == errno.EIO
    perform(world.disk.zero(BLOCK, 2 * BLOCK, may_unmap=False))
    assert world.read(0, 3 * BLOCK) == b"1" * BLOCK + bytes(2 * BLOCK)
    assert rule.hits == 2


def test_a_write_that_fails_heals_nothing(world: World) -> None:
    world.rule("badblock")
    failing = world.rule("error", iotype="write")
    assert world.write(0, b"2" * SECTOR) == errno.EIO
    assert number_of(world.disk.pread(0, memoryview(bytearray(1)))) == errno.EIO
    world.disk.injector().remove(failing)
    world.write(0, b"2" * SECTOR)
    assert world.read(0, 1) == b"2"


def test_a_rule_may_become_one_of_another_kind(world: World) -> None:
    """It remembers nothing of what it was."""
    rule = world.rule("error", iotype="read")
    for action in ("badblock", "corrupt", "badblock"):
        members = {"node-name": "disk", "action": action}
        world.disk.injector().modify(rule, parse(FAULT_OPTIONS, members))
        failed = number_of(world.disk.pread(0, memoryview(bytearray(1))))
        assert failed == (errno.EIO if action == "badblock" else 0)
        world.write(0, b"2" * SECTOR)


RANGE = st.tuples(st.integers(0, 40), st.integers(1, 10)).map(lambda r: (r[0], r[0] + r[1]))


@given(st.lists(RANGE), RANGE)
def test_healed_ranges(added: list[tuple[int, int]], asked: tuple[int, int]) -> None:
    healed = Healed()
    for start, end in added:
        healed.add(start, end)
    written = {number for start, end in added for number in range(start, end)}
    assert healed.has(*asked) == set(range(*asked)).issubset(written)
    assert len(healed.starts) == len(runs(sorted(written)))


def ended_at(world: World, requests: dict[str, Coroutine[Any, Any, Any]]) -> dict[str, float]:
    """Start requests together, and return when each has ended, in ms; those that have."""
    began, ended = world.sim.monotonic_ns(), dict[str, float]()

    async def timed(name: str, request: Coroutine[Any, Any, Any]) -> None:
        await request
        ended[name] = (world.sim.monotonic_ns() - began) / 1e6

    for name, request in requests.items():
        world.sim.start(name, timed(name, request), now=True)
    world.sim.run()
    return ended


def two_reads(world: World) -> dict[str, Coroutine[Any, Any, Any]]:
    def read(at: int) -> Coroutine[Any, Any, Any]:
        return world.disk.pread(at, memoryview(bytearray(SECTOR)))

    return {"late": read(0), "soon": read(BLOCK)}


def test_a_delay_keeps_nobody_else(world: World) -> None:
    world.rule("delay", delay_ms=50, offset=0, length=SECTOR)
    ended = ended_at(world, two_reads(world))
    assert list(ended) == ["soon", "late"] and ended["late"] >= 50


@pytest.mark.parametrize("distribution", list(DelayDistribution))
def test_distributions(distribution: DelayDistribution) -> None:
    jitter = 0 if distribution is DelayDistribution.FIXED else 20
    delay = Delay(node_name="n", action="delay", delay_ms=UInt32(100),
                  jitter_ms=UInt32(jitter), distribution=distribution)
    delay.check()
    dice = Dice(1)
    found = [delay.delay_ns(dice if jitter else None) / 1e6 for _ in range(4000)]
    # The mean of Pareto's distribution with exponent 1.5 and scale 20, without the 20: 40.
    wanted = 140 if distribution is DelayDistribution.PARETO else 100
    assert abs(mean(found) - wanted) < 8
    low, high = min(found), max(found)
    assert {
        DelayDistribution.FIXED: low == high == 100,
        DelayDistribution.UNIFORM: 80 <= low < 82 and 118 < high <= 120,
        DelayDistribution.NORMAL: 20 < low < 60 and 140 < high < 180,
        DelayDistribution.PARETO: 100 <= low < 101 and high > 300,
    }[distribution]


def test_delays_follow_from_the_seed_and_the_place(world: World) -> None:
    def delays(*offsets: int) -> dict[int, list[int]]:
        rule = World().rule("delay", delay_ms=10, jitter_ms=10)
        found: dict[int, list[int]] = {}
        for at in offsets:
            dice = rule.dice.touch("read", at)
            found.setdefault(at, []).append(rule.options.delay_ns(dice))
        return found

    assert delays(0, 0, BLOCK, 0, BLOCK) == delays(BLOCK, 0, 0, BLOCK, 0)


@pytest.mark.parametrize("code", [0, errno.ENOSPC])
def test_hanging_requests_are_released(world: World, code: int) -> None:
    rule = world.rule("hang", offset=0, length=SECTOR, errno=code)
    outcomes: list[int] = []

    async def read(at: int) -> None:
        try:
            await world.disk.pread(at, memoryview(bytearray(SECTOR)))
            outcomes.append(0)
        except OSError as exc:
            outcomes.append(exc.errno or -1)

    for at in (0, BLOCK, 0):
        world.sim.start(f"read {at}", read(at), now=True)
    world.sim.run()
    assert (outcomes, rule.state.hanging) == ([0], 2)
    with world.machine.region():
        assert rule.state.release() == 2
    world.sim.run()
    assert (outcomes, rule.state.hanging) == ([0, code, code], 0)
    world.sim.start("another", read(0), now=True)
    world.sim.run()
    assert rule.state.hanging == 1
    with world.machine.region():
        world.disk.injector().clear()
    world.sim.run()
    assert (outcomes, rule.state.hanging) == ([0, code, code, code], 0)


def test_a_hang_for_a_time(world: World) -> None:
    world.rule("hang", hang_ms=200, offset=0, length=SECTOR)
    ended = ended_at(world, two_reads(world))
    assert list(ended) == ["soon", "late"] and ended["late"] >= 200


def test_every(world: World) -> None:
    world.rule("error", every=3, after=1)
    assert [world.write(0, b"2") != 0 for _ in range(10)] == [
        *(False, False, False, True, False, False, True, False, False, True)
    ]


def test_times(world: World) -> None:
    start = world.sim.now_ns
    world.rule("error", iotype="write", not_before_ms=100, not_after_ms=200)
    world.rule("readonly", up_ms=1000, down_ms=500)
    found = {}
    for at in (0, 99, 100, 199, 200, 999, 1000, 1499, 1500, 2500):
        world.sim.now_ns = start + at * 1_000_000
        found[at] = world.write(0, b"2")
    down = {at for at, code in found.items() if code == errno.EPERM}
    assert {at for at, code in found.items() if code == errno.EIO} == {100, 199}
    assert down == {1000, 1499, 2500}


def test_a_state_that_a_hit_changes(world: World) -> None:
    """The first write of the log fails, and from then on the disk is read-only."""
    world.rule("error", iotype="write", offset=0, length=SECTOR, new_state=2)
    world.rule("readonly", state=2)
    assert world.write(BLOCK, b"2") == 0
    assert world.write(0, b"2") == errno.EIO
    assert world.write(BLOCK, b"2") == errno.EPERM


@pytest.mark.parametrize(
    ("who", "hit"),
    [
        ({}, [True, True, True]),
        ({"origin": "guest"}, [False, True, True]),
        ({"origin": "job"}, [True, False, False]),
        ({"connection": 2}, [False, False, True]),
    ],
)
def test_whose_requests(world: World, who: dict[str, Any], hit: list[bool]) -> None:
    world.rule("error", **who)
    lock, found = world.sim.lock, []
    for connection in range(3):
        request = world.disk.pread(0, memoryview(bytearray(1)))
        try:
            lock.run_in_thread(request, lambda: True, connection)
            found.append(False)
        except OSError:
            found.append(True)
    assert found == hit


def test_a_request_that_another_one_lets_go_on_keeps_its_connection(world: World) -> None:
    world.rule("hang", iotype="read")
    seen = []

    async def read() -> None:
        await world.disk.pread(0, memoryview(bytearray(1)))
        seen.append(world.machine.asker().connection)

    world.sim.start("job", read(), now=True)

    async def let_go() -> None:
        world.disk.injector().clear()
        seen.append(world.machine.asker().connection)

    world.sim.lock.run_in_thread(let_go(), lambda: True, 5)
    world.sim.run()
    assert seen == [5, 0]


FUA: list[tuple[bool | None, list[bool]]] = [
    (True, [True, False]), (False, [False, True]), (None, [True, True])
]


@pytest.mark.parametrize(("fua", "hit"), FUA)
@pytest.mark.parametrize("kind", ["write", "zeroes", "discard", "written zeroes"])
def test_fua(world: World, kind: str, fua: bool | None, hit: list[bool]) -> None:
    requests: dict[str, Callable[[bool], Coroutine[Any, Any, None]]] = {
        "write": lambda fua: world.disk.pwrite(0, memoryview(b"2"), fua=fua),
        "zeroes": lambda fua: world.disk.zero(0, 1, may_unmap=False, fua=fua),
        "discard": lambda fua: world.disk.discard(0, 1, fua=fua),
        "written zeroes": lambda fua: world.disk.pwrite(0, memoryview(bytes(1)), fua=fua),
    }
    if kind == "written zeroes":
        world.disk.options = replace(
            world.disk.options, detect_zeroes=BlockdevDetectZeroesOptions.ON
        )
    world.rule("error", errno="ENOSPC", **({} if fua is None else {"fua": fua}))
    found = [number_of(requests[kind](with_fua)) == errno.ENOSPC for with_fua in (True, False)]
    assert found == hit


def test_fua_is_for_what_changes_the_medium(world: World) -> None:
    rule = world.rule("error", fua=False)
    assert rule.iotypes == {FaultIOType.WRITE, FaultIOType.WRITE_ZEROES, FaultIOType.DISCARD}
    assert world.read(0, 1) == b"1"


def test_a_hit_is_told_before_it_has_an_outcome(world: World) -> None:
    told: list[Event] = []
    world.machine.listeners.append(lambda event, _: told.append(event))
    rule = world.rule("hang", id="f", notify=True, iotype="write", errno=errno.EIO, after=1)
    world.rule("error", iotype="read")

    async def write(at: int) -> None:
        with suppress(OSError):
            await world.disk.pwrite(at, memoryview(b"2" * SECTOR))

    for at in range(3):
        world.sim.start("write", write(at * SECTOR), now=True)
    assert number_of(world.disk.pread(0, memoryview(bytearray(1)))) == errno.EIO
    assert told == [
        XFaultTriggered(
            id="f", node_name="disk", action="hang", iotype=FaultIOType.WRITE,
            offset=UInt64(at * SECTOR), length=UInt64(SECTOR), hits=UInt64(at),
        )
        for at in (1, 2)
    ]
    assert rule.state.hanging == 2
    world.disk.injector().clear()
    world.sim.run()


WRONG: dict[str, dict[str, Any]] = {
    "Parameter 'iotype' value 'read' does not go with action 'drop'": {
        "action": "drop", "iotype": "read"
    },
    "Parameter 'iotype' expects 'read', unless 'medium' is true": {
        "action": "corrupt", "iotype": "write"
    },
    "Parameter 'iotype' expects 'write'": {
        "action": "corrupt", "medium": True, "iotype": ["write", "read"]
    },
    "Parameter 'bits' expects a number from 1 to 32768": {"action": "corrupt", "bits": 0},
    "Parameter 'delay-ms' expects a value greater than zero": {"action": "delay"},
    "'distribution' value 'normal' needs 'jitter-ms'": {
        "action": "delay", "delay-ms": 1, "distribution": "normal"
    },
    "Parameter 'jitter-ms' needs another 'distribution' than 'fixed'": {
        "action": "delay", "delay-ms": 1, "jitter-ms": 1, "distribution": "fixed"
    },
    "Parameter 'by' expects a number of bytes other than zero": {"action": "misdirect"},
    "Parameter 'origin' value 'job' does not go with action 'disconnect'": {
        "action": "disconnect", "origin": "job"
    },
    "Parameter 'fua' is for write, write-zeroes and discard only": {"fua": True, "iotype": "read"},
    "Parameter 'iotype' value 'connect' does not go with action 'drop'": {
        "action": "drop", "iotype": "connect"
    },
    "'up-ms' and 'down-ms' need each other": {"up-ms": 1},
    "Parameter 'down-ms' expects a value greater than zero": {"up-ms": 1, "down-ms": 0},
    "Parameter 'every' expects a value greater than zero": {"every": 0},
    "Parameter 'iotype' expects at least one kind of request": {"iotype": []},
    "'not-after-ms' has to be later than 'not-before-ms'": {
        "not-before-ms": 2, "not-after-ms": 2
    },
}


@pytest.mark.parametrize("message", WRONG)
def test_bad_rules(message: str) -> None:
    options = parse(FAULT_OPTIONS, {"node-name": "disk", **WRONG[message]})
    with pytest.raises(QmpError) as caught:
        options.check()
    assert str(caught.value) == message


def test_what_was_there_is_read_past_other_rules(world: World) -> None:
    """The rule that loses the write does not lose the look at what the write would replace."""
    world.rule("drop", iotype="write", count=1)
    world.rule("corrupt", how="stale")
    world.write(0, b"2" * BLOCK)
    world.write(0, b"3" * BLOCK)
    assert world.read(0, BLOCK) == b"1" * BLOCK
