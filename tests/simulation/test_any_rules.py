# SPDX-License-Identifier: MIT
"""Any rules, whatever they do: nothing hangs for ever, and without them all is well again."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import fields
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from blockcore.bql.asker import Asker
from blockcore.commands.faults import x_fault_add, x_fault_clear, x_fault_modify, x_query_faults
from blockcore.faults.changes import CHANGES
from blockcore.faults.kinds import FAULT_OPTIONS, KINDS
from blockcore.faults.options import FaultOptions
from blockcore.machine.machine import Machine
from blockcore.nodes.driver import NodeOptions
from blockcore.qapi.names import FaultIOType, QmpError
from blockcore.qapi.schema import parse
from sim import MemoryNode, Sim, add_node, new_machine

BLOCK = 4096
BLOCKS = 6
SIZE = BLOCK * BLOCKS
EXAMPLES = 30

PLACES = st.integers(0, SIZE - 1)

OWN: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "error": {"errno": st.sampled_from(["EIO", "ENOSPC", 0])},
    "delay": {
        "delay-ms": st.integers(0, 50),
        "jitter-ms": st.integers(0, 50),
        "distribution": st.sampled_from(["fixed", "uniform", "normal", "pareto"]),
    },
    "hang": {"hang-ms": st.integers(0, 50), "errno": st.sampled_from([0, "EIO"])},
    "torn": {
        "keep": st.sampled_from(["prefix", "suffix", "random"]),
        "sectors": st.integers(0, 9),
        "errno": st.sampled_from([0, "EIO"]),
    },
    "badblock": {"block-size": st.sampled_from([0, 512, 1000, BLOCK])},
    "misdirect": {"by": st.integers(-SIZE, SIZE)},
    "corrupt": {
        "how": st.sampled_from(["flip", "zero", "random", "stale"]),
        "bits": st.integers(0, 9),
        "at": PLACES,
        "value": st.integers(0, 256),
        "medium": st.booleans(),
    },
}
"""The members that only one kind has, each with its values, wrong ones among them."""

COMMON: dict[str, st.SearchStrategy[Any]] = {
    "iotype": st.lists(st.sampled_from([str(kind) for kind in FaultIOType]), max_size=3),
    "offset": PLACES,
    "length": st.integers(0, SIZE),
    "sector": st.integers(-1, SIZE // 512),
    "count": st.integers(0, 3),
    "once": st.booleans(),
    "after": st.integers(0, 2),
    "every": st.integers(0, 3),
    "rate": st.sampled_from([0, 0.5, 1]),
    "not-before-ms": st.integers(0, 40),
    "not-after-ms": st.integers(0, 80),
    "up-ms": st.integers(0, 20),
    "down-ms": st.integers(0, 20),
    "event": st.sampled_from(["none", "pwritev", "pwritev_done", "read_aio"]),
    "state": st.integers(0, 2),
    "new-state": st.integers(0, 2),
    "while-file": st.sampled_from(["/", "/nowhere", "nowhere"]),
    "fua": st.booleans(),
    "origin": st.sampled_from(["any", "guest", "job"]),
    "connection": st.integers(0, 3),
    "notify": st.booleans(),
}

HARMLESS = ("error", "delay", "hang", "badblock", "readonly", "disconnect")
"""Actions after which the medium has exactly what was told as written; `corrupt`, too, mostly."""


@st.composite
def rules(draw: st.DrawFn, actions: list[str]) -> dict[str, Any]:
    action = draw(st.sampled_from(actions))
    possible = COMMON | OWN.get(action, {})
    names = draw(st.sets(st.sampled_from(sorted(COMMON)), max_size=2))
    if own := OWN.get(action):
        names |= draw(st.sets(st.sampled_from(sorted(own))))
    return {"action": action, **{name: draw(possible[name]) for name in sorted(names)}}


Operation = tuple[str, int, int, int]
"""A kind of request, its offset and length, and with which bytes it writes."""

OPERATIONS = st.tuples(
    st.sampled_from(["read", "write", "fua", "zero", "discard", "flush", "connect"]),
    st.integers(0, SIZE - 1), st.integers(1, 3 * BLOCK), st.integers(1, 3),
)


class World:
    """A disk of a machine, and who sends requests to it: a guest's connection, or a job (0)."""

    def __init__(self, seed: int, asking: int = 0) -> None:
        self.sim = Sim(seed)
        self.machine: Machine = new_machine(self.sim)
        self.disk = MemoryNode(NodeOptions(node_name="disk"), self.machine, SIZE)
        add_node(self.machine, self.disk)
        self.machine.asker = lambda: Asker(asking)
        self.told = bytearray(SIZE)
        self.disk.data[:] = self.told
        self.open = 0

    def arm(self, members: dict[str, Any]) -> str | None:
        """Add a rule, and return its id, or None if it is refused; then there is none."""
        before = len(x_query_faults(self.machine))
        try:
            named = {name: value for name, value in members.items() if value != []}
            options = parse(FAULT_OPTIONS, {"node-name": "disk", **named})
            made = x_fault_add(self.machine, options=options).id
        except QmpError as exc:
            assert len(x_query_faults(self.machine)) == before
            assert "'" in exc.desc, "names no member"
            return None
        assert len(x_query_faults(self.machine)) == before + 1
        return made

    async def carry_out(self, kind: str, offset: int, length: int, number: int) -> int:
        """Carry out a request, tell the model what was told of it, and return its errno."""
        length = min(length, SIZE - offset)
        data = bytes([number]) * length
        asked: Callable[[], Coroutine[Any, Any, Any]] = {
            "read": lambda: self.disk.pread(offset, memoryview(bytearray(length))),
            "write": lambda: self.disk.pwrite(offset, memoryview(data)),
            "fua": lambda: self.disk.pwrite(offset, memoryview(data), fua=True),
            "zero": lambda: self.disk.zero(offset, length, may_unmap=True),
            "discard": lambda: self.disk.discard(offset, length),
            "flush": self.disk.flush,
            "connect": self.disk.connect,
        }[kind]
        self.open += 1
        try:
            await asked()
        except OSError as exc:
            if kind == "fua" and self.disk.data[offset : offset + length] == data:
                # Only the flush has failed.
                self.told[offset : offset + length] = data
            return exc.errno or -1
        finally:
            self.open -= 1
        if kind in ("write", "fua"):
            self.told[offset : offset + length] = data
        elif kind in ("zero", "discard"):
            self.told[offset : offset + length] = bytes(length)
        return 0

    def start(self, operation: Operation) -> None:
        async def guest() -> None:
            await self.carry_out(*operation)

        self.sim.start("guest", guest())

    def clear(self) -> None:
        with self.machine.region():
            x_fault_clear(self.machine)
        self.sim.run()

    def is_healthy(self) -> bool:
        """Write and read everything, as nobody could with a rule."""
        outcomes: list[int] = []

        async def check() -> None:
            writes = [("fua", at * BLOCK, BLOCK, at + 1) for at in range(BLOCKS)]
            for operation in (*writes, ("flush", 0, 1, 1), ("connect", 0, 1, 1)):
                outcomes.append(await self.carry_out(*operation))  # noqa: PERF401

        self.sim.start("check", check())
        self.sim.run()
        wanted = b"".join(bytes([at + 1]) * BLOCK for at in range(BLOCKS))
        return outcomes == [0] * (BLOCKS + 2) and bytes(self.disk.data) == wanted


