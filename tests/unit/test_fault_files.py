# SPDX-License-Identifier: MIT
"""Rules as the lines of a file: added all or none, saved, and loaded again."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcore.faults.fail import Fail
from blockcore.faults.injector import FaultInjector
from blockcore.faults.kinds import KINDS
from blockcore.faults.lines import parse_lines
from blockcore.faults.states import StateChange
from blockcore.nodes.definitions.blkdebug_config import parse_blkdebug_config
from blockcore.nodes.driver import NodeOptions
from blockcore.qapi.names import BlkdebugEvent, FaultIOType, QmpError
from faultline.presets import translate
from faultline.rule_lines import armed_line, lines, rule_line
from rules import Host
from sim import MemoryNode, Sim, add_drive, execute, new_machine, perform

SIZE = 1 << 20


class World:
    """A machine with the drive vda on the node disk."""

    def __init__(self) -> None:
        self.sim = Sim(1)
        self.machine = new_machine(self.sim)
        self.disk = MemoryNode(NodeOptions(node_name="disk"), self.machine, SIZE)
        add_drive(self.machine, self.disk)

    def load(self, *rules: str) -> list[str]:
        text = "".join(f"{rule}\n" for rule in rules)
        ids: list[str] = self.ask("x-fault-load", text=text)["ids"]
        return ids

    def ask(self, command: str, **arguments: Any) -> Any:
        return perform(execute(self.machine, command, **arguments))

    @property
    def rules(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("x-query-faults")
        return found

    def read(self, offset: int, length: int = 512) -> bytes | int:
        """What is read, or the errno."""
        buf = memoryview(bytearray(length))
        try:
            perform(self.disk.pread(offset, buf))
        except OSError as exc:
            return exc.errno or -1
        return bytes(buf)


@pytest.fixture(name="world")
def _world() -> World:
    return World()


def test_every_line_is_a_rule(world: World) -> None:
    ids = world.load(
        "# a comment",
        "vda,id=a,iotype=read,errno=ENOSPC,offset=64k",
        "",
        '  {"node-name": "disk", "action": "delay", "delay-ms": 5, "iotype": ["read", "write"]}\r',
        "vda,id=fault0",
        "vda",
    )
    assert ids == ["a", "fault1", "fault0", "fault2"]
    assert [rule["id"] for rule in world.rules] == ids
    assert world.read(65536) == 28


def test_a_rule_that_hits_nothing_is_told(world: World) -> None:
    rules = ["vda,state=2", "# a comment", "vda,rate=0", "vda,iotype=connect,action=hang"]
    reply = world.ask("x-fault-load", text=chr(10).join(rules))
    assert reply["warnings"] == [
        "line 1: 'state' 2 is set by no rule of node 'disk', which is in state 1",
        "line 3: 'rate' 0 spares every request",
    ]
    world.ask("x-fault-clear")
    changing = "vda,action=set-state,event=pwritev,new-state=2"
    assert "warnings" not in world.ask("x-fault-load", text=f"vda,state=2{chr(10)}{changing}")


REFUSALS = [
    (["vda,iotype=writes"], "line 1: Parameter 'iotype' does not accept value 'writes'"),
    (
        ["vda,iotype.0=read,iotype.1=wirte"],
        "line 1: Parameter 'iotype.1' does not accept value 'wirte'",
    ),
    (
        ['{"node-name": "vda", "iotype": ["read", "frob"]}'],
        "line 1: Parameter 'iotype[1]' does not accept value 'frob'",
    ),
    (["vda", "", "vda,colour=red"], "line 3: Parameter 'colour' is unexpected"),
    (["vda", "vda,errno"], "line 2: Expected '=' after parameter 'errno'"),
    (["vda", '{"node-name": "vda",'], "line 2: JSON parse error, "),
    (["vda", '{"node-name": "vda", "count": "1"}'], "line 2: Parameter 'count' expects uint64"),
    (["vda", "vda,count=0"], "line 2: Parameter 'count' expects a value greater than zero"),
    (["vda,id=a", "vda,id=a"], "line 2: Duplicate ID 'a' for fault"),
    (["vda", "vdb"], "line 2: Cannot find device='vdb' nor node-name='vdb'"),
    (["vda", "vda,offset=2M"], "line 2: Parameter 'offset' is beyond the end of node 'disk'"),
    (["vda", "vda,id=1st"], "line 2: Parameter 'id' expects an identifier"),
    (["iotype=read"], "line 1: Parameter 'node-name' is missing"),
    (["vda,while-file=a"], "line 1: Parameter 'while-file' expects the path of a file"),
    (["vda,action=set-state,new-state=2"], "line 1: Parameter 'event' is needed for action"),
    (
        ["vda,action=set-state,event=none,count=3"],
        "line 1: Parameter 'count' does not go with action 'set-state'",
    ),
    (["vda,action=badblock,block-size=1000"], "line 1: Parameter 'block-size' expects a power of"),
    (["vda,action=corrupt,at=3"], "line 1: Parameter 'at' is for 'how' byte"),
    (
        ["vda,action=corrupt,how=byte,value=256"],
        "line 1: Parameter 'value' expects a number from 0 to 255",
    ),
]


@pytest.mark.parametrize(("rules", "message"), REFUSALS, ids=[row[1] for row in REFUSALS])
def test_a_wrong_line_adds_nothing(world: World, rules: list[str], message: str) -> None:
    world.load("vda,id=before")
    with pytest.raises(QmpError) as info:
        world.load(*rules)
    assert info.value.desc.startswith(message), info.value.desc
    assert [rule["id"] for rule in world.rules] == ["before"]


COMMON = (
    "offset=4096,length=8192,count=3,after=1,every=2,rate=0.25,not-before-ms=5,not-after-ms=9,"
    "up-ms=3,down-ms=4,while-file=/a,,b c,state=1,new-state=2,event=pwritev,origin=guest"
)

OWN = {
    "error": "errno=ENOSPC,sector=7",
    "delay": "delay-ms=5,jitter-ms=2,distribution=pareto",
    "hang": "hang-ms=5,errno=EIO",
    "drop": "iotype.0=flush,iotype.1=write",
    "torn": "keep=random,sectors=3,errno=0",
    "misdirect": "by=-4096",
    "corrupt": "how=byte,at=3,value=7",
    "badblock": "block-size=4096",
    "set-state": "event=read_aio,state=1,new-state=3",
}

NEEDED = {"delay": ",delay-ms=5", "misdirect": ",by=512"}

SETS = [
    *(
        f"action={kind},{COMMON}{NEEDED.get(kind, '')}"
        for kind in KINDS
        if kind != "set-state"
    ),
    *(f"action={kind},{members}" for kind, members in OWN.items()),
    "action=corrupt,how=flip,bits=9,medium=on",
    "connection=5,once=on",
    "id=a-b,iotype.0=read,iotype.1=discard",
]


@pytest.mark.parametrize("rule", SETS)
def test_what_is_saved_is_loaded_again(rule: str) -> None:
    first, second = World(), World()
    first.load(f"vda,{rule}")
    second.load(lines(map(armed_line, first.rules)))
    assert second.rules == first.rules
    armed = [options for _, options in second.machine.find.fault_rules()]
    made = [options for _, options in first.machine.find.fault_rules()]
    for one, other in zip(armed, made, strict=True):
        assert same(one.options) == same(other.options)


def same(options: Any) -> dict[str, Any]:
    """The members of a rule, with `once` as the count that it is, and the node by its drive."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    if isinstance(values["iotype"], list):
        values["iotype"] = list(values["iotype"])
    return {**values, "count": options.hits_max, "once": False, "immediately": False}


