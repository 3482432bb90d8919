# SPDX-License-Identifier: MIT
"""x-fault-sweep: each matching request is hit in a round of its own, for each kind of fault."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from blockcore.faults.kinds import KINDS
from blockcore.faults.rule import FaultRule
from blockcore.nodes.driver import NodeOptions
from blockcore.qapi.names import QmpError
from sim import MemoryNode, Sim, add_drive, execute, new_machine, number_of, perform

BLOCK = 4096
BLOCKS = 4


OTHERS = {"delay", "hang", "disconnect", "set-state"}
"""Kinds that need a client which waits (`test_what_hangs_goes_on`) or is cut off, or no request."""


class World:
    """A disk in memory, with a drive on it."""

    def __init__(self) -> None:
        self.machine = new_machine(Sim(0))
        self.disk = MemoryNode(NodeOptions(node_name="disk"), self.machine, BLOCKS * BLOCK)
        add_drive(self.machine, self.disk)

    def sweep(self, **arguments: Any) -> dict[str, Any]:
        reply = perform(execute(self.machine, "x-fault-sweep", **arguments))
        assert isinstance(reply, dict)
        return reply

    def rules(self) -> list[dict[str, Any]]:
        found = perform(execute(self.machine, "x-query-faults"))
        assert isinstance(found, list)
        return found

    def work(self) -> list[int]:
        """Read each block and write to it, and flush; return the errno of each request."""
        outcomes = []
        for at in range(0, BLOCKS * BLOCK, BLOCK):
            outcomes.append(number_of(self.disk.pread(at, memoryview(bytearray(BLOCK)))))
            data = memoryview(bytearray(b"2" * BLOCK))
            outcomes.append(number_of(self.disk.pwrite(at, data)))
        return [*outcomes, number_of(self.disk.flush())]


@pytest.fixture(name="world")
def _world() -> World:
    return World()


def test_a_hit_ends_the_search_unless_a_sweep_has_to_know(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a thousand rules those behind the one that hits cost a request nothing."""
    asked: list[str | None] = []
    concerns = FaultRule.concerns

    def counted(rule: FaultRule, *request: Any) -> bool:
        asked.append(rule.options.id)
        return concerns(rule, *request)

    monkeypatch.setattr(FaultRule, "concerns", counted)
    for id in "abc":
        perform(execute(world.machine, "x-fault-add", node_name="vda", id=id))
    assert number_of(world.disk.pread(0, memoryview(bytearray(BLOCK)))) == errno.EIO
    assert asked == ["a"]
    world.sweep(node_name="vda", id="s", iotype="read")
    asked.clear()
    assert number_of(world.disk.pread(0, memoryview(bytearray(BLOCK)))) == errno.EIO
    assert asked == ["a", "s"]


def test_each_request_is_hit_in_a_round_of_its_own(world: World) -> None:
    answer = world.sweep(node_name="vda", id="s", iotype="write", errno=28)
    assert answer == {"id": "s", "nth": 1}
    failed = []
    while "nth" in answer:
        outcomes = world.work()
        failed.append([at for at, number in enumerate(outcomes) if number])
        answer = world.sweep(id="s")
    assert failed == [[1], [3], [5], [7], []]
    assert answer == {"id": "s", "fired": False, "seen": BLOCKS}
    assert world.rules() == []


@pytest.mark.parametrize("action", sorted(KINDS.keys() - OTHERS))
def test_any_kind_of_fault(action: str, world: World) -> None:
    more = {"misdirect": {"by": BLOCK}}.get(action, {})
    iotype = "read" if action in ("corrupt", "badblock") else "write"
    answer = world.sweep(node_name="disk", action=action, iotype=iotype, **more)
    rounds = 0
    while "nth" in answer:
        world.work()
        rounds += 1
        answer = world.sweep(id=answer["id"])
        assert answer["fired"] == (rounds <= BLOCKS)
    assert rounds == BLOCKS + 1


def test_the_one_that_is_asked_for(world: World) -> None:
    """Rounds may have machines of their own: then each is told its Nth."""
    assert world.sweep(node_name="vda", id="s", iotype="write", nth=3) == {"id": "s", "nth": 3}
    assert [at for at, number in enumerate(world.work()) if number] == [5]
    assert world.sweep(id="s", nth=3) == {"id": "s", "nth": 3, "fired": True, "seen": 3}
    assert world.sweep(id="s", nth=1) == {"id": "s", "nth": 1, "fired": False, "seen": 0}
    (rule,) = world.rules()
    assert (rule["after"], rule["count"], rule["seen"], rule["hits"]) == (0, 1, 0, 0)