def test_every_member_is_tried() -> None:
    common = {field.name.replace("_", "-") for field in fields(FaultOptions)}
    assert common == COMMON.keys() | {"node-name", "id", "action", "immediately"}
    for action, kind in KINDS.items():
        own = {field.name.replace("_", "-") for field in fields(kind)} - common
        assert own == OWN.get(action, {}).keys()


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.integers(0, 1 << 32), st.integers(0, 3),
    st.lists(rules([*KINDS, *["hang"] * 3]), min_size=3, max_size=6),
    st.lists(OPERATIONS, min_size=5, max_size=12),
)
def test_nothing_hangs_when_the_rules_are_gone(
    seed: int, asking: int, armed: list[dict[str, Any]], operations: list[Operation]
) -> None:
    world = World(seed, asking)
    for members in armed:
        world.arm(members)
    for operation in operations:
        world.start(operation)
    world.sim.run()
    hanging = sum(rule.hanging or 0 for rule in x_query_faults(world.machine))
    assert world.open == hanging
    world.clear()
    assert world.open == 0 and x_query_faults(world.machine) == []
    assert world.is_healthy()


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.integers(0, 1 << 32), st.integers(0, 3),
    st.lists(rules([*HARMLESS, "corrupt"]).filter(lambda rule: not rule.get("medium")), min_size=3,
             max_size=6),
    st.lists(OPERATIONS, min_size=5, max_size=12),
)
def test_the_medium_has_what_was_told(
    seed: int, asking: int, armed: list[dict[str, Any]], operations: list[Operation]
) -> None:
    """One request after the other; what failed was not carried out."""
    world = World(seed, asking)
    for members in armed:
        world.arm(members)
    for operation in operations:
        world.start(operation)
        world.sim.run()
        for _ in range(2):  # a write with FUA may hang once more, as a flush
            with world.machine.region():
                for _, rule in world.machine.find.fault_rules():
                    rule.state.release()
            world.sim.run()
        assert world.open == 0
    world.clear()
    assert bytes(world.disk.data) == bytes(world.told)
    assert world.is_healthy()


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(rules(list(KINDS)), min_size=1, max_size=4), rules(list(KINDS)))
def test_a_refused_change_leaves_the_rule(
    armed: list[dict[str, Any]], change: dict[str, Any]
) -> None:
    world = World(0)
    ids = [made for members in armed if (made := world.arm(members)) is not None]
    if not ids:
        return
    before = x_query_faults(world.machine)
    named = {name: value for name, value in change.items() if value != []}
    try:
        x_fault_modify(world.machine, changes=parse(CHANGES, {"id": ids[0], **named}))
    except QmpError:
        after = x_query_faults(world.machine)
        assert [vars(rule) for rule in after] == [vars(rule) for rule in before]
        return
    (changed,) = (rule for rule in x_query_faults(world.machine) if rule.id == ids[0])
    assert changed.action == change["action"]


def test_a_rule_of_each_kind_can_be_armed() -> None:
    world = World(0)
    least: dict[str, dict[str, Any]] = {
        "delay": {"delay-ms": 1}, "misdirect": {"by": BLOCK}, "set-state": {"event": "pwritev"},
    }
    for action in KINDS:
        assert world.arm({"action": action, **least.get(action, {})})
    assert len(x_query_faults(world.machine)) == len(KINDS)
