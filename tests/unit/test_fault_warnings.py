# SPDX-License-Identifier: MIT
"""Rules that hit nothing, or say what means nothing: refused, or made with a warning."""

from __future__ import annotations

from typing import Any

import pytest

from blockcore.nodes.driver import NodeOptions
from blockcore.qapi.names import QmpError
from sim import MemoryNode, Sim, add_drive, execute, new_machine, number_of, perform

SIZE = 65536


class World:
    """A disk in memory, with a drive on it that has had three connections; the last is open."""

    def __init__(self) -> None:
        self.machine = new_machine(Sim(0))
        self.disk = MemoryNode(NodeOptions(node_name="disk"), self.machine, SIZE)
        add_drive(self.machine, self.disk)
        self.machine.connections_made = 3
        self.machine.backends[0].connections.add(3)

    def ask(self, command: str, **arguments: Any) -> Any:
        return perform(execute(self.machine, command, **arguments))

    def write(self, offset: int = 0) -> int:
        return number_of(self.disk.pwrite(offset, memoryview(bytearray(512))))


@pytest.fixture(name="world")
def _world() -> World:
    return World()


WARNINGS: list[tuple[dict[str, Any], str]] = [
    ({"iotype": ["flush", "read"], "offset": 4096},
     "'iotype' flush: not with 'offset', without a place"),
    ({"iotype": ["flush", "read"], "sector": 4},
     "'iotype' flush: not with 'sector', without a place"),
    ({"iotype": ["connect", "flush", "read"], "length": 512},
     "'iotype' connect, flush: not with 'length', without a place"),
    ({"iotype": ["connect", "read"], "connection": 3},
     "'iotype' connect: 'connection' 3 was opened before"),
    ({"action": "misdirect", "by": SIZE},
     f"'by' {SIZE} leads all requests beyond the end of node 'disk' ({SIZE} bytes):"
     " they fail with EIO"),
    ({"action": "misdirect", "by": 4096, "offset": SIZE - 4096},
     f"'by' 4096 leads all requests beyond the end of node 'disk' ({SIZE} bytes):"
     " they fail with EIO"),
    ({"action": "misdirect", "by": -4096, "length": 4096},
     f"'by' -4096 leads all requests before the beginning of node 'disk' ({SIZE} bytes):"
     " they fail with EIO"),
    ({"action": "misdirect", "by": -SIZE},
     f"'by' -{SIZE} leads all requests before the beginning of node 'disk' ({SIZE} bytes):"
     " they fail with EIO"),
]  # fmt: skip

SILENT: list[dict[str, Any]] = [
    {"offset": 4096},
    {"iotype": ["flush", "read"]},
    {"iotype": ["connect", "read"], "connection": 4},
    {"iotype": "connect", "connection": 4},
    {"iotype": "read", "connection": 3},
    {"action": "misdirect", "by": 4096},
    {"action": "misdirect", "by": SIZE - 1},
    {"action": "misdirect", "by": 4096, "offset": SIZE - 8192},
    {"action": "misdirect", "by": -4095, "length": 4096},
    {"action": "corrupt", "how": "zero", "bits": 1},
    {"not-before-ms": 1 << 40},
]

REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"iotype": "connect", "connection": 3},
     "Parameter 'connection' is that of an open one: 3; the next one gets number 4"),
    ({"iotype": "connect", "connection": 2}, "Parameter 'connection' is that of a closed one: 2"),
    ({"not-before-ms": (1 << 64) - 1},
     "Parameter 'not-before-ms' expects a time within 100 years"),
    *(
        ({"action": "corrupt", "how": how, "bits": 3}, "Parameter 'bits' is for 'how' flip")
        for how in ("byte", "zero", "random", "stale")
    ),
]  # fmt: skip


def _members(rule: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("-", "_"): value for name, value in rule.items()}


@pytest.mark.parametrize(("rule", "wanted"), WARNINGS, ids=str)
def test_warnings(rule: dict[str, Any], wanted: str, world: World) -> None:
    assert world.ask("x-fault-add", node_name="vda", **_members(rule))["warnings"] == [wanted]
    world.ask("x-fault-clear")
    swept = world.ask("x-fault-sweep", id="s", node_name="vda", **_members(rule))
    assert swept["warnings"] == [wanted]
    assert world.ask("x-fault-sweep", id="s", nth=2)["warnings"] == [wanted]


@pytest.mark.parametrize("rule", SILENT, ids=str)
def test_what_needs_no_warning(rule: dict[str, Any], world: World) -> None:
    assert "warnings" not in world.ask("x-fault-add", node_name="vda", **_members(rule))


@pytest.mark.parametrize(("rule", "wanted"), REFUSALS, ids=str)
def test_refusals(rule: dict[str, Any], wanted: str, world: World) -> None:
    for command in ("x-fault-add", "x-fault-sweep"):
        with pytest.raises(QmpError) as caught:
            world.ask(command, node_name="vda", **_members(rule))
        assert caught.value.desc == wanted
    assert world.ask("x-query-faults") == []


def test_a_change_that_makes_a_connection_impossible(world: World) -> None:
    world.ask("x-fault-add", node_name="vda", id="f", connection=3)
    with pytest.raises(QmpError, match="is that of an open one"):
        world.ask("x-fault-modify", id="f", iotype="connect")