def test_a_round_may_change_the_fault(world: World) -> None:
    world.sweep(node_name="vda", id="s", iotype="write", errno=28)
    world.sweep(node_name="disk", id="s", nth=2, iotype="read", errno=5)
    assert [number for number in world.work() if number] == [5]
    (rule,) = world.rules()
    assert (rule["iotype"], rule["errno"], rule["active"]) == ("read", 5, False)


def test_a_rule_keeps_its_place(world: World) -> None:
    """The first rule that fits decides, in each round."""
    world.sweep(node_name="vda", id="s", iotype="write", errno=28)
    perform(execute(world.machine, "x-fault-add", node_name="vda", id="other", iotype="write"))
    assert world.work()[:4] == [0, 28, 0, 5]
    world.sweep(id="s", nth=1)
    assert [rule["id"] for rule in world.rules()] == ["s", "other"]
    assert world.work()[:4] == [0, 28, 0, 5]


def test_a_round_remembers_nothing_of_the_one_before(world: World) -> None:
    world.sweep(node_name="vda", id="s", action="torn", keep="random", sectors=4, errno=0)
    world.work()
    first = bytes(world.disk.data)
    world.disk.data[:] = bytes(len(first))
    world.sweep(id="s", nth=1)
    world.work()
    assert world.disk.data == first
    world.disk.data[:] = bytes(len(first))
    world.work()
    assert world.disk.data == b"2" * len(first)


def test_a_rule_that_hits_one_request_can_be_swept(world: World) -> None:
    perform(execute(world.machine, "x-fault-add", node_name="vda", id="f", after=1, count=1))
    world.work()
    assert world.sweep(id="f") == {"id": "f", "nth": 3, "fired": True, "seen": 2}


def test_what_hangs_goes_on() -> None:
    sim = Sim(0)
    machine = new_machine(sim)
    disk = MemoryNode(NodeOptions(node_name="disk"), machine, BLOCK)
    add_drive(machine, disk)
    perform(execute(machine, "x-fault-sweep", node_name="disk", id="s", action="hang"))
    sim.start("write", disk.pwrite(0, memoryview(bytearray(b"2" * BLOCK))))
    sim.run()
    assert disk.data[0] == 0
    answer: dict[str, Any] = {}

    async def advance() -> None:
        answer.update(await execute(machine, "x-fault-sweep", id="s"))

    sim.start("sweep", advance())
    sim.run()
    assert (answer["nth"], answer["fired"], disk.data[0]) == (2, True, ord("2"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Parameter 'node-name' is missing"),
        ({"id": "s"}, "Fault 's' not found"),
        ({"node_name": "m"}, "Cannot find device='m' nor node-name='m'"),
        ({"node_name": "vda", "nth": 0}, "Parameter 'nth' expects a value greater than zero"),
        ({"node_name": "vda", "after": 1}, "Parameter 'after' is unexpected"),
        ({"node_name": "vda", "rate": 0.5}, "Parameter 'rate' is unexpected"),
        ({"node_name": "vda", "by": 1}, "Parameter 'by' is unexpected"),
        (
            {"node_name": "vda", "action": "set-state", "event": "pwritev", "new_state": 2},
            "Parameter 'count' does not go with action 'set-state'",
        ),
        ({"node_name": "vda", "id": "1st"}, "Parameter 'id' expects an identifier"),
        ({"node_name": "vda", "errno": 0}, "Parameter 'errno' value 0 lets requests pass"),
        ({"node_name": "vda", "offset": 1 << 20}, "Parameter 'offset' is beyond the end"),
        ({"id": "many"}, "Fault 'many' is not made to hit one certain request"),
        ({"id": "one", "node_name": "far"}, "Fault 'one' is on node 'disk'"),
        (
            {"id": "one", "nth": 1, "action": "drop", "iotype": "read"},
            "Parameter 'iotype' value 'read'",
        ),
    ],
    ids=str,
)
def test_refusals_change_nothing(arguments: dict[str, Any], message: str, world: World) -> None:
    far = MemoryNode(NodeOptions(node_name="far"), world.machine, BLOCK)
    add_drive(world.machine, far, "vdb")
    perform(execute(world.machine, "x-fault-add", node_name="vda", id="many", count=2))
    perform(execute(world.machine, "x-fault-add", node_name="vda", id="one", count=1))
    before = world.rules()
    with pytest.raises(QmpError) as failed:
        world.sweep(**arguments)
    assert str(failed.value).startswith(message)
    assert world.rules() == before


def test_the_seed_is_told(world: World) -> None:
    seed = perform(execute(world.machine, "x-query-seed"))
    assert seed == {"seed": world.machine.seed}