@pytest.mark.parametrize(
    "name", ["vda", "#block12", "a,b", "a=b", "{x", " blank ", "new\nline", "ä"]
)
def test_any_name_can_be_in_a_line(name: str) -> None:
    text = lines([{"node-name": name, "iotype": ["read"], "while-file": "/a\nb"}, rule_line("x")])
    found = [line.options for line in parse_lines(text)]
    assert [options.node_name for options in found] == [name, "x"]
    assert found[0].while_file == "/a\nb" and found[0].iotype == ["read"]


def test_many_rules_are_added_at_once(world: World) -> None:
    """Shortcuts are looked for once, not once for each."""
    changes: list[int] = []
    host = world.disk.injector()._host
    changed = host.concerns_changed
    def told() -> None:
        changes.append(1)
        changed()

    world.disk.injector()._host = Told(host, told)
    text = "".join(f"{number}\n" for number in range(0, 2000, 2))
    ids = world.load(*lines(translate("dm-dust", text, "vda")).splitlines())
    assert len(ids) == 1000 and len(changes) == 1
    assert [world.read(number * 512) for number in (0, 998, 1998)] == [5, 5, 5]
    assert world.read(999 * 512) == bytes(512)


class Told:
    """A rules' host, beside which somebody is told."""

    def __init__(self, host: Any, told: Any) -> None:
        self._host, self.concerns_changed = host, told

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)


def test_a_rule_of_a_file(world: World, tmp_path: Path) -> None:
    """It hits while there is the file, whatever it was before, and counts only then."""
    trigger = tmp_path / "trigger"
    world.load(f"vda,id=f,iotype=read,length=4096,while-file={trigger}", "vda,action=drop")
    found = [world.read(0)]
    trigger.touch()
    found += [world.read(0), world.read(8192)]
    trigger.unlink()
    found.append(world.read(0))
    assert found == [bytes(512), 5, bytes(512), bytes(512)]
    assert (world.rules[0]["seen"], world.rules[0]["hits"]) == (1, 1)
    trigger.mkdir()
    assert world.read(0) == 5
    world.ask("x-fault-remove", id="f")
    assert world.read(0) == bytes(512)


