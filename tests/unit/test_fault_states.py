# SPDX-License-Identifier: MIT
"""blkdebug's state of a node: who changes it, who sees it, and what brings back the first one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from blockcore.faults.injector import FaultInjector
from blockcore.faults.states import StateChange
from blockcore.nodes.driver import NodeOptions
from blockcore.qapi.names import BlkdebugEvent
from rules import fail
from sim import MemoryNode, Sim, add_drive, execute, new_machine, perform

ONCE = {"node_name": "vda", "iotype": "write", "state": 1, "new_state": 2, "id": "a"}
"""A rule that hits one write, and brings about another state."""


class World:
    """A disk in memory, with a drive on it."""

    def __init__(self) -> None:
        self.machine = new_machine(Sim(0))
        self.disk = MemoryNode(NodeOptions(node_name="disk"), self.machine, 4096)
        add_drive(self.machine, self.disk)

    def ask(self, command: str, **arguments: Any) -> Any:
        return perform(execute(self.machine, command, **arguments))

    def writes(self) -> str:
        """Write five times; return an X for each that failed, and a dot for the others."""
        found = ""
        for _ in range(5):
            try:
                perform(self.disk.pwrite(0, memoryview(bytearray(512))))
            except OSError:
                found += "X"
            else:
                found += "."
        return found

    def states(self) -> list[int | None]:
        """Return what x-query-faults tells of the state, rule by rule."""
        return [rule.get("node-state") for rule in self.ask("x-query-faults")]


@pytest.fixture(name="world")
def _world() -> World:
    return World()


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("x-fault-clear", {}),
        ("x-fault-clear", {"node_name": "vda"}),
        ("x-fault-remove", {"id": "a"}),
    ],
)
def test_without_rules_the_first_state_is_back(
    command: str, arguments: dict[str, Any], world: World
) -> None:
    for _ in range(2):
        assert "warnings" not in world.ask("x-fault-add", **ONCE)
        assert world.states() == [1]
        assert world.writes() == "X...."
        assert world.states() == [2]
        world.ask(command, **arguments)


def test_the_state_stays_as_long_as_there_are_rules(world: World) -> None:
    world.ask("x-fault-add", **ONCE)
    world.writes()
    world.ask("x-fault-add", node_name="vda", iotype="read", id="other")
    world.ask("x-fault-remove", id="a")
    assert world.ask("x-fault-add", **{**ONCE, "id": "b"})["warnings"] == [
        "'state' 1 is set by no rule of node 'disk', which is in state 2"
    ]
    assert (world.writes(), world.states()) == (".....", [None, 2])
    world.ask("x-fault-remove", id="other")
    assert world.states() == [2]


def test_each_round_of_a_sweep_begins_in_the_first_state(world: World) -> None:
    sweep = {name: value for name, value in ONCE.items() if name != "id"}
    answer = world.ask("x-fault-sweep", id="s", **sweep)
    for at in range(5):
        assert answer["nth"] == at + 1
        assert world.writes() == "".join("X" if at == n else "." for n in range(5))
        answer = world.ask("x-fault-sweep", id="s")
    world.writes()
    assert world.ask("x-fault-sweep", id="s") == {"id": "s", "fired": False, "seen": 5}


CHANGES = (StateChange(event=BlkdebugEvent.PWRITEV, state=1, new_state=2),)

CONFIGURED: dict[str, Callable[[FaultInjector], None]] = {
    "rules": lambda injector: injector.load([fail(id="c", state=7)], ()),
    "changes": lambda injector: injector.load((), CHANGES),
    "both": lambda injector: injector.load([fail(id="c", state=7)], CHANGES),
}


@pytest.mark.parametrize("load", CONFIGURED.values(), ids=list(CONFIGURED))
def test_the_configuration_of_a_node_keeps_the_state(
    load: Callable[[FaultInjector], None], world: World
) -> None:
    """It goes with x-fault-clear only, and then all of it goes."""
    injector = world.disk.injector()
    load(injector)
    world.ask("x-fault-add", **ONCE)
    world.writes()
    world.ask("x-fault-remove", id="a")
    assert injector.state == 2
    world.ask("x-fault-clear")
    assert (injector.state, injector.changes_state, injector.rules) == (1, False, [])
    world.writes()
    assert injector.state == 1
