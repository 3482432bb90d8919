# SPDX-License-Identifier: MIT
"""What a kind of fault can do to a request, and what follows from its description."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import field, fields
from typing import Any

import pytest

from blockcore.bql.effects import Until
from blockcore.cli.fault_options import ACTIONS
from blockcore.commands.faults import FAULT_INFO, INFO_CLASSES
from blockcore.commands.table import table
from blockcore.faults.kinds import FAULT_OPTIONS, KINDS
from blockcore.faults.options import FaultOptions, Go, R, Request
from blockcore.faults.scene import Scene
from blockcore.machine.machine import Machine
from blockcore.nodes.driver import Extent, NodeOptions
from blockcore.nodes.filter import FilterNode
from blockcore.nodes.node import BlockNode
from blockcore.qapi.introspect import schema_info
from blockcore.qapi.names import FaultIOType
from blockcore.qapi.record import dataclass
from sim import MemoryNode, Sim, new_machine, perform
from tree import TREE

SIZE = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift(FaultOptions):
    """Moves a request by 4096 bytes, and writes it down before and after."""

    log: list[str] = field(default_factory=list)

    async def carry_out(self, request: Request, go: Go[R], scene: Scene) -> R:
        self.log.append(f"{request.iotype} {request.offset}+{request.nbytes}")
        result = await go(request._replace(offset=request.offset + 4096))
        self.log.append("done")
        return result


class Disk(MemoryNode):
    """Writes down what its driver is asked for."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(NodeOptions(node_name="disk", discard_unmap=True), machine, SIZE)
        self.log: list[str] = []

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        self.log.append(f"read {offset}")
        await super().do_pread(offset, buf)

    async def do_pwrite(self, offset: int, buf: memoryview) -> None:
        self.log.append(f"write {offset}")
        await super().do_pwrite(offset, buf)

    async def do_zero(self, offset: int, length: int, may_unmap: bool) -> None:
        self.log.append(f"write-zeroes {offset}")
        await super().do_zero(offset, length, may_unmap)

    async def do_discard(self, offset: int, length: int) -> None:
        self.log.append(f"discard {offset}")
        await super().do_discard(offset, length)

    async def do_flush(self) -> None:
        self.log.append("flush")
        await super().do_flush()

    async def do_block_status(self, offset: int, length: int) -> Extent:
        self.log.append(f"block-status {offset}")
        return await super().do_block_status(offset, length)


class Filter(FilterNode):
    """Passes everything on."""

    driver = "filter"
    filters = "file"


def buffer(byte: bytes = b"\0") -> memoryview:
    return memoryview(bytearray(byte * 512))


def with_copy(disk: BlockNode) -> BlockNode:
    disk.enable_copy_on_read()
    return disk


Ask = Callable[[BlockNode], Coroutine[Any, Any, Any]]

REQUESTS: dict[str, tuple[FaultIOType, Ask, str]] = {
    "read": (FaultIOType.READ, lambda disk: disk.pread(0, buffer()), "read 4096"),
    "read, copied": (
        FaultIOType.READ,
        lambda disk: with_copy(disk).pread(0, buffer()),
        "read 4096",
    ),
    "read, tracked": (
        FaultIOType.READ,
        lambda disk: tracked(disk).pread(0, buffer()),
        "read 4096",
    ),
    "write": (FaultIOType.WRITE, lambda disk: disk.pwrite(0, buffer(b"a")), "write 4096"),
    "kept": (FaultIOType.WRITE, lambda disk: disk.keep(0, buffer(b"a")), "write 4096"),
    "zeroes": (
        FaultIOType.WRITE_ZEROES,
        lambda disk: disk.zero(0, 512, may_unmap=False),
        "write-zeroes 4096",
    ),
    "kept zeroes": (
        FaultIOType.WRITE_ZEROES,
        lambda disk: disk.keep(0, buffer()),
        "write-zeroes 4096",
    ),
    "discard": (FaultIOType.DISCARD, lambda disk: disk.discard(0, 512), "discard 4096"),
    "flush": (FaultIOType.FLUSH, lambda disk: written(disk).flush(), "flush"),
    "block status": (
        FaultIOType.BLOCK_STATUS,
        lambda disk: disk.block_status(0, 512),
        "block-status 4096",
    ),
}
"""Each kind of request: what rules call it, how it comes, what the driver gets of it."""


def tracked(disk: BlockNode) -> BlockNode:
    disk.track_requests()
    return disk