def test_dm_flakey_goes_up_and_down(world: World) -> None:
    world.load(*lines(translate("dm-flakey", "0 2048 flakey 8:16 0 3 2", "vda")).splitlines())
    found = []
    for _ in range(10):
        found.append(world.read(0) == 5)
        world.sim.now_ns += 1_000_000_000
    assert found == [False, False, False, True, True] * 2


CONFIG = """
[inject-error]
event = "read_aio"
state = "2"
errno = "5"

[inject-error]
event = "write_aio"
errno = "ENOSPC"
once = "on"

[set-state "a"]
event = "write_aio"
state = "1"
new_state = "2"

[set-state]
event = "write_aio"
state = "1"
new_state = "9"

[set-state]
event = "flush_to_os"
new_state = "1"
"""

EVENTS = [BlkdebugEvent(name) for name in ("read_aio", "write_aio", "flush_to_os")]


@given(st.lists(st.sampled_from(EVENTS), max_size=12))
def test_a_file_of_blkdebug_is_as_its_node(events: list[BlkdebugEvent]) -> None:
    errors, changes = parse_blkdebug_config(CONFIG)
    node, rules = FaultInjector(Host()), FaultInjector(Host())
    node.load(
        [Fail(node_name="n", **{f.name: getattr(e, f.name) for f in fields(e)}) for e in errors],
        [StateChange(event=c.event, state=c.state, new_state=c.new_state) for c in changes],
    )
    text = lines(translate("blkdebug", CONFIG, "n"))
    rules.add_all([replace(line.options, id=f"f{line.number}") for line in parse_lines(text)])
    for event in events:
        node.event(event)
        rules.event(event)
        hits = [one.check(FaultIOType.READ, 0, 512) for one in (node, rules)]
        options = [None if hit is None else same(replace(hit.options, id="f")) for hit in hits]
        assert options[0] == options[1] and node.state == rules.state


def test_a_change_of_state_is_a_rule(world: World) -> None:
    """It counts its changes, is changed and removed as others, and keeps its place."""
    world.load(
        "vda,id=a,action=set-state,event=pwritev,state=1,new-state=2",
        "vda,id=b,action=set-state,event=pwritev,new-state=3",
        "vda,iotype=read,state=3",
    )
    found = []

    def write() -> None:
        perform(world.disk.pwrite(0, memoryview(bytearray(512))))
        found.append(world.disk.injector().state)

    write()
    write()
    assert world.read(0) == 5
    world.ask("x-fault-modify", id="a", state=3)
    write()
    world.ask("x-fault-remove", id="a")
    write()
    assert found == [2, 3, 2, 3]
    assert [rule["hits"] for rule in world.rules] == [2, 1]
    world.ask("x-fault-clear")
    write()
    assert found[-1] == 1 and not world.disk.injector().changes_state


def test_a_block_heals_as_a_whole(world: World) -> None:
    world.load("vda,action=badblock,offset=512,length=8192,block-size=4096")
    assert [world.read(at) for at in (0, 512, 4096, 8192)] == [bytes(512), 5, 5, 5]
    perform(world.disk.pwrite(4096, memoryview(bytearray(512))))
    assert world.read(512, 4096) == bytes(4096)
    assert [world.read(at) for at in (4608, 8192)] == [5, 5]
    perform(world.disk.pwrite(0, memoryview(bytearray(512))))
    perform(world.disk.pwrite(8704, memoryview(bytearray(512))))
    assert [world.read(at) for at in (4608, 8192)] == [5, 5]
    perform(world.disk.discard(8192, 1024))
    assert world.read(0, 9216) == bytes(9216)
    world.ask("x-fault-clear")
    world.load("vda,action=badblock,offset=100,length=1000")
    perform(world.disk.pwrite(100, memoryview(bytearray(50))))
    assert [world.read(at) for at in (0, 512, 1024)] == [bytes(512), 5, 5]


def test_one_byte_is_set(world: World) -> None:
    """Of each request, within the rule's range; the medium keeps what was written."""
    world.disk.data[:] = b"1" * SIZE
    world.load("vda,id=f,action=corrupt,how=byte,at=3,value=7,offset=0,length=4096")
    assert world.read(0) == b"111\7" + b"1" * 508
    assert world.read(1024) == b"111\7" + b"1" * 508
    assert world.read(4094) == b"1" * 512
    assert world.read(8192) == b"1" * 512
    world.ask("x-fault-clear")
    assert world.read(0) == b"1" * 512
    world.load("vda,id=g,action=corrupt,how=byte,value=0")
    places = set()
    for _ in range(50):
        data = world.read(0)
        assert isinstance(data, bytes) and data.count(0) == 1
        places.add(data.index(0))
    assert len(places) > 10
    world.ask("x-fault-clear")
    world.load("vda,action=corrupt,how=byte,at=0,value=65,medium=on")
    perform(world.disk.pwrite(512, memoryview(bytearray(b"2" * 512))))
    assert world.disk.data[510:515] == b"11A22"
