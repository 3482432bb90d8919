# SPDX-License-Identifier: MIT
"""Requests that are tried again, and those of a stopped machine that fails them, on a clock."""

from __future__ import annotations

import errno
from collections.abc import Coroutine
from typing import Any

import pytest

from blockcore.bql.clock import NS_OF_MS
from blockcore.bql.effects import Until, never
from blockcore.machine.drain import Drain
from blockcore.nodes.driver import NodeOptions
from blockcore.qapi.events import BlockIoError, Event
from blockcore.qapi.names import BlockDeviceIoStatus, OnStop, RunState, UInt32
from blockcore.rules.policy import Retry
from sim import MemoryNode, Sim, add_drive, execute, new_machine

SIZE = 4096

KINDS = ("read", "write", "zero", "discard", "flush")


class World:
    """A drive whose disk fails every I/O with `number`; `tries` has the times of all, in ms."""

    def __init__(
        self, policy: str = "retry", interval: int = 10, timeout: int = 0, **more: Any
    ) -> None:
        self.sim = Sim(1)
        self.sim.be_orderly()
        self.machine = new_machine(self.sim)
        self.number = errno.EIO
        self.tries: list[int] = []
        self.disk = MemoryNode(NodeOptions(node_name="disk"), self.machine, SIZE, self._on_io)
        retry = Retry(interval_ms=UInt32(interval), timeout_ms=UInt32(timeout))
        self.blk = add_drive(self.machine, self.disk, "vda", policy, policy, retry=retry, **more)
        self.events: list[Event] = []
        self.machine.listeners.append(lambda event, _now_ns: self.events.append(event))
        self.outcomes: dict[str, str] = {}

    def _on_io(self, what: str) -> None:
        # Stopping flushes.
        if what != "flush" or "flush" in self.sim.running:
            self.tries.append(self.sim.now_ns // NS_OF_MS)
            if self.number:
                raise OSError(self.number, "injected")

    def send(self, kind: str = "write") -> None:
        """Send a request; it goes as far as it can without time passing."""
        blk, buf = self.blk, memoryview(bytearray(b"\x22" * 512))
        if kind == "flush":
            self.disk.traces.reached(0)
        coro = {
            "read": lambda: blk.pread(0, buf),
            "write": lambda: blk.pwrite(0, buf),
            "zero": lambda: blk.zero(0, 512, may_unmap=True),
            "discard": lambda: blk.discard(0, 512),
            "flush": blk.flush,
        }[kind]
        self.sim.start(kind, self._watch(kind, coro()), now=True)
        self.until(self.sim.now_ns // NS_OF_MS)

    async def _watch(self, kind: str, coro: Coroutine[Any, Any, None]) -> None:
        try:
            await coro
            self.outcomes[kind] = "ok"
        except OSError as exc:
            self.outcomes[kind] = errno.errorcode[exc.errno or 0]

    def until(self, ms: int) -> None:
        """Let the time pass until `ms` and a little more."""
        reached = False

        async def alarm() -> None:
            nonlocal reached
            await Until(never, ms * NS_OF_MS + NS_OF_MS // 2)
            reached = True

        self.sim.start(f"alarm {ms}", alarm(), now=True)
        self.sim.run(lambda: reached)

    def command(self, name: str, **arguments: Any) -> Any:
        result: list[Any] = []

        async def run() -> None:
            result.append(await execute(self.machine, name, **arguments))

        self.sim.start(name, run(), now=True)
        self.sim.run(lambda: bool(result))
        return result[0]

    def actions(self) -> list[str]:
        """What was said: the action of each error, and the names of other events."""
        return [
            event.action.value if isinstance(event, BlockIoError) else event.NAME
            for event in self.events
        ]

    def waits_for(self) -> list[str | None]:
        return [one.get("waits-for") for one in self.command("x-query-requests")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_is_tried_until_it_succeeds(kind: str) -> None:
    world = World()
    world.send(kind)
    assert world.waits_for() == ["retry"] and world.blk.quiet()
    world.until(29)
    assert world.tries == [0, 10, 20] and not world.outcomes
    world.number = 0
    world.until(30)
    assert world.outcomes == {kind: "ok"} and world.tries == [0, 10, 20, 30]
    assert world.actions() == 3 * ["retry"]
    event = world.events[0]
    assert isinstance(event, BlockIoError) and event.nospace is None and event.reason
    assert world.blk.iostatus is BlockDeviceIoStatus.OK and world.machine.vm.running
    counted = [tally.operations for tally in world.blk.stats().tallies.values()]
    assert sum(counted) == (kind != "discard")
    assert not any(tally.failed for tally in world.blk.stats().tallies.values())


@pytest.mark.parametrize("kind", KINDS)
def test_after_the_timeout_the_errno_is_reported(kind: str) -> None:
    world = World(timeout=25)
    world.number = errno.ENOSPC
    world.send(kind)
    world.until(24)
    assert not world.outcomes
    world.until(25)
    assert world.outcomes == {kind: "ENOSPC"} and world.tries == [0, 10, 20, 25]
    assert world.actions() == [*3 * ["retry"], "report"]
    tallies = world.blk.stats().tallies
    assert [tally.failed for tally in tallies.values() if tally.failed] == [1] * (kind != "discard")
    world.until(100)
    assert len(world.tries) == 4 and not world.blk.open_requests()


def test_each_request_has_a_time_of_its_own() -> None:
    """What fails among others that succeed is not tried for ever."""
    world = World(timeout=25)
    world.send("write")
    world.until(15)
    world.number = 0
    world.send("read")
    world.number = errno.EIO
    world.until(25)
    assert world.outcomes == {"read": "ok", "write": "EIO"}


def test_a_stop_ends_the_wait_and_cont_tries_again() -> None:
    world = World(interval=1000)
    world.send()
    world.until(5)
    world.command("stop")
    assert world.waits_for() == ["run"]
    world.until(5000)
    assert world.tries == [0]
    world.number = 0
    world.command("cont")
    world.until(5001)
    assert world.outcomes == {"write": "ok"} and world.tries == [0, 5000]
    assert world.actions() == ["retry", "STOP", "RESUME"]


def test_the_time_in_a_stopped_machine_does_not_count() -> None:
    world = World(timeout=25)
    world.send()
    world.until(5)
    world.command("stop")
    world.until(1005)
    world.command("cont")
    world.until(1019)
    assert not world.outcomes
    world.until(1026)
    assert world.outcomes == {"write": "EIO"}
    assert world.tries == [0, 1005, 1015, 1025]


def test_a_drained_section_waits_for_no_next_try() -> None:
    world = World()
    world.send()
    drained = []

    async def drain() -> None:
        async with Drain(world.machine, [world.disk]):
            drained.append(world.sim.now_ns // NS_OF_MS)
            await Until(never, 45 * NS_OF_MS)

    world.sim.start("drain", drain(), now=True)
    world.until(20)
    assert drained == [0] and world.tries == [0]
    assert world.waits_for() == ["drain"]
    world.number = 0
    world.until(46)
    assert world.outcomes == {"write": "ok"} and world.tries == [0, 45]


@pytest.mark.parametrize("how", ["system_reset", "x-power-cut"])
def test_a_reset_drops_what_would_be_tried_again(how: str) -> None:
    world = World()
    world.send()
    world.command(how)
    assert world.outcomes == {"write": "ESHUTDOWN"} and world.tries == [0]
    assert world.machine.vm.running
    world.until(100)
    assert world.tries == [0]


def test_nothing_is_tried_again_at_the_end() -> None:
    world = World()
    world.send()
    world.command("quit")
    world.until(100)
    assert world.tries == [0] and world.waits_for() == ["run"]


def test_a_new_policy_is_for_the_next_failure() -> None:
    world = World()
    world.send()
    world.command("x-drive-set-policy", device="vda", werror="report")
    world.until(9)
    assert not world.outcomes
    world.until(10)
    assert world.outcomes == {"write": "EIO"} and world.actions() == ["retry", "report"]


def test_a_cleared_fault_is_the_end_of_it() -> None:
    world = World()
    world.number = 0
    world.command("x-fault-add", node_name="vda", errno="EIO")
    world.send()
    world.until(15)
    world.command("x-fault-clear")
    world.until(20)
    assert world.outcomes == {"write": "ok"} and world.actions() == 2 * ["retry"]


def refusing(policy: str = "stop") -> World:
    return World(policy, on_stop=OnStop.ESHUTDOWN)


@pytest.mark.parametrize("state", [RunState.PAUSED, RunState.IO_ERROR, RunState.PRELAUNCH])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_machine_fails_requests_at_once(kind: str, state: RunState) -> None:
    world = refusing()
    if state is RunState.IO_ERROR:
        world.send("read")
        world.until(50)
        assert world.outcomes.pop("read") == "ESHUTDOWN"
    else:
        world.command("stop")
    if state is RunState.PRELAUNCH:
        world.command("system_reset")
    assert world.machine.vm.state is state
    tries, events = len(world.tries), len(world.events)
    world.send(kind)
    assert world.outcomes == {kind: "ESHUTDOWN"} and not world.blk.open_requests()
    assert (len(world.tries), len(world.events)) == (tries, events)
    assert not any(t.operations or t.failed for t in world.blk.stats().tallies.values())
    world.command("cont")
    world.number = 0
    world.send(kind)
    assert world.outcomes == {kind: "ok"}


def test_the_failed_request_fails_when_the_machine_has_stopped() -> None:
    world = refusing()
    world.number = errno.ENOSPC
    world.send()
    assert world.actions() == ["stop"] and not world.outcomes
    world.until(50)
    assert world.actions() == ["stop", "STOP"] and world.outcomes == {"write": "ESHUTDOWN"}
    assert world.blk.iostatus is BlockDeviceIoStatus.NOSPACE
    assert world.machine.vm.state is RunState.IO_ERROR


def test_a_machine_that_never_stops_tries_again() -> None:
    """`cont` comes before the stop that the error has asked for."""
    world = refusing()
    world.send()
    world.number = 0
    world.command("cont")
    world.until(1)
    assert world.outcomes == {"write": "ok"} and world.actions() == ["stop", "STOP", "RESUME"]


def test_what_waits_for_the_next_try_fails_when_the_machine_stops() -> None:
    world = refusing("retry")
    world.send()
    world.command("stop")
    assert world.outcomes == {"write": "ESHUTDOWN"} and world.tries == [0]


def test_drained_sections_hold_all_the_same() -> None:
    world = refusing()
    world.number = 0

    async def drain() -> None:
        async with Drain(world.machine, [world.disk]):
            await Until(never, 20 * NS_OF_MS)

    world.sim.start("drain", drain(), now=True)
    world.send()
    assert not world.outcomes
    world.until(20)
    assert world.outcomes == {"write": "ok"}


def test_held_requests_fail_when_nothing_is_held_any_more() -> None:
    world = World("stop")
    world.command("stop")
    world.send()
    assert world.waits_for() == ["run"]
    world.command("x-drive-set-policy", device="vda", x_on_stop="eshutdown")
    assert world.outcomes == {"write": "ESHUTDOWN"}