def written(disk: BlockNode) -> BlockNode:
    perform(disk.pwrite(0, buffer(b"a")))
    return disk


@pytest.fixture(name="disk")
def _disk() -> Disk:
    return Disk(new_machine(Sim(0)))


@pytest.mark.parametrize("name", REQUESTS)
def test_a_kind_stands_around_every_request(disk: Disk, name: str) -> None:
    """It sees the request, may change it, and is there when the driver has done its part."""
    iotype, ask, driver_part = REQUESTS[name]
    rule = Shift(id="f", node_name="disk", iotype=iotype)
    request = ask(disk)
    disk.injector().add(rule)
    perform(request)
    assert disk.log[-1] == driver_part
    assert rule.log == [f"{iotype} 0+{0 if iotype is FaultIOType.FLUSH else 512}", "done"]


@pytest.mark.parametrize("name", ["populate", "read, copied"])
def test_a_kind_stands_around_what_a_filter_passes_on(disk: Disk, name: str) -> None:
    above = Filter(NodeOptions(node_name="above"), new_machine(Sim(0)), disk)
    perform(above.do_open())
    disk.track_requests()
    rule = Shift(id="f", node_name="above", iotype=FaultIOType.READ)
    above.injector().add(rule)
    perform(
        above.populate(0, 512)
        if name == "populate"
        else above.pread(0, buffer(), copy_on_read=True)
    )
    assert rule.log == ["read 0+512", "done"]
    assert set(disk.log) <= {"read 4096"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Late(FaultOptions):
    """Carries a request out after 10 ms."""

    async def carry_out(self, request: Request, go: Go[R], scene: Scene) -> R:
        await Until(lambda: False, scene.clock.monotonic_ns() + 10_000_000)
        return await go(request)


def test_a_kind_may_wait() -> None:
    """By the machine's clock, and nobody else waits with it."""
    sim = Sim(0)
    machine = new_machine(sim)
    disk, ended = Disk(machine), dict[str, int]()
    disk.injector().add(Late(id="f", node_name="disk", iotype=FaultIOType.WRITE))

    async def until_ended(what: str, request: Coroutine[Any, Any, None]) -> None:
        await request
        ended[what] = sim.monotonic_ns()

    began = sim.monotonic_ns()
    sim.start("write", until_ended("write", disk.pwrite(0, buffer())), now=True)
    sim.start("read", until_ended("read", disk.pread(4096, buffer())), now=True)
    sim.run()
    assert ended["write"] >= began + 10_000_000
    assert list(ended) == ["read", "write"]


def test_a_bug_of_a_kind_is_an_errno(disk: Disk) -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Broken(FaultOptions):
        async def carry_out(self, request: Request, go: Go[R], scene: Scene) -> R:
            raise ZeroDivisionError

    disk.injector().add(Broken(id="f", node_name="disk"))
    # The simulator raises bugs, where a machine logs them.
    with pytest.raises(ZeroDivisionError):
        perform(disk.pread(0, buffer()))


def test_every_kind_is_described_once() -> None:
    """What `x-fault-add` takes and `x-query-faults` shows is what the kinds say."""
    assert FAULT_OPTIONS.variants == KINDS
    entries = {entry["name"]: entry for entry in schema_info(table)}
    added = entries[entries["x-fault-add"]["arg-type"]]
    assert added["tag"] == "action"
    assert [variant["case"] for variant in added["variants"]] == list(KINDS)
    shown = entries[entries[entries["x-query-faults"]["ret-type"]]["element-type"]]
    assert [variant["case"] for variant in shown["variants"]] == list(KINDS)
    assert FAULT_INFO.variants == INFO_CLASSES


def test_the_command_tells_of_every_action() -> None:
    """And of the members that only it has."""
    common = {member.name for member in fields(FaultOptions)}
    own = {
        action: [member.name.replace("_", "-") for member in fields(kind)
                 if member.name not in common]
        for action, kind in KINDS.items()
    }
    told = {
        action: [name for name in text.partition("; ")[2].split(", ") if name]
        for action, text in ACTIONS.items()
    }
    assert told == own


@pytest.mark.parametrize("action", KINDS)
def test_the_readme_tells_of_every_member(action: str) -> None:
    text = (TREE / "README.md").read_text().partition("## Faults")[2].partition("\n## ")[0]
    rows = "".join(line for line in text.splitlines() if line.startswith("|"))
    for member in fields(KINDS[action]):
        name = member.name.replace("_", "-")
        assert f"`{name}`" in rows or name == "immediately", name