def test_a_change_of_how_data_is_corrupted(world: World) -> None:
    """What was said for another `how` goes, as what another member excludes."""
    world.ask("x-fault-add", node_name="vda", id="f", action="corrupt", bits=3)
    world.ask("x-fault-modify", id="f", how="flip")
    assert world.ask("x-query-faults")[0]["bits"] == 3
    world.ask("x-fault-modify", id="f", how="byte", at=5, value=7)
    assert world.ask("x-query-faults")[0]["bits"] == 1
    world.ask("x-fault-modify", id="f", how="zero")
    assert not {"at", "value"} & world.ask("x-query-faults")[0].keys()


FIRST = "rule 'all' comes first, and takes all of its requests"


def test_a_rule_that_comes_too_late(world: World) -> None:
    world.ask("x-fault-add", node_name="vda", id="all", errno="ENOSPC")
    assert world.ask("x-fault-add", node_name="vda", iotype="read", id="f")["warnings"] == [FIRST]
    assert world.ask("x-fault-modify", id="f", offset=512)["warnings"] == [FIRST]
    assert "warnings" not in world.ask("x-fault-modify", id="all", iotype="write")
    assert world.ask("x-fault-modify", id="f", rate=0.5) == {}
    both = world.ask("x-fault-load", text="vda,iotype=write\nvda,iotype.0=read,iotype.1=write\n")
    assert both["warnings"] == [f"line 1: {FIRST}"]
    late = world.ask("x-fault-add", node_name="vda", iotype=["read", "write"])
    assert late["warnings"] == [
        "rules 'fault1' and 'all' come first, and take all of its requests"
    ]


def test_lines_of_a_file_that_come_too_late(world: World) -> None:
    loaded = world.ask("x-fault-load", text="vda,id=all\nvda,iotype=read\nvda,iotype=connect\n")
    assert loaded["warnings"] == [f"line 2: {FIRST}"]


def test_a_sweep_that_comes_too_late(world: World) -> None:
    world.ask("x-fault-add", node_name="vda", id="all", iotype="write", errno="ENOSPC")
    swept = world.ask("x-fault-sweep", id="s", node_name="vda", iotype="write")
    assert swept == {"id": "s", "nth": 1, "warnings": [FIRST]}
    assert world.write() == 28
    over = world.ask("x-fault-sweep", id="s")
    assert over == {"id": "s", "fired": False, "seen": 0, "taken-by": "all"}


def test_a_sweep_of_what_an_earlier_rule_leaves(world: World) -> None:
    """Who has taken requests is told for each round of its own."""
    world.ask("x-fault-add", node_name="vda", id="some", iotype="write", count=2)
    world.ask("x-fault-sweep", id="s", node_name="vda", iotype="write", errno="ENOSPC")
    assert [world.write() for _ in range(3)] == [5, 5, 28]
    second = world.ask("x-fault-sweep", id="s")
    assert second == {"id": "s", "nth": 2, "fired": True, "seen": 1, "taken-by": "some"}
    world.write()
    assert world.ask("x-fault-sweep", id="s") == {"id": "s", "fired": False, "seen": 1}


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"iotype": "flush", "offset": 5}, "'offset' is not for 'iotype' flush"),
        ({"errno": 0}, "there is nothing to sweep"),
        ({"offset": SIZE}, "is beyond the end"),
        ({"connection": 2}, "is that of a closed one"),
        ({"by": 3}, "Parameter 'by' is unexpected"),
    ],
)
@pytest.mark.parametrize("writes", [0, 1])
def test_the_end_of_a_sweep_with_members_that_do_not_fit(
    writes: int, members: dict[str, Any], told: str, world: World
) -> None:
    """They are refused, and the round goes on."""
    world.ask("x-fault-sweep", id="s", node_name="vda", iotype="write", errno="ENOSPC")
    for _ in range(writes):
        world.write()
    before = world.ask("x-query-faults")
    with pytest.raises(QmpError, match=told):
        world.ask("x-fault-sweep", id="s", **members)
    assert world.ask("x-query-faults") == before
    assert world.write() == (0 if writes else 28)


@pytest.mark.parametrize(
    "members", [{"after": 7}, {"every": 1}, {"count": 3}, {"once": True}, {"rate": 0.5}], ids=str
)
def test_what_a_sweep_sets_itself_is_not_modified(members: dict[str, Any], world: World) -> None:
    world.ask("x-fault-sweep", id="s", node_name="vda", iotype="write")
    (name,) = members
    for _ in range(2):
        with pytest.raises(QmpError, match=f"Parameter '{name}' is set by the sweep of fault 's'"):
            world.ask("x-fault-modify", id="s", **members)
        assert world.ask("x-fault-modify", id="s", errno="ENOSPC") == {}
        world.ask("x-fault-sweep", id="s", nth=1)
    assert world.write() == 28


def test_the_end_of_a_sweep_whose_connection_is_gone(world: World) -> None:
    world.ask("x-fault-sweep", id="s", node_name="vda", connection=3)
    world.machine.backends[0].connections.clear()
    assert world.ask("x-fault-sweep", id="s") == {"id": "s", "fired": False, "seen": 0}
